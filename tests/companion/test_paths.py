"""Where files lie, what is listed of them, and what is written whole or not at all."""

import hashlib
import os
import subprocess

import pytest

from companion import paths
from companion.paths import DataError


def test_a_digest_is_of_the_whole_file(tmp_path):
    content = os.urandom(300_001)
    (tmp_path / "a").write_bytes(content)
    assert paths.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_the_project_is_this_checkout_unless_told(tmp_path, monkeypatch):
    monkeypatch.delenv("PDELENS_ROOT", raising=False)
    assert (paths.root() / "book/companion/paths.py").samefile(paths.__file__)
    monkeypatch.setenv("PDELENS_ROOT", str(tmp_path))
    assert paths.root() == tmp_path and paths.results_folder() == tmp_path / "data" / "results"


def test_the_cache_is_in_the_home_unless_told_and_made_with_its_parents(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PDELENS_CACHE", raising=False)
    assert paths.cache_folder() == tmp_path / ".cache/pdelens" and paths.cache_folder().is_dir()
    monkeypatch.setenv("PDELENS_CACHE", str(tmp_path / "a/b"))
    assert paths.cache_folder() == tmp_path / "a/b" and (tmp_path / "a/b").is_dir()


def test_sums_are_added_and_those_of_files_that_are_gone_dropped(project_copy):
    data = project_copy / "data"
    (data / "deep").mkdir()
    for name in ("b.bin", "deep/a b.bin"):
        (data / name).write_bytes(name.encode())
    paths.write_checksums({name: paths.sha256(data / name) for name in ("b.bin", "deep/a b.bin")})
    lines = (data / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{paths.sha256(data / name)}  {name}" for name in ("b.bin", "deep/a b.bin")]
    assert paths.checksums() == {name: paths.sha256(data / name) for name in ("b.bin", "deep/a b.bin")}
    (data / "c.bin").write_bytes(b"c")
    (data / "b.bin").unlink()
    paths.write_checksums({"c.bin": "0" * 64})
    assert list(paths.checksums()) == ["c.bin", "deep/a b.bin"] and paths.checksums()["c.bin"] == "0" * 64
    (data / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="SHA256SUMS is missing: clone the project"):
        paths.checksums()
    paths.write_checksums({"c.bin": "1" * 64})
    assert paths.checksums() == {"c.bin": "1" * 64}
    (data / "SHA256SUMS").write_text(f"\n{'2' * 64}  c.bin\n\n")
    assert paths.checksums() == {"c.bin": "2" * 64}


def test_what_was_read_is_remembered_and_only_if_it_is_whole(project_copy, monkeypatch):
    data = project_copy / "data"
    (data / "a.bin").write_bytes(b"1")
    paths.write_checksums({"a.bin": paths.sha256(data / "a.bin")})
    monkeypatch.setattr(paths, "files_read", set())
    assert paths.data_file("a.bin") == data / "a.bin" and paths.files_read == {"a.bin"}
    paths.files_read.clear()
    (data / "a.bin").write_bytes(b"2")
    with pytest.raises(DataError, match="SHA256SUMS wants"):
        paths.data_file("a.bin")
    assert paths.files_read == set()


def test_a_text_is_replaced_whole_and_leaves_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "new" / "deep" / "a.txt"
    paths.replace_text(path, "one")
    assert path.read_text() == "one"
    monkeypatch.setattr(paths.Path, "replace", lambda self, to: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        paths.replace_text(path, "two")
    assert path.read_text() == "one" and [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_the_commit_is_gits_or_nothing(project_copy, monkeypatch):
    assert paths.commit() == "", "no repository"
    how = {"cwd": project_copy, "check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q"], **how)
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *settings, "commit", "-q", "--allow-empty", "-m", "x"], **how)
    clean = paths.commit()
    assert len(clean) >= 7 and set(clean) <= set("0123456789abcdef")
    (project_copy / "file").write_text("x")
    subprocess.run(["git", "add", "file"], **how)
    assert paths.commit() == f"{clean}-dirty"

    def none(*given, **how):
        raise FileNotFoundError

    monkeypatch.setattr(paths.subprocess, "run", none)
    assert paths.commit() == ""


def test_what_is_said_stands_aside_from_results(capsys):
    paths.say("a sentence")
    assert capsys.readouterr() == ("", "a sentence\n")


@pytest.mark.parametrize("scale", ["tiny", "", "BOOK"])
def test_scales_are_known_by_name(scale):
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        paths.refuse_unknown_scale(scale)
    for known in paths.SCALES:
        paths.refuse_unknown_scale(known)
