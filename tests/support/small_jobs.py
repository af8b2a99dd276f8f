"""Jobs that other processes do at once: in a module of their own, so that those import little."""

from dataclasses import dataclass

import torch

from companion.jobs import Job
from companion.paths import DataError


@dataclass(frozen=True)
class Half(Job):
    """Halves a number into a file; 3 fails, 5 is what all would meet."""

    number: int
    offset: int = 0

    @property
    def name(self):
        return f"half-{self.number}"

    def identity(self, run):
        return {"number": self.number, "offset": self.offset, "scale": run.scale}

    def files(self, run):
        return (f"{self.name}.txt",)

    def do(self, run):
        if self.number == 3:
            raise RuntimeError("3 has no half.")
        if self.number == 5:
            raise DataError("5 is in nobody's data.")
        (run.folder / f"{self.name}.txt").write_text("made")
        with (run.folder / "calls").open("a") as calls:
            calls.write(f"{self.number}\n")
        return {"half": self.number / 2 + self.offset}


@dataclass(frozen=True)
class Settings(Job):
    """What a job finds set; a number this small is zero only where sub-normal ones are flushed."""

    flush_denormal: bool = False
    name: str = "settings"

    def identity(self, run):
        return {}

    def do(self, run):
        return {"threads": torch.get_num_threads(), "flushed": float(torch.tensor([1e-39]) * 0.5) == 0.0}
