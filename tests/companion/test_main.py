"""The command line: what it explains, what it refuses, and what it hands on."""

import re
from types import SimpleNamespace

import pytest

from companion import __main__, jobs
from companion.paths import DataError

PROGRAMS = ("fetch", "chapters", "train", "trials", "adopt", "list")
SCALED = ("chapters", "train", "trials", "adopt", "list")


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        __main__.main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_program_says_what_it_is_for(capsys):
    text = shown(capsys)
    for program in PROGRAMS:
        assert re.search(rf"^ +{program} +\S+ \S+", text, re.MULTILINE), program


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("chapters", ("chapter", "force", "check")),
        ("train", ("device", "only", "missing", "seeds", "stack", "minutes", "workers", "slurm")),
        ("trials", ("minutes", "workers", "slurm")),
        ("adopt", ("only",)),
        ("list", ("only",)),
    ],
)
def test_options_that_do_not_say_it_by_their_names_are_explained(capsys, program, options):
    text = " ".join(shown(capsys, program).split("options:")[1].split())
    entries = dict(re.findall(r"--([a-z]+)(.*?)(?= --|$)", text))
    for option in options:
        words = entries[option].replace(option.upper(), "").split()
        assert len(words) >= 3, f"{program} --{option}"


@pytest.mark.parametrize("program", SCALED)
def test_an_unknown_scale_is_refused_before_anything_runs(program, capsys, monkeypatch):
    monkeypatch.setattr(__main__, f"_run_{program}", lambda given: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        __main__.main([program, "--scale", "tiny"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "tiny" in said and all(scale in said.replace("'", "") for scale in ("smoke", "book", "full"))


def test_an_unknown_executor_and_a_missing_program_are_refused(capsys):
    for arguments in (["trials", "--executor", "cloud"], []):
        with pytest.raises(SystemExit) as ended:
            __main__.main(arguments)
        assert ended.value.code == 2
    assert "processes" in capsys.readouterr().err


@pytest.fixture
def handed(monkeypatch, tmp_path):
    """Record what programs hand on, instead of doing it."""
    calls = {}

    def run_of(scale, device="auto", minutes=None):
        calls["run"] = (scale, device, minutes)
        return jobs.Run(scale, tmp_path, device)

    def run_jobs(todo, run, **how):
        calls.setdefault("jobs", []).append(([job.name for job in todo], how))
        return calls.get("whole", True)

    monkeypatch.setattr(jobs, "run_of", run_of)
    monkeypatch.setattr(jobs, "run_jobs", run_jobs)
    return calls


def test_settings_of_a_run_are_handed_on(handed, monkeypatch):
    asked = ["--minutes", "2.5", "--workers", "3", "--executor", "slurm", "--slurm", "partition=gpu mem_gb=4"]
    monkeypatch.setattr("companion.estimators.trials.gather", lambda run: "here")
    how = {"workers": 3, "executor": "slurm", "settings": {"slurm_partition": "gpu", "mem_gb": 4}}
    __main__.main(["trials", "--scale", "smoke", *asked])
    assert handed["run"] == ("smoke", "cpu", 2.5)
    assert [given for _, given in handed["jobs"]] == [how]
    handed["jobs"].clear()
    __main__.main(["train", "--scale", "smoke", "--device", "cuda", *asked, "--only", "baselines"])
    assert handed["run"] == ("smoke", "cuda", 2.5)
    assert [given for _, given in handed["jobs"]] == [how, how]


def test_without_settings_it_is_the_book_here(handed, monkeypatch):
    monkeypatch.setattr("companion.estimators.trials.gather", lambda run: "here")
    __main__.main(["trials"])
    assert handed["run"] == ("book", "cpu", None)
    ((_, how),) = handed["jobs"]
    assert how == {"workers": None, "executor": "processes", "settings": {}}


def test_trials_are_gathered_once_they_are_whole(handed, monkeypatch, capsys):
    monkeypatch.setattr("companion.estimators.trials.gather", lambda run: "a/b.json")
    __main__.main(["trials", "--scale", "smoke"])
    assert "The results are in a/b.json." in capsys.readouterr().out
    handed["whole"] = False
    __main__.main(["trials", "--scale", "smoke"])
    assert capsys.readouterr().out == ""


def test_what_reads_teachers_waits_for_them(handed, monkeypatch):
    asked = []
    monkeypatch.setattr("companion.surrogates.sweep.sweep_jobs", lambda run, only, missing: asked.append(missing) or [])
    monkeypatch.setattr("companion.teachers.train.train_jobs", lambda run, *how: asked.append(how) or [])
    handed["whole"] = False
    __main__.main(["train", "--scale", "smoke"])
    assert len(handed["jobs"]) == 1 and asked == [("*", 5, None)]
    handed["whole"] = True
    __main__.main(["train", "--scale", "smoke", "--missing", "--seeds", "2", "--stack", "7", "--only", "stacking"])
    assert asked[1:] == [("stacking", 2, 7), True] and handed["jobs"][-1][0] == ["stacking"]
    __main__.main(["train", "--scale", "smoke", "--only", "baselines"])
    assert asked[-1] is False and "stacking" not in handed["jobs"][-1][0]


def test_what_reads_equations_waits_for_them(handed, monkeypatch):
    job = SimpleNamespace(name="dynamics-flow-one")
    monkeypatch.setattr("companion.studies.measured_jobs", lambda run, only: [job] * (only != "stacking"))
    whole = [True, False, *[True] * 8]
    monkeypatch.setattr(
        jobs, "run_jobs", lambda todo, run, **how: made.append([one.name for one in todo]) or whole.pop(0)
    )
    made = []
    __main__.main(["train", "--scale", "smoke", "--only", "baselines"])
    assert len(made) == 2, "the second part was not whole"
    made.clear()
    __main__.main(["train", "--scale", "smoke", "--only", "baselines"])
    assert made[2:] == [["dynamics-flow-one"]]
    made.clear()
    __main__.main(["train", "--scale", "smoke", "--only", "dynamics-flow-*"])
    assert [name for names in made for name in names] == ["dynamics-flow-one"]


def test_what_waits_for_weights_is_named(handed, monkeypatch, capsys, tmp_path):
    job, asked = SimpleNamespace(name="information-flow-edges-image-patch4-seed0"), []
    monkeypatch.setattr("companion.studies.measured_jobs", lambda run, only: asked.append(only) or there)
    there = [job]
    __main__.main(["train", "--scale", "smoke", "--only", "information-flow-edges-*-seed0"])
    said = capsys.readouterr().err
    assert "information-flow-edges-text-classifier-seed0 cannot be measured yet" in said and str(tmp_path) in said
    there = []
    with pytest.raises(SystemExit) as ended:
        __main__.main(["train", "--scale", "smoke", "--only", "information-flow-edges-*-seed0"])
    assert "information-flow-edges-image-patch4-seed0 and 1 more cannot be measured yet" in str(ended.value)
    # Where something else was done, or all of it, nothing has failed.
    __main__.main(["train", "--scale", "smoke", "--only", "baselines,information-flow-edges-image-patch4-seed0"])
    assert "cannot be measured" in capsys.readouterr().err
    there = [job]
    __main__.main(["train", "--scale", "smoke", "--only", job.name])
    assert capsys.readouterr().err == "" and len(asked) == 4
    # What fits comes too late where equations failed: they have said so.
    handed["whole"] = False
    __main__.main(["train", "--scale", "smoke", "--only", "baselines,information-flow-edges-image-patch4-seed0"])
    assert capsys.readouterr().err == "" and len(asked) == 4


def test_chapters_are_run_or_checked(monkeypatch):
    calls = []
    monkeypatch.setattr("companion.chapters.run_chapters", lambda *given, **how: calls.append((given, how)))
    monkeypatch.setattr("companion.inspection.check_chapters", lambda *given: calls.append(given))
    __main__.main(["chapters"])
    __main__.main(["chapters", "--chapter", "03", "--scale", "smoke", "--device", "cpu", "--force"])
    __main__.main(["chapters", "--check", "--chapter", "04", "--force"])
    assert calls == [(("", "book", "auto"), {"force": False}), (("03", "smoke", "cpu"), {"force": True}), ("04",)]


def test_fetch_and_adopt_take_names_or_what_pages_need(monkeypatch):
    calls = []
    monkeypatch.setattr("companion.fetch.fetch_all", lambda names: calls.append(list(names)))
    monkeypatch.setattr("companion.adopt.adopt", lambda *given: calls.append(given))
    __main__.main(["fetch"])
    __main__.main(["fetch", "one", "two"])
    __main__.main(["adopt", "--scale", "full", "--only", "a,b"])
    __main__.main(["adopt"])
    assert calls[:3] == [[], ["one", "two"], ("full", "a,b")]
    scale, patterns = calls[3]
    assert scale == "book" and "image-patch4-seed0" in patterns.split(",")[0].replace("?", "0")


@pytest.mark.parametrize("error", [DataError("no data."), RuntimeError("no luck."), ValueError("no such thing.")])
def test_what_a_person_can_mend_is_one_sentence(error, monkeypatch):
    def failing(names):
        raise error

    monkeypatch.setattr("companion.fetch.fetch_all", failing)
    with pytest.raises(SystemExit, match=f"^pdelens: {error}$"):
        __main__.main(["fetch"])


def test_settings_of_slurm_keep_their_equals_signs_and_leave_out_words():
    found = __main__._settings("comment=a=b slurm_qos=x word nodes=2 time=1:00")
    assert found == {"slurm_comment": "a=b", "slurm_qos": "x", "nodes": 2, "slurm_time": "1:00"}


def test_the_list_follows_its_patterns(capsys):
    __main__.main(["list", "--scale", "smoke", "--only", "stacking,image-patch4-seed0"])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["image-patch4-seed0", "stacking"]
