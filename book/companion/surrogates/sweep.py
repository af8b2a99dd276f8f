"""The sweep as a whole: every equation calibrated, the nulls beside them, and the controls, as jobs."""

from dataclasses import dataclass
from typing import Any

from ..jobs import Job, Run
from ..paths import DataError, root, sha256
from ..teachers.recipes import fits
from ..teachers.teacher import HELD, PRETRAINED, cached_teacher, evaluation_flows, weights_of
from .calibrate import Calibration
from .controls import KINDS, Control
from .evaluate import nulls_of
from .rungs import every_spec
from .store import LAWS, NULLS, RECORDS, known

# What stands beside every equation; in a record's identity, since one more null makes it another.
NULL_NAMES = ("uniform", "mean map", "other input", "shuffled layers", "untrained twin", "nearest neighbours")


@dataclass(frozen=True)
class NullsBeside(Job):
    """Evaluates what stands beside every equation of a teacher: nulls, and what another seed's teacher reaches."""

    teacher: str

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{NULLS}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the examples and the weights."""
        names = [name for name in (self.teacher, self._other()) if name]
        weights = {name: _digest(name, run) for name in names}
        return {"scale": run.scale, "held": HELD[run.scale], "teachers": weights, "nulls": NULL_NAMES}

    def cost(self, run: Run) -> float:
        """Return about as much as a hundred thousand right-hand sides."""
        return 1e5

    def do(self, run: Run) -> dict[str, Any]:
        """Return the nulls' agreement, and that of the next seed's teacher where its weights are here or committed."""
        teacher, other = cached_teacher(self.teacher, run), self._other()
        reference, calibration = evaluation_flows(self.teacher, run)
        own = teacher.untrained().of("heldout", HELD[run.scale], run.device)
        flows = () if other is None or _digest(other, run) is None else evaluation_flows(other, run)[::-1]
        nearest = teacher.nearest("heldout", HELD[run.scale], HELD[run.scale]).to(run.device)
        return nulls_of(reference, calibration, own, flows, nearest)

    def _other(self) -> str | None:
        """Return the teacher of the next seed; the pretrained ones have no seeds."""
        return None if self.teacher in PRETRAINED else f"{self.teacher[:-1]}{(int(self.teacher[-1]) + 1) % 5}"


def sweep_jobs(run: Run, only: str = "*", missing: bool = False) -> list[Job]:
    """Return the jobs that fit `only` (patterns, by commas): equations, controls, the nulls beside the equations.

    `missing` leaves out equations of which `data/` holds a record of this scale: a sweep that takes days goes on from
    what is committed, on whatever machine.
    """
    patterns, there = only.split(","), committed(run.scale) if missing else set()
    wanted = (spec for spec in every_spec(run.scale) if fits(spec.name, patterns) and spec.name not in there)
    calibrations = [Calibration(spec) for spec in wanted]
    controls = [control for kind in KINDS if fits((control := Control(kind)).name, patterns)]
    nulls = [NullsBeside(name) for name in dict.fromkeys(job.spec.teacher for job in calibrations)]
    return [*calibrations, *controls, *nulls]


def committed(scale: str) -> set[str]:
    """Return the names of the equations of a scale whose records are in `data/`."""
    rows = [row for name in (RECORDS, LAWS) for row in known(root() / "data" / name).get("rungs", {}).items()]
    return {name for name, about in rows if about["made"]["scale"] == scale}


def names(scale: str) -> list[str]:
    """Return what there is to calibrate."""
    return [*(spec.name for spec in every_spec(scale)), *(Control(kind).name for kind in KINDS)]


def _digest(name: str, run: Run) -> str | None:
    try:
        weights = weights_of(name, run.folder)
    except DataError:
        return None  # weights of that seed are neither trained here nor committed
    return None if weights is None else sha256(weights)
