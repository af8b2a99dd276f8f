"""What plain methods make of the teachers' tasks: linear models, nearest neighbours, bags of words."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .datasets import Pictures


def linear_pixels(train: Pictures, test: Pictures, penalty: float = 1e-4, rounds: int = 60) -> float:
    """Return the test accuracy of multinomial logistic regression on pixels.

    Full-batch L-BFGS on the mean cross-entropy plus `penalty / 2` times the squared weights: about 30 s
    for all of Fashion-MNIST.
    """
    classes = int(train.labels.max()) + 1
    x, test_x = (_standard(data.images, train.images) for data in (train, test))  # (pictures, pixels)
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=rounds, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight + bias, train.labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return _share((test_x @ weight + bias).argmax(1), test.labels)


@torch.no_grad()
def nearest_neighbours(train: Pictures, test: Pictures, neighbours: int = 5, batch: int = 500) -> float:
    """Return the test accuracy of the vote of the nearest pictures, by Euclidean distance of pixels.

    Ties go to the lower class. `test * train * pixels` multiplications: about 20 s for all of Fashion-MNIST.
    """
    if not 1 <= neighbours <= len(train.images):
        raise ValueError(
            f"{neighbours} neighbours among {len(train.images)} pictures were asked for: 1 ... all are there."
        )
    classes = int(train.labels.max()) + 1
    known = train.images.flatten(1).float() / 255
    length = known.square().sum(1)
    named = []
    for images in test.images.split(batch):
        asked = images.flatten(1).float() / 255
        # The asked picture's own length does not change the order.
        nearest = (length - 2 * asked @ known.T).topk(neighbours, largest=False).indices  # (batch, neighbours)
        votes = torch.nn.functional.one_hot(train.labels[nearest], classes).sum(1)
        named.append(votes.argmax(1))
    return _share(torch.cat(named), test.labels)


def tfidf(
    train: Sequence[str], labels: Tensor, test: Sequence[str], words: int = 1, inverse_penalty: float = 1.0
) -> Tensor:
    """Return the classes that TF-IDF and logistic regression name for `test`, (texts,).

    Sublinear term frequencies of runs of up to `words` words seen in at least two texts; scikit-learn's
    defaults otherwise, with `inverse_penalty` its `C`. About 10 s for all training windows with `words=1`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(train) != len(labels):
        raise ValueError(f"{len(train)} texts and {len(labels)} labels were given: each text needs one.")
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, words))
    features = vectorizer.fit_transform(train)
    model = LogisticRegression(C=inverse_penalty, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(features, labels.numpy())
    return torch.from_numpy(model.predict(vectorizer.transform(test)))


def _standard(images: Tensor, reference: Tensor) -> Tensor:
    """Pixels as numbers about zero: the reference's mean picture taken off, one scale for all pixels."""
    return (images.flatten(1).float() - reference.flatten(1).float().mean(0)) / 80


def _share(named: Tensor, labels: Tensor) -> float:
    return float((named == labels).float().mean())
