"""What a new user sees when something is missing: one sentence, with the cure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_one_list_of_packages():
    packages = environment.requirements()
    names = {package.split("==")[0] for package in packages}
    card = {"jupyter-book", "jupytext", "torch", "transformers", "torchvision", "seaborn", "papermill", "nbval"}
    assert card <= names and packages[-2:] == ["-e .", "-e ./book"]
    assert all("==" in package for package in packages[:-2])


def test_the_list_is_what_conda_reads():
    import yaml

    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert listed[-1]["pip"] == environment.requirements()


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_wrong_python_is_one_sentence(monkeypatch, capsys, version):
    monkeypatch.setattr(environment.sys, "version_info", version)
    with pytest.raises(SystemExit):
        environment.check_python()
    said = capsys.readouterr().err
    assert f"Python {version[0]}.{version[1]} was found, but 3.11 to 3.13 is needed" in said
    assert "make PYTHON=python3.12" in said and said.count("\n") == 1


def test_missing_ensurepip_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit):
        environment.check_python()
    said = capsys.readouterr().err
    assert "sudo apt install python3-venv" in said and said.count("\n") == 1


def test_unreachable_index_is_one_sentence(tmp_path, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SystemExit):
        environment.install(sys.executable, ["surely-not-installed==1.0"], str(tmp_path / "log"), "")
    said = capsys.readouterr().err
    assert "the package index could not be reached" in said and "PIP_INDEX_URL" in said and said.count("\n") == 1


def test_an_old_python_can_still_read_the_script():
    source = (ROOT / "book/tools/environment.py").read_text()
    compile(source, "environment.py", "exec")
    import ast

    ast.parse(source, feature_version=(3, 6))


def test_make_says_what_it_can_do():
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--nbval" in done.stdout


def test_every_benchmark_can_be_collected():
    """Benchmarks run on demand only, so nothing else would say that one no longer imports."""
    command = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(line for line in command.splitlines() if "bench_*.py" in line) + " --collect-only"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.name in done.stdout for path in (ROOT / "tests/benchmarks").glob("bench_*.py"))
