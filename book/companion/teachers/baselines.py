"""What plain methods make of the teachers' tasks: linear models, nearest neighbours, bags of words, runs of tokens."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.fashion_mnist import Pictures


def linear_pixels(train: Pictures, test: Pictures, penalty: float = 1e-4, rounds: int = 100) -> float:
    """Return the test accuracy of multinomial logistic regression on pixels.

    Mean cross-entropy plus `penalty / 2` times the squared weights, by `rounds` of L-BFGS; the mean picture is taken
    off, one scale for all pixels. About a minute for all of Fashion-MNIST.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, asked = (_standard(data.images, train.images).numpy() for data in (train, test))  # (pictures, pixels)
    model = LogisticRegression(C=1 / (penalty * len(x)), max_iter=rounds)
    with warnings.catch_warnings():
        # The last rounds change no digit that is shown.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, train.labels.numpy())
    return float(model.score(asked, test.labels.numpy()))


def nearest_neighbours(train: Pictures, test: Pictures, neighbours: int = 5) -> float:
    """Return the test accuracy of the vote of the nearest pictures, by Euclidean distance of pixels.

    Ties go to the lower class. About 20 s for all of Fashion-MNIST.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if not 1 <= neighbours <= len(train.images):
        raise ValueError(f"{neighbours} neighbours among {len(train.images)} were asked for: 1 ... all are there.")
    known, asked = (data.images.flatten(1).float().div(255).numpy() for data in (train, test))
    model = KNeighborsClassifier(neighbours, algorithm="brute").fit(known, train.labels.numpy())
    return float(model.score(asked, test.labels.numpy()))


def tfidf(
    train: Sequence[str], labels: Tensor, test: Sequence[str], words: int = 1, inverse_penalty: float = 1.0
) -> Tensor:
    """Return the classes that TF-IDF and logistic regression name for `test`, (texts,).

    Sublinear term frequencies of runs of up to `words` words seen in at least two texts; scikit-learn's defaults
    otherwise, with `inverse_penalty` its `C`. About 10 s for all training windows with `words=1`.
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


class _Runs(NamedTuple):
    """Runs of tokens as sorted keys (base `vocabulary`) with counts; their contexts, with totals and kinds of next."""

    keys: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor


def next_token(train: Tensor, test: Tensor, vocabulary: int, order: int = 2, discount: float = 0.75) -> float:
    r"""Return the cross-entropy (nats a token) of an interpolated Kneser-Ney model of runs of up to `order` tokens.

    $p(c\mid ab)=\frac{\max(n(abc)-\delta,0)}{n(ab)}+\frac{\delta\,|\{c'\}|}{n(ab)}\,p(c\mid b)$, where shorter runs
    are counted once for each token seen before them, down to the uniform distribution over the vocabulary. `train`
    and `test` (windows, length) hold tokens, 0 for padding; every token of `test` but a window's first is asked for.
    Memory and time are those of sorting all runs. Chen and Goodman 1999.

    >>> again = torch.tensor([[2, 3, 2, 3, 2, 3]] * 50)
    >>> next_token(again, again, vocabulary=4) < 0.1 < next_token(again, again, vocabulary=4, order=1)
    True
    """
    if order < 1 or vocabulary**order >= 2**63:
        raise ValueError(f"order {order} of {vocabulary} tokens was asked for: 1 or more, and runs within 63 bits.")
    runs = train.unfold(1, order, 1).flatten(0, 1)
    levels = [_counted(_keys(runs[(runs != 0).all(1)], vocabulary), vocabulary)]
    for length in range(order - 1, 0, -1):
        # A run counts once for each different token before it, not each time it occurs.
        levels.insert(0, _counted(levels[0].keys % vocabulary**length, vocabulary))
    total, number = 0.0, 0
    for at in range(1, test.shape[1]):
        seen = test[:, max(0, at + 1 - order) : at + 1]
        seen = seen[seen[:, -1] != 0]
        chance = torch.full((len(seen),), 1 / vocabulary, dtype=torch.float64)
        for length in range(1, seen.shape[1] + 1):
            level, key = levels[length - 1], _keys(seen[:, -length:], vocabulary)
            count = _look_up(level.keys, level.counts, key)
            all_, kinds = (_look_up(level.contexts, of, key // vocabulary) for of in (level.totals, level.kinds))
            mixed = ((count - discount).clamp_min(0) + discount * kinds * chance) / all_.clamp_min(1)
            chance = torch.where(all_ > 0, mixed, chance)
        total, number = total - float(chance.log().sum()), number + len(seen)
    return total / number


def _keys(runs: Tensor, vocabulary: int) -> Tensor:
    return (runs * vocabulary ** torch.arange(runs.shape[1] - 1, -1, -1)).sum(1)


def _counted(runs: Tensor, vocabulary: int) -> _Runs:
    keys, counts = runs.unique(return_counts=True)
    contexts, place, kinds = (keys // vocabulary).unique(return_inverse=True, return_counts=True)
    totals = torch.zeros(len(contexts), dtype=torch.float64).index_add_(0, place, counts.double())
    return _Runs(keys, counts.double(), contexts, totals, kinds.double())


def _look_up(keys: Tensor, values: Tensor, asked: Tensor) -> Tensor:
    place = torch.searchsorted(keys, asked).clamp_max(len(keys) - 1)
    return torch.where(keys[place] == asked, values[place], 0.0)


def _standard(images: Tensor, reference: Tensor) -> Tensor:
    """Pixels as numbers about zero: the reference's mean picture taken off, one scale for all pixels."""
    return (images.flatten(1).float() - reference.flatten(1).float().mean(0)) / 80
