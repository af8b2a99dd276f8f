"""Reads GGUF, the model file of llama.cpp: metadata first, then tensors in blocks of 32 numbers.

A block holds 4-bit or 8-bit integers with one scale (and one minimum) in half precision. Expanded to
single precision, as here, each number is the one that the file stands for. Only the kinds of tensors
that SmolLM2's file has are read. The package `gguf` reads more, in 3 s instead of 0.3 s: it is the
tests' oracle. Format: the GGUF specification, version 3, of the ggml project.
"""

import re
import struct
from io import BufferedReader
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .project import DataError

Metadata = dict[str, Any]

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = 32
# Kind of tensor: (name, numbers a block, bytes a block).
_KINDS = {0: ("F32", 1, 4), 3: ("Q4_1", _BLOCK, 20), 8: ("Q8_0", _BLOCK, 34)}

_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(stream: BufferedReader, *, tensors: bool = True) -> tuple[Metadata, dict[str, Tensor]]:
    """Return a GGUF file's metadata and its tensors, expanded to float32, under their own names.

    Reads from front to back, one tensor at a time; with `tensors=False` stops after the metadata.
    Raises `DataError` where the file is no GGUF, is cut short or holds another kind of tensor.
    """
    reader = _Reader(stream)
    if reader.take(4) != b"GGUF":
        raise DataError("the model file does not begin with 'GGUF': it is damaged or of another format.")
    version, count, pairs = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version != 3:
        raise DataError(f"the GGUF file has version {version}; only 3 is read here.")
    metadata = {reader.string(): reader.value(reader.number("I")) for _ in range(pairs)}
    if not tensors:
        return metadata, {}
    listing = []
    for _ in range(count):
        name, dimensions = reader.string(), reader.number("I")
        # GGUF names the fastest dimension first.
        shape = [reader.number("Q") for _ in range(dimensions)][::-1]
        kind, offset = reader.number("I"), reader.number("Q")
        listing.append((offset, name, shape, kind))
    alignment = metadata.get("general.alignment", 32)
    start = -(-reader.position // alignment) * alignment
    found = {}
    for offset, name, shape, kind in sorted(listing):
        reader.take(start + offset - reader.position)
        found[name] = _tensor(reader, name, shape, kind)
    return metadata, found


class _Reader:
    """Takes numbers and strings off a stream, and counts its bytes."""

    def __init__(self, stream: BufferedReader):
        self.stream, self.position = stream, 0

    def take(self, size: int) -> bytearray:
        raw = bytearray(size)
        if self.stream.readinto(raw) != size:
            raise DataError("the GGUF file is cut short.")
        self.position += size
        return raw

    def number(self, code: str) -> Any:
        layout = f"<{code}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.number("I"), self.number("Q")
            return [self.value(kind) for _ in range(count)]
        return self.number(_NUMBERS[kind])


def _tensor(reader: _Reader, name: str, shape: list[int], kind: int) -> Tensor:
    if kind not in _KINDS:
        raise DataError(f"{name} is stored as GGUF kind {kind}: only F32, Q4_1 and Q8_0 are read here.")
    label, numbers, size = _KINDS[kind]
    # In numpy, on one thread: many small parallel steps cost more on a busy machine than they save.
    raw = np.frombuffer(reader.take(prod(shape) // numbers * size), np.uint8)
    if label == "F32":
        return torch.from_numpy(raw.view(np.float32).reshape(shape))
    blocks = raw.reshape(-1, size)
    if label == "Q8_0":
        integers, constants = blocks[:, 2:].view(np.int8), blocks[:, :2]
    else:
        # The first half of a block lies in the low four bits, the second in the high four.
        integers, constants = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1), blocks[:, :4]
    constants = constants.copy().view(np.float16).astype(np.float32)
    expanded = integers.astype(np.float32)
    expanded *= constants[:, :1]
    if label == "Q4_1":
        expanded += constants[:, 1:]
    return torch.from_numpy(expanded.reshape(shape))


def llama_settings(metadata: Metadata) -> Metadata:
    """Return what `transformers.LlamaConfig` wants to know, out of a GGUF file's metadata."""
    of = {name.removeprefix("llama."): value for name, value in metadata.items()}
    if metadata.get("general.architecture") != "llama":
        raise DataError(f"the GGUF file holds a {metadata.get('general.architecture')} model: only llama is read here.")
    return {
        "vocab_size": of["vocab_size"],
        "hidden_size": of["embedding_length"],
        "intermediate_size": of["feed_forward_length"],
        "num_hidden_layers": of["block_count"],
        "num_attention_heads": of["attention.head_count"],
        "num_key_value_heads": of["attention.head_count_kv"],
        "head_dim": of["rope.dimension_count"],
        "max_position_embeddings": of["context_length"],
        "rms_norm_eps": of["attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": of["rope.freq_base"]},
        "bos_token_id": of["tokenizer.ggml.bos_token_id"],
        "eos_token_id": of["tokenizer.ggml.eos_token_id"],
        "pad_token_id": of["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,
    }


def llama_weights(metadata: Metadata, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names, and in the row order, of `transformers.LlamaForCausalLM`."""
    heads = {"attn_q": metadata["llama.attention.head_count"], "attn_k": metadata["llama.attention.head_count_kv"]}
    weights = {}
    for name, tensor in tensors.items():
        parts = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
        if parts is None or parts[2] not in _LLAMA_NAMES:
            raise DataError(f"{name} has no place in a Llama model with tied embeddings.")
        layer, part = parts.groups()
        prefix = f"model.layers.{layer}." if layer else ""
        rows = _rotary_rows(tensor, heads[part]) if part in heads else tensor
        weights[f"{prefix}{_LLAMA_NAMES[part]}.weight"] = rows
    return weights


def _rotary_rows(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: it rotates neighbours, transformers a head's two halves."""
    pairs = weight.view(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def tokenizer_of(metadata: Metadata) -> Any:
    """Return the file's byte-level BPE as a `tokenizers.Tokenizer`.

    Numerals stand alone before pieces are merged, as the file asks (`tokenizer.ggml.pre` = smollm);
    transformers' conversion of the same file leaves that out, which alters 13 of the 33,530 movie
    reviews (those with a fraction such as ½).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    if metadata.get("tokenizer.ggml.pre") != "smollm":
        raise DataError(f"tokeniser {metadata.get('tokenizer.ggml.pre')!r} is unknown: only 'smollm' is read here.")
    words = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    return tokenizer
