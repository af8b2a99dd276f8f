"""Transformers whose residual connection and normalisation are switches.

With `f` attention or feed-forward part of a layer, `n` the normalisation:

    pre:   u <- a u + b f(n(u))          post:   u <- n(a u + b f(u))

Residual connection: *plain* a = b = 1; *scaled* a = 1, b = 1 / sqrt(2 L), so that 2 L independent branches add up to
the variance of one; *none* and *skipless* a = 0, b = 1, the latter begun as close to the identity as a layer without a
connection can be (`conditioning`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pdelens.models import NORMS, Block, Configuration, DyT, Transformer

from .conditioning import SelfBiased, condition
from .diffusion import AFTER, BEFORE, Diffusion

RESIDUALS = ("plain", "scaled", "none", "skipless")
# Where a normalisation stands is one switch with its kind: LayerNorm after the sum ("post"), all others before.
NORMALISATIONS = ("pre", "post", "rms", "dyt", "derf", "none")


class Derf(DyT):
    """Dynamic error function, `gain * erf(sharpness * u + shift) + bias` (Chen et al. 2025, arXiv 2512.10938)."""

    def __init__(self, width: int):
        super().__init__(width)
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, u: Tensor) -> Tensor:
        """Squash each channel of `u` (..., width) by itself."""
        return self.weight * torch.erf(self.sharpness * u + self.shift) + self.bias


@dataclass(frozen=True)
class Switches:
    """A Transformer of the map: which residual connection, which normalisation, how deep, how it begins.

    `gain` multiplies the matrices that end attention and feed-forward part at the beginning. `shape` gives all else:
    width, heads, tokens, what is read and what is answered. `diffusion` lets heat flow between its tokens.
    """

    residual: str
    normalisation: str
    shape: Configuration
    gain: float = 1.0
    diffusion: Diffusion | None = None

    def __post_init__(self):
        for name, known in (("residual", RESIDUALS), ("normalisation", NORMALISATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: choose from {', '.join(known)}.")

    @property
    def configuration(self) -> Configuration:
        """The shape with this normalisation, where `pdelens.models` has it."""
        norm = {"pre": "layer", "post": "layer", "derf": "none"}.get(self.normalisation, self.normalisation)
        return replace(self.shape, norm=norm, placement="post" if self.normalisation == "post" else "pre")

    @property
    def factors(self) -> tuple[float, float]:
        """What the state and the branch are multiplied by before they are added."""
        carried = 0.0 if self.residual in ("none", "skipless") else 1.0
        return carried, 1 / math.sqrt(2 * self.shape.layers) if self.residual == "scaled" else 1.0

    def norm(self) -> nn.Module:
        """Return one normalisation."""
        return (
            Derf(self.shape.width) if self.normalisation == "derf" else NORMS[self.configuration.norm](self.shape.width)
        )


class SwitchedBlock(Block):
    """A layer with the switches of its network; see the module."""

    def __init__(self, switches: Switches):
        super().__init__(switches.configuration)
        self.norm_attention, self.norm_mlp = switches.norm(), switches.norm()
        if switches.residual == "skipless":
            self.attention = SelfBiased(switches.configuration)
        self.carried, self.added = switches.factors

    def forward(self, u: Tensor, mask: Tensor | None, between: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the state after the layer, (batch, tokens, width); `between` stands between its two parts."""
        first, second = self.parts(mask)
        u = self.half(u, *first)
        return self.half(u if between is None else between(u), *second)

    def parts(self, mask: Tensor | None) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        """Return the norm and the function of attention and of the feed-forward part."""
        return [(self.norm_attention, partial(self.attention, mask=mask)), (self.norm_mlp, self.mlp)]

    def branch(self, u: Tensor, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a part makes of a state, (batch, tokens, width), before anything is added."""
        return function(u if self.post else norm(u))

    def half(self, u: Tensor, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the state after a part, (batch, tokens, width)."""
        branch = self.branch(u, norm, function)
        branch = branch if self.added == 1 else self.added * branch
        # Nothing is carried by a factor 0, not even what is not finite.
        u = u + branch if self.carried else branch
        return norm(u) if self.post else u

    @property
    def linear(self) -> tuple[nn.Linear, nn.Linear]:
        """The feed-forward part's two matrices."""
        return cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2])


class Switched(Transformer):
    """A small Transformer with the switches, drawn from a seed: plain and pre-norm, it is `pdelens.models`' own.

    >>> model = Switched(Switches("none", "derf", Configuration(width=32, layers=2, patch=7)), seed=0)
    >>> model(torch.zeros(3, 28, 28, dtype=torch.uint8)).shape
    torch.Size([3, 10])
    """

    def __init__(self, switches: Switches, seed: int = 0):
        super().__init__(switches.configuration, seed)
        drawn = self.blocks.state_dict()
        self.blocks = nn.ModuleList(SwitchedBlock(switches) for _ in range(switches.shape.layers))
        # The same numbers whatever the switches; a norm or an attention of another kind has its own beside.
        self.blocks.load_state_dict(drawn, strict=switches.normalisation != "derf" and switches.residual != "skipless")
        if switches.normalisation == "derf":
            self.norm = Derf(switches.shape.width)
        self.place = "" if switches.diffusion is None else switches.diffusion.place
        if switches.diffusion is not None:
            self.register_buffer("heat", switches.diffusion.kernels(switches.shape), persistent=False)
        if switches.residual == "skipless":
            condition(self, seed)
        with torch.no_grad():
            for block in self.layers:
                for last in (block.attention.project, block.linear[1]):
                    last.weight.mul_(switches.gain)
                    last.bias.mul_(switches.gain)

    @property
    def layers(self) -> list[SwitchedBlock]:
        """The layers, the first one first."""
        return [cast(SwitchedBlock, block) for block in self.blocks]

    def states(self, inputs: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the state at every depth from 0 to L, (batch, tokens, width) each."""
        heat = partial(self._diffused, mask=mask)
        u, allowed = self.embedding(inputs), self._allowed(inputs, mask)
        found = [heat(u) if self.place == "0" else u]
        for depth, block in enumerate(self.layers, 1):
            u = heat(found[-1]) if self.place == BEFORE else found[-1]
            u = block(u, allowed, heat if self.place == AFTER else None)
            found.append(heat(u) if self.place == str(depth) else u)
        return found

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits, as `Transformer` does."""
        self._check(inputs, mask)
        return self.readout(self.states(inputs, mask)[-1], mask)

    def _diffused(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """Let heat flow: by the kernel of as many tokens as an example has."""
        kernels = cast(Tensor, self.heat)
        kernels, tokens = kernels[-1] if mask is None else kernels[mask.sum(1)], u.shape[-2]
        return kernels[..., :tokens, :tokens].to(u.dtype) @ u
