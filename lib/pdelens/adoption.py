"""Moves complete weights from where they were trained into `data/`, and lists them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import calibration, information_records, ladder, models, rungs, teachers, yardsticks
from .datasets import write_subset
from .project import DataError, replace_text, root, sha256, write_checksums


def adopt(scale: str, only: str = ",".join(teachers.COMMITTED)) -> None:
    """Copy the complete weights of a scale into `data/weights` and list them in SHA256SUMS.

    Of the teachers those whose names fit `only`, and the calibrated equations that pages load (`rungs.COMMITTED`);
    with them the tokeniser, the trials of the estimators (`information_trials`), and the committed subset of pictures
    if it is not there. What is known of every teacher of the scale, and of the plain methods beside them, goes to
    `data/training.json`, and what is known of every calibrated equation to `data/ladder.json`, whether their weights
    are copied or not. Raises `DataError` where there are no weights.
    """
    folder = root() / "_build/train" / scale
    trained = sorted(
        path
        for path in folder.glob("*.safetensors")
        if ".checkpoint" not in path.name and teachers.fits(path.stem, only.split(","))
    )
    calibrated = [
        path
        for path in sorted((folder / calibration.FOLDER).glob("*.safetensors"))
        if path.stem in rungs.COMMITTED and ".checkpoint" not in path.name
    ]
    if not trained and not calibrated:
        raise DataError(
            f"there are no complete weights in _build/train/{scale} that fit {only!r}: run `make train SCALE={scale}` "
            "first."
        )
    data = root() / "data"
    adopted = {}
    for path in trained:
        models.load(path)  # refuses a file that is no teacher's
        adopted |= _copied(path, data, f"weights/{path.name}")
    for path in calibrated:
        calibration.load(path.stem, path, folder)
        adopted |= _copied(path, data, f"weights/{path.name}")
    if any((folder / calibration.FOLDER).glob("*.json")):
        ladder.write(data / ladder.RECORDS, ladder.gathered(folder, ladder.known(data / ladder.RECORDS)))
        adopted[ladder.RECORDS] = sha256(data / ladder.RECORDS)
    for name in ("tokenizer.json", information_records.NAME):
        if (folder / name).exists():
            adopted |= _copied(folder / name, data, name)
    replace_text(data / teachers.RECORDS, _histories(folder, data / teachers.RECORDS))
    adopted[teachers.RECORDS] = sha256(data / teachers.RECORDS)
    subset = data / "fashion-mnist-subset.safetensors"
    if not subset.exists():
        write_subset(subset)
    adopted[subset.name] = sha256(subset)
    write_checksums(adopted)
    print("Adopted: " + ", ".join(sorted(adopted)))


def _histories(folder: Path, known: Path) -> str:
    """Return what is known of all training: this scale's teachers and plain methods over what stood there."""
    found: dict[str, dict[str, Any]] = json.loads(known.read_text()) if known.exists() else {}
    trained = dict(found.get("teachers", {}))
    for path in sorted(folder.glob("*.safetensors")):
        if ".checkpoint" not in path.name:
            configuration, made = models.header(path)
            trained[path.stem] = made | {"configuration": asdict(configuration), "flops": configuration.flops}
    plain = dict(found.get("baselines", {}))
    if (measured := folder / f"{yardsticks.NAME}.json").exists():
        plain |= json.loads(measured.read_text())
    stacking = found.get("stacking", {})
    if (measured := folder / f"{yardsticks.STACKING}.json").exists():
        stacking = {"seeds": json.loads(measured.read_text())}
    rows = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(_short(about))}" for name, about in sorted(whole.items()))
        + "}"
        for part, whole in (("baselines", plain), ("stacking", stacking), ("teachers", trained))
    ]
    return "{\n" + ",\n".join(rows) + "}\n"


def _short(about: dict[str, Any]) -> dict[str, Any]:
    """Round a learning curve to four digits after the point, which is more than it is good for."""
    if "curve" not in about:
        return about
    return about | {"curve": [[round(number, 4) for number in row] for row in about["curve"]]}


def _copied(path: Path, data: Path, name: str) -> dict[str, str]:
    target = data / name
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    draft.write_bytes(path.read_bytes())
    draft.replace(target)
    return {name: sha256(target)}
