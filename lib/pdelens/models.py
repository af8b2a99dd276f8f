"""The small teachers, written to be read.

All teachers are one architecture: an embedding, Transformer blocks, a final norm and a linear head. Pictures are cut
into patches and read out by the mean over tokens; texts are looked up in a table and read out likewise (classifier)
or token by token (causal language model). Four switches make the variants: activation, normalisation, its placement,
and whether a token may see those after it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import read_header, read_tensors

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "linear": nn.Identity,
}


class DyT(nn.Module):
    """Dynamic tanh, `gain * tanh(sharpness * u) + bias`: a norm's stand-in without statistics (Zhu et al. 2025)."""

    def __init__(self, width: int):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, u: Tensor) -> Tensor:
        """Squash each channel of `u` (..., width) by itself."""
        return self.weight * torch.tanh(self.sharpness * u) + self.bias


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": partial(nn.RMSNorm, eps=1e-5),
    "dyt": DyT,
    "none": lambda width: nn.Identity(),
}
PLACEMENTS = ("pre", "post")


@dataclass(frozen=True)
class Configuration:
    """What fixes a small Transformer; `vocabulary=0` means pictures, else texts.

    `activation` is one of `ACTIVATIONS`, `norm` of `NORMS`; `placement="pre"` norms what enters attention and
    feed-forward part, "post" the sum that leaves them (and then there is no final norm).
    """

    width: int = 64
    layers: int = 6
    heads: int = 4
    outputs: int = 10
    activation: str = "gelu"
    norm: str = "layer"
    placement: str = "pre"
    # pictures
    side: int = 28
    patch: int = 4
    # texts
    vocabulary: int = 0
    length: int = 48
    causal: bool = False

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}: choose one that is.")
        if not self.vocabulary and self.side % self.patch:
            raise ValueError(f"side {self.side} is no multiple of patch {self.patch}: choose one that is.")
        for name, known in (("activation", ACTIVATIONS), ("norm", NORMS), ("placement", PLACEMENTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: choose from {', '.join(known)}.")

    @property
    def tokens(self) -> int:
        """Tokens of one example: patches of a picture, or the text window's length."""
        return self.length if self.vocabulary else (self.side // self.patch) ** 2

    @property
    def flops(self) -> int:
        """Floating-point operations of one example's forward pass, matrix products alone (training: 3 times)."""
        linear = 12 * self.layers * self.width**2 + (0 if self.vocabulary else self.patch**2 * self.width)
        mixing = 2 * self.layers * self.tokens * self.width
        heads = self.outputs * self.width * (self.tokens if self.causal else 1)
        return 2 * (self.tokens * (linear + mixing) + heads)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention; `mask` is True where a query may see a key. Shapes (batch, heads, tokens, dim)."""
    # On a CPU this is a third faster for pictures of 49 tokens than torch's fused kernel, and it can be stacked.
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (batch, heads, queries, keys)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1) @ value  # (batch, heads, queries, dim)


class Attention(nn.Module):
    """Multi-head self-attention.

    The mixing of values goes through the attribute `attend`, so that `pdelens.capture` can read it and
    `pdelens.substitute_attention` can replace it. Any module with this attribute is captured.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.attend = attend

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the tokens of `x` (batch, tokens, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.queries_keys_values(x).chunk(3, dim=-1)  # each (batch, tokens, width)
        q, k, v = (
            y.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2) for y in (q, k, v)
        )  # each (batch, heads, tokens, width / heads)
        mixed = self.attend(q, k, v, mask)  # (batch, heads, tokens, width / heads)
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention that `x` (batch, tokens, width) would give, (batch, heads, queries, keys)."""
        queries, keys, _ = self.queries_keys_values(x).chunk(3, dim=-1)
        parts = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (queries, keys)]
        return attend(parts[0], parts[1], torch.eye(x.shape[1]).to(x), mask)


class Block(nn.Module):
    """One layer: `u += attention(norm(u))`, then `u += mlp(norm(u))`; post-norm: `u = norm(u + attention(u))`, ..."""

    def __init__(self, configuration: Configuration):
        super().__init__()
        width = configuration.width
        self.post = configuration.placement == "post"
        self.norm_attention = NORMS[configuration.norm](width)
        self.attention = Attention(width, configuration.heads)
        self.norm_mlp = NORMS[configuration.norm](width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), ACTIVATIONS[configuration.activation](), nn.Linear(4 * width, width)
        )

    def forward(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """Return the state after the layer, (batch, tokens, width)."""
        if self.post:
            u = self.norm_attention(u + self.attention(u, mask))  # (batch, tokens, width)
            return self.norm_mlp(u + self.mlp(u))  # (batch, tokens, width)
        u = u + self.attention(self.norm_attention(u), mask)  # (batch, tokens, width)
        return u + self.mlp(self.norm_mlp(u))  # (batch, tokens, width)

    def attention_at(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention of this layer at any state `u`, (batch, heads, queries, keys)."""
        return self.attention.weights(u if self.post else self.norm_attention(u), mask)


class Patches(nn.Module):
    """Cuts pictures into square patches and maps each to a token."""

    def __init__(self, configuration: Configuration):
        super().__init__()
        patch = configuration.patch
        self.project = nn.Conv2d(1, configuration.width, kernel_size=patch, stride=patch)

    def forward(self, pictures: Tensor) -> Tensor:
        """Turn uint8 pictures (batch, side, side) into tokens (batch, tokens, width), row by row."""
        scaled = pictures.unsqueeze(1).to(self.project.weight.dtype) / 127.5 - 1
        return self.project(scaled).flatten(2).transpose(1, 2)  # (batch, tokens, width)


class Transformer(nn.Module):
    """A small Transformer for pictures or texts.

    Called with uint8 pictures `(batch, side, side)` or token numbers `(batch, tokens)`, and for texts a `mask`
    `(batch, tokens)` that is True at real tokens. Returns logits `(batch, outputs)`, or `(batch, tokens, outputs)`
    where causal.

    >>> model = Transformer(Configuration(layers=2), seed=0)
    >>> model(torch.zeros(3, 28, 28, dtype=torch.uint8)).shape
    torch.Size([3, 10])
    """

    def __init__(self, configuration: Configuration, seed: int = 0):
        super().__init__()
        self.configuration = configuration
        # All randomness comes from the seed, none from the global state, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if configuration.vocabulary:
                self.embed = nn.Embedding(configuration.vocabulary, configuration.width)
                nn.init.normal_(self.embed.weight, std=0.05)
            else:
                self.embed = Patches(configuration)
            self.positions = nn.Parameter(0.1 * torch.randn(configuration.tokens, configuration.width))
            self.blocks = nn.ModuleList(Block(configuration) for _ in range(configuration.layers))
            final = "none" if configuration.placement == "post" else configuration.norm
            self.norm = NORMS[final](configuration.width)
            self.head = nn.Linear(configuration.width, configuration.outputs)

    def embedding(self, inputs: Tensor) -> Tensor:
        """Return the state at depth 0, `(batch, tokens, width)`."""
        embedded = self.embed(inputs)
        return embedded + self.positions[: embedded.shape[1]]

    def readout(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits from the state at depth L: the final norm, the mean over tokens, the head."""
        u = self.norm(u)  # (batch, tokens, width)
        if self.configuration.causal:
            return self.head(u)  # (batch, tokens, outputs)
        if mask is None:
            return self.head(u.mean(1))  # (batch, outputs)
        share = mask / mask.sum(1, keepdim=True)  # (batch, tokens)
        return self.head(torch.einsum("bt,btw->bw", share.to(u.dtype), u))  # (batch, outputs)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits; see the class."""
        self._check(inputs, mask)
        allowed = self._allowed(inputs, mask)
        u = self.embedding(inputs)
        for block in self.blocks:
            u = block(u, allowed)
        return self.readout(u, mask)

    def _allowed(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return which query may see which key, broadcastable to (batch, heads, queries, keys)."""
        allowed = None if mask is None else mask[:, None, None, :].bool()
        if self.configuration.causal:
            tokens = inputs.shape[1]
            causal = torch.ones(tokens, tokens, dtype=torch.bool, device=inputs.device).tril()
            allowed = causal if allowed is None else allowed & causal
        return allowed

    def _check(self, inputs: Tensor, mask: Tensor | None) -> None:
        configuration = self.configuration
        if configuration.vocabulary:
            if inputs.ndim != 2 or inputs.shape[1] > configuration.length or inputs.is_floating_point():
                raise ValueError(
                    f"token numbers of shape {tuple(inputs.shape)} and type {inputs.dtype} were given, but integers "
                    f"of shape (batch, at most {configuration.length}) are wanted."
                )
            if mask is not None and mask.shape != inputs.shape:
                raise ValueError(f"the mask has shape {tuple(mask.shape)}, but the tokens {tuple(inputs.shape)}.")
        elif inputs.shape[1:] != (configuration.side,) * 2 or inputs.dtype != torch.uint8:
            raise ValueError(
                f"pictures of shape {tuple(inputs.shape)} and type {inputs.dtype} were given, but uint8 of shape "
                f"(batch, {configuration.side}, {configuration.side}) is wanted."
            )


def load(path: str | Path) -> tuple[Transformer, dict[str, Any]]:
    """Read a model from a weight file of the book; return it in float32 and evaluation mode, with what made it.

    Raises `ValueError` where the file is damaged or holds something else.
    """
    weights, about = read_tensors(path)
    configuration, made = _described(path, about)
    model = Transformer(configuration)
    model.load_state_dict(weights)
    return model.eval(), made


def header(path: str | Path) -> tuple[Configuration, dict[str, Any]]:
    """Return what a weight file says of its model, without the weights: the configuration, and what made it."""
    return _described(path, read_header(path))


def _described(path: str | Path, about: dict[str, Any]) -> tuple[Configuration, dict[str, Any]]:
    if not {"configuration", "made"} <= about.keys():
        raise ValueError(f"{path} holds no `pdelens.models.Transformer`: its header has {sorted(about)}.")
    return Configuration(**about["configuration"]), about["made"]
