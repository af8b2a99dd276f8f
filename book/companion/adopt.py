"""Moves complete weights from where they were trained into `data/`, and lists them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pdelens import models

from . import studies
from .data.fashion_mnist import write_subset
from .data.splits import TOKENIZER, tokenizer_digest
from .estimators.results import FILE as TRIALS
from .jobs import run_of
from .paths import SCALES, DataError, replace_bytes, replace_text, root, sha256, write_checksums
from .surrogates import candidates, files, specs, store, sweep
from .teachers import comparisons, recipes, results, stacking_cost

COMMITTED = (*specs.COMMITTED, *candidates.COMMITTED)


def adopt(scale: str, only: str = ",".join(recipes.COMMITTED)) -> None:
    """Copy the complete weights of a scale into `data/weights` and list them in SHA256SUMS.

    Of the teachers those whose names fit `only`, and the calibrated equations that pages load (`COMMITTED`);
    with them the tokeniser, the trials of the estimators (`estimators.trials`), and the committed subset of pictures
    if it is not there. What is known of every teacher of the scale, and of the plain methods beside them, goes to
    `data/training.json`, what is known of every calibrated equation to `data/ladder.json` and `data/laws.json`, whether
    their weights are copied or not, and what the studies found to files of their own. Raises `DataError`
    where there are no weights, where they or the tokeniser are not those that their records are of, or where results of
    a larger scale would be replaced.
    """
    run = run_of(scale, "cpu")
    folder, data = run.folder, root() / "data"
    _refuse_smaller(scale, data)
    weights = [path for path in sorted(folder.glob("*.safetensors")) if ".checkpoint" not in path.name]
    trained = [one for one in weights if not _calibrated(one) and recipes.fits(one.stem, only.split(","))]
    calibrated = [one for one in weights if _calibrated(one) and one.stem in COMMITTED]
    parts = store.divided(store.gathered(folder)) | studies.gathered(folder)
    parts = {name: part for name, part in parts.items() if any(part.values())}
    if not (trained or calibrated or parts):
        raise DataError(
            f"no complete weights of _build/train/{scale} fit {only!r}: run `make train SCALE={scale}` first."
        )
    for path in trained + calibrated:
        made = files.load(path.stem, run)[1] if _calibrated(path) else models.load(path)[1]  # refuses another kind
        _refuse_changed(path, made)
    adopted = {}
    for path in trained + calibrated:
        adopted |= _copied(path, data, f"weights/{path.name}")
    for name, part in parts.items():
        # A part of which nothing was found here was made elsewhere, and stays.
        known = store.known(data / name)
        store.write(data / name, {**known, **store.added(known, part)})
        adopted[name] = sha256(data / name)
    for name in (TOKENIZER, TRIALS):
        if (folder / name).exists():
            adopted |= _copied(folder / name, data, name)
    replace_text(data / results.RECORDS, _histories(folder, data / results.RECORDS))
    adopted[results.RECORDS] = sha256(data / results.RECORDS)
    subset = data / "fashion-mnist-subset.safetensors"
    if not subset.exists():
        write_subset(subset)
    adopted[subset.name] = sha256(subset)
    write_checksums(adopted)
    print("Adopted: " + ", ".join(sorted(adopted)))


def _histories(folder: Path, known: Path) -> str:
    """Return what is known of all training: this scale's teachers and plain methods over what stood there."""
    found = store.known(known)
    trained = dict(found.get("teachers", {}))
    for path in sorted(folder.glob("*.safetensors")):
        if ".checkpoint" not in path.name and not _calibrated(path):
            configuration, made = models.header(path)
            trained[path.stem] = made | {"configuration": asdict(configuration), "flops": configuration.flops}
    plain = dict(found.get("baselines", {}))
    for path in sorted(folder.glob(f"{comparisons.NAME}-*.json")):
        plain[path.stem.removeprefix(f"{comparisons.NAME}-")] = json.loads(path.read_text())["record"]
    stacking = found.get("stacking", {})
    if (measured := folder / f"{stacking_cost.STACKING}.json").exists():
        stacking = {"seeds": json.loads(measured.read_text())["record"]}
    short = {name: _short(about) for name, about in trained.items()}
    return store.in_lines({"baselines": plain, "stacking": stacking, "teachers": short})


def _refuse_smaller(scale: str, data: Path) -> None:
    """Raise `DataError` where what is there was made at a larger scale."""
    teachers = store.known(data / results.RECORDS).get("teachers", {}).values()
    trained = {about.get("scale") for about in teachers}
    larger = [one for one in SCALES[SCALES.index(scale) + 1 :] if one in trained or sweep.committed(one)]
    if larger:
        raise DataError(
            f"data/ holds results of scale {larger[0]}, which those of scale {scale} would replace: adopt "
            f"SCALE={larger[0]}, or remove data/*.json first."
        )


def _refuse_changed(path: Path, made: dict[str, Any]) -> None:
    """Raise `DataError` where weights, or the tokeniser beside them, are not those that their record is of."""
    beside = path.with_name(f"{path.stem}-calibrated.json" if _calibrated(path) else f"{path.stem}.json")
    listed = store.known(beside).get("files", {}).get(path.name)
    if listed is not None and listed != sha256(path):
        raise DataError(f"{path} is not what was written (its digest differs): run `make train` to make it again.")
    if "tokenizer_sha256" in made and made["tokenizer_sha256"] != tokenizer_digest(path.parent):
        raise DataError(
            f"{path.parent / TOKENIZER} is not the tokeniser that {path.stem} was trained with: run `make train`."
        )


def _calibrated(path: Path) -> bool:
    return path.name.startswith("rung-")


def _short(about: dict[str, Any]) -> dict[str, Any]:
    """Round a learning curve to four digits after the point, which is more than it is good for."""
    if "curve" not in about:
        return about
    return about | {"curve": [[round(number, 4) for number in row] for row in about["curve"]]}


def _copied(path: Path, data: Path, name: str) -> dict[str, str]:
    replace_bytes(data / name, path.read_bytes())
    return {name: sha256(data / name)}
