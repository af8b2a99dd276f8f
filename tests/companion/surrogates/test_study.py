"""What studies share: jobs of what is there, digests of weights, records by part, means over the seeds that have it."""

import hashlib
import json
from dataclasses import dataclass

import pytest

from companion.jobs import Run
from companion.surrogates import candidates, study


@dataclass(frozen=True)
class Named:
    kind: str
    teacher: str

    @property
    def name(self):
        return f"x-{self.kind}-{self.teacher}"


def kinds():
    return [lambda teacher, kind=kind: Named(kind, teacher) for kind in ("a", "b")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "root", lambda: tmp_path)
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    return Run("book", tmp_path / "run")


def law(teacher):
    return candidates.equation_name(teacher, candidates.LAWS["three laws"])


def put(folder, *names):
    for name in names:
        (folder / f"{name}.safetensors").touch()


def test_jobs_are_of_teachers_that_are_there_with_their_law(run):
    assert study.jobs_of(kinds(), run) == []
    put(run.folder, "image-patch4-seed1", law("image-patch4-seed1"), "image-patch4-seed2", law("image-patch4-seed0"))
    put(run.folder.parent / "data" / "weights", "text-classifier-seed0", law("text-classifier-seed0"))
    found = [job.name for job in study.jobs_of(kinds(), run)]
    assert found == [f"x-{kind}-{name}" for kind in "ab" for name in ("text-classifier-seed0", "image-patch4-seed1")]
    assert [job.name for job in study.jobs_of(kinds(), run, "x-b-*,none")] == found[2:]
    assert len(study.names_of(kinds())) == len(set(study.names_of(kinds()))) == 12


def test_a_kind_waits_for_the_families_that_it_needs(run):
    waiting = lambda teacher: Named("w", teacher)  # noqa: E731
    waiting.needs = ("laws-k3-b1", "laws-blocks-b2")
    alone = lambda teacher: Named("n", teacher)  # noqa: E731
    alone.needs = ()
    for name in (f"image-patch4-seed{seed}" for seed in range(2)):
        put(run.folder, name, law(name), candidates.equation_name(name, "laws-k3-b1"))
    put(run.folder, "text-classifier-seed2", "rung-image-patch4-laws-blocks-b2-seed1")
    names = [job.name for job in study.jobs_of([alone], run)]
    assert names == ["x-n-image-patch4-seed0", "x-n-image-patch4-seed1", "x-n-text-classifier-seed2"]
    found = [job.name for job in study.jobs_of([*kinds(), waiting], run)]
    assert found == [*(f"x-{kind}-image-patch4-seed{seed}" for kind in "ab" for seed in range(2)),
                     "x-w-image-patch4-seed1"]  # fmt: skip


def test_other_seeds_go_round():
    assert [study.other_seed("text-classifier-seed1", step) for step in (1, 2, 3)] == [
        f"text-classifier-seed{seed}" for seed in (2, 0, 1)
    ]


def test_digests_are_of_the_files_that_are_there(run, monkeypatch):
    (run.folder / "one.safetensors").write_bytes(b"one")
    (run.folder / "law.safetensors").write_bytes(b"law")
    monkeypatch.setattr(study, "weights_of", lambda name, folder: folder / f"{name}.safetensors")
    assert study.weight_digests(["one"], ["law", "none"], run) == {
        "one": hashlib.sha256(b"one").hexdigest(), "law": hashlib.sha256(b"law").hexdigest(), "none": None,
    }  # fmt: skip


def test_records_by_part_and_over_the_seeds_that_have_them(tmp_path):
    for name, value in {"s-p-t-seed1": 2.0, "s-p-t-seed0": 1.0, "s-q-t-seed0": 5.0, "other-p-t-seed0": 9.0}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"v": value}}))
    found = study.gathered(tmp_path, "s")
    assert found == {"p": {"t-seed0": {"v": 1.0}, "t-seed1": {"v": 2.0}}, "q": {"t-seed0": {"v": 5.0}}}
    rows = study.of_teacher({**found["p"], "tt-seed0": {"v": 7.0}}, "t")
    assert [row["v"] for row in rows] == [1.0, 2.0]
    assert study.over([*rows, {}, {"v": None}], lambda row: row["v"]).seeds == (1.0, 2.0)
