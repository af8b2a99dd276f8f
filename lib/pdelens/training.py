"""Trains the teachers and calibrates the surrogates: deterministic on one machine, resumable after a kill."""

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from . import models, surrogates
from .datasets import Pictures, fashion_mnist, write_subset
from .optimisation import generator_for, one_cycle, restore, store
from .project import DataError, root, sha256, write_checksums

SCALES = {"smoke": 40, "book": 2800, "full": 9400}


@dataclass(frozen=True)
class Job:
    """What is trained: a model, its seed, and how long."""

    configuration: models.Configuration
    seed: int
    steps: int
    batch: int = 128
    peak_rate: float = 3e-3
    weight_decay: float = 0.05
    checkpoint_every: int = 100

    @property
    def name(self) -> str:
        """The weight file's name, without its ending."""
        return f"image-patch{self.configuration.patch}-seed{self.seed}"


def batches(job: Job, data: Pictures, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step, pictures and labels from step `start` on.

    Each epoch is a shuffle of all examples with a seed of its own, so any step can be reached
    without replaying those before it. Half of the pictures are mirrored and each is shifted by up
    to two pixels.
    """
    per_epoch = len(data.images) // job.batch
    padded = F.pad(data.images, (2, 2, 2, 2))
    for step in range(start, job.steps):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(data.images), generator=generator_for(job.seed, epoch))
        chosen = order[place * job.batch : (place + 1) * job.batch].to(data.images.device)
        random = generator_for(job.seed, 1_000_000 + step)
        images = padded[chosen]
        mirrored = torch.rand(job.batch, generator=random).to(images.device) < 0.5
        images = torch.where(mirrored[:, None, None], images.flip(-1), images)
        down, right = torch.randint(0, 5, (2,), generator=random).tolist()
        side = data.images.shape[-1]
        yield step, images[:, down : down + side, right : right + side], data.labels[chosen]


def train(job: Job, data: Pictures, folder: Path, device: str = "cpu", stop_after: int | None = None):
    """Train a job from its last whole checkpoint; return the model, or None if stopped early.

    `stop_after` ends the run after that many steps (as a kill would, after the last checkpoint).
    """
    data = Pictures(data.images.to(device), data.labels.to(device))
    model = models.Transformer(job.configuration, job.seed).to(device).train()
    optimizer = torch.optim.AdamW(_groups(model, job.weight_decay), lr=job.peak_rate, betas=(0.9, 0.98))
    checkpoint = folder / f"{job.name}.checkpoint.safetensors"
    found = restore(checkpoint, asdict(job), model, optimizer)
    about = found[0] if found else {"job": asdict(job), "step": 0, "curve": []}
    curve, start = about["curve"], about["step"]
    bar = tqdm(total=job.steps, initial=start, desc=job.name, unit="step", file=sys.stderr)
    running = torch.zeros(2, device=device)
    for step, images, labels in batches(job, data, start):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(job.peak_rate, step, job.steps)
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"{job.name}: the loss is {loss.item()} at step {step}: lower the peak rate; the last good state is in "
                f"{checkpoint}."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
        bar.update()
        done = step + 1
        if done % job.checkpoint_every == 0 or done == job.steps:
            window = (done - 1) % job.checkpoint_every + 1
            curve.append([done, *(running / window).tolist()])
            running.zero_()
            bar.set_postfix(loss=f"{curve[-1][1]:.3f}", accuracy=f"{curve[-1][2]:.3f}")
            store(checkpoint, {"job": asdict(job), "step": done, "curve": curve}, model, optimizer)
        if stop_after is not None and done - start >= stop_after and done < job.steps:
            bar.close()
            return None, curve
    bar.close()
    return model.eval(), curve


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only; norms, biases and positions are left alone."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim > 1 and name != "positions"]
    others = [p for name, p in named if p.ndim <= 1 or name == "positions"]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.no_grad()
def accuracy(model: models.Transformer, data: Pictures, batch: int = 500) -> float:
    """Return the share of pictures whose class the model names."""
    device = next(model.parameters()).device
    right = sum(
        int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        for images, labels in zip(data.images.split(batch), data.labels.split(batch), strict=True)
    )
    return right / len(data.images)


def made_by(job: Job, scale: str, device: str, seconds: float, data: Pictures) -> dict[str, Any]:
    """Return what made a weight file: scale, seed, device, versions, digest of the data."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    return {
        "scale": scale,
        "seed": job.seed,
        "steps": job.steps,
        "batch": job.batch,
        "device": name,
        "seconds": round(seconds),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "data_sha256": hashlib.sha256(data.images.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest(),
    }


def train_all(scale: str, device: str, seeds: int) -> None:
    """Train the image teachers of a scale into `_build/train/<scale>/`; whole ones are kept."""
    folder = root() / "_build" / "train" / scale
    folder.mkdir(parents=True, exist_ok=True)
    data, test = fashion_mnist(train=True), fashion_mnist(train=False)
    for seed in range(seeds):
        job = Job(models.Configuration(), seed, SCALES[scale])
        path = folder / f"{job.name}.safetensors"
        if path.exists():
            print(f"{path} is there already")
            continue
        began = time.perf_counter()
        model, curve = train(job, data, folder, device)
        assert model is not None
        made = made_by(job, scale, device, time.perf_counter() - began, data)
        made |= {"test_accuracy": accuracy(model, test), "curve": curve}
        draft = path.with_suffix(".draft")
        models.save(model, draft, made)
        draft.replace(path)
        (folder / f"{job.name}.checkpoint.safetensors").unlink()
        print(f"{path}: test accuracy {made['test_accuracy']:.4f}")


def adopt(scale: str) -> None:
    """Copy the complete weights of a scale into `data/weights` and list them in SHA256SUMS.

    Also writes the committed subset of pictures if it is not there.
    """
    trained = sorted(
        path for path in (root() / "_build/train" / scale).glob("*.safetensors") if ".checkpoint" not in path.name
    )
    if not trained:
        raise DataError(f"there are no complete weights in _build/train/{scale}: run `make train SCALE={scale}` first.")
    data = root() / "data"
    (data / "weights").mkdir(parents=True, exist_ok=True)
    adopted = {}
    for path in trained:
        # Refuses a file that is neither a teacher's nor a surrogate's.
        surrogates.load(path.stem, path) if path.stem.startswith("surrogate") else models.load(path)
        target = data / "weights" / path.name
        draft = target.with_suffix(".draft")
        draft.write_bytes(path.read_bytes())
        draft.replace(target)
        adopted[f"weights/{path.name}"] = sha256(target)
    subset = data / "fashion-mnist-subset.safetensors"
    if not subset.exists():
        write_subset(subset)
    adopted[subset.name] = sha256(subset)
    write_checksums(adopted)
    print("Adopted: " + ", ".join(sorted(adopted)))


def main(arguments: list[str] | None = None) -> None:
    """Train or adopt; the program behind `make train` and `make adopt`."""
    parser = argparse.ArgumentParser(prog="python -m pdelens.training", description=__doc__)
    parser.add_argument("action", choices=["train", "adopt"])
    parser.add_argument("--scale", choices=sorted(SCALES), default="book")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args(arguments)
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        if given.action == "train":
            train_all(given.scale, device, given.seeds)
            surrogates.calibrate_all(given.scale, device)
        else:
            adopt(given.scale)
    except (DataError, RuntimeError) as error:
        sys.exit(f"pdelens: {error}")


if __name__ == "__main__":
    main()
