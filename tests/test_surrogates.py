import pytest
import torch

from pdelens import DataError, agreement, datasets, models, surrogates

NAMES = [surrogate.name for surrogate in surrogates.SURROGATES]


@pytest.mark.parametrize("name", NAMES)
def test_committed_surrogates_are_of_the_committed_teacher(name):
    pde, made = surrogates.load(name)
    teacher, about = models.teacher(made["teacher"])
    assert made["teacher_test_accuracy"] == about["test_accuracy"], "calibrated to another teacher: run `make train`"
    declared = next(surrogate for surrogate in surrogates.SURROGATES if surrogate.name == name)
    assert made["job"]["equation"] == str(declared.build()) == str(pde)
    assert made["plan"]["steps"] == made["step"] == surrogates.STEPS[made["scale"]]
    blocks = sum(p.numel() for p in teacher.blocks.parameters())
    modes = declared.equation["temporal_modes"]
    assert sum(p.numel() for p in pde.parameters()) <= 0.17 * modes * blocks


def test_aligned_heads_are_the_same_heads_in_one_order():
    teacher, _ = models.teacher()
    pictures = datasets.fashion_mnist_subset("heldout").images[:32]
    plain, aligned = (
        surrogates.aligned_flow(teacher, pictures, [torch.arange(4)] * 6),
        surrogates.aligned_flow(teacher, pictures),
    )
    for before, after in zip(plain.attention, aligned.attention, strict=True):
        # Every head is there once, and the mean over heads (all that the layer can know) is the same.
        same = (before.unsqueeze(2) - after.unsqueeze(1)).abs().amax((0, 3, 4)) == 0
        assert same.sum(0).tolist() == [1] * 4 and same.sum(1).tolist() == [1] * 4

    def alike(flow):
        pairs = zip(flow.attention[:-1], flow.attention[1:], strict=True)
        return sum(float(agreement.cosine(a, b).mean()) for a, b in pairs)

    assert alike(aligned) >= alike(plain)


def test_calibration_is_resumable_and_complete_ones_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(surrogates, "fashion_mnist", lambda train: datasets.fashion_mnist_subset("calibration"))
    monkeypatch.setitem(surrogates.STEPS, "smoke", 2)
    first = surrogates.SURROGATES[0]
    path = surrogates.calibrate(first, tmp_path, "smoke")
    _, made = surrogates.load(first.name, path)
    assert made["step"] == 2 and made["scale"] == "smoke" and len(made["curve"]) == 2
    assert not list(tmp_path.glob("*.checkpoint.*"))
    before = path.read_bytes()
    surrogates.calibrate(first, tmp_path, "smoke")
    assert "is there already" in capsys.readouterr().out and path.read_bytes() == before
    path.write_bytes(before[:-100])
    with pytest.raises(DataError, match="is no surrogate"):
        surrogates.load(first.name, path)
