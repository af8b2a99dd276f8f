"""SmolLM2 out of its GGUF file: settings, weights and tokeniser as transformers wants them (read by `gguf`)."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..paths import DataError

Metadata = dict[str, Any]

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


def read_gguf(path: Path, *, tensors: bool = True) -> tuple[Metadata, dict[str, Tensor]]:
    """Return a GGUF file's metadata and its tensors, expanded to float32, under their own names.

    Each number is the one that the file's 4-bit or 8-bit integers stand for. Raises `DataError` where the file is no
    GGUF, or is cut short. About 3 s for 90 MB.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise DataError(f"the model file can't be read as GGUF ({error}): damaged or of another format.") from None
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    if not tensors:
        return metadata, {}
    return metadata, {
        tensor.name: torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        for tensor in reader.tensors
    }


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

    Numerals stand alone before pieces are merged, as the file asks (`tokenizer.ggml.pre` = smollm); transformers'
    conversion of the same file leaves that out, which alters 13 of the 33,530 movie reviews (those with a fraction
    such as ½).
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
