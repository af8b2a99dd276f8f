"""The three ways in which models attend, each led past hooks: an attribute, transformers' interface, torch's module.

An adapter asks the hooks what to do with a call (`seen`, `rewrite`) and otherwise lets the model's own code run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .call import AttentionCall, CaptureError

# What an attention function may be given that changes the weights in a way not computed here.
_UNREAD = ("s_aux", "sinks")


class Reading(Protocol):
    """What an adapter needs of the hooks."""

    needs_maps: bool
    sequence_first: bool
    rewrite: Callable[[int, AttentionCall], Tensor] | None

    def seen(
        self, call: AttentionCall | None, weights: Tensor | None = None, mix: bool = False
    ) -> tuple[int, Tensor | None]:
        """Note a call of attention; return its layer, and mixed values where they were made on the way."""
        ...


def attribute(hooks: Reading, original: Callable) -> Callable:
    """Return what replaces a module's `attend(query, key, value, mask)`."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        call = AttentionCall(query, key, value, mask)
        layer, _ = hooks.seen(call)
        return original(query, key, value, mask) if hooks.rewrite is None else hooks.rewrite(layer, call)

    return attend


def _interface(hooks: Reading, base: Callable, eager: bool, recorded: bool) -> Callable:
    """Return what stands in transformers' attention interface while recording.

    `base` makes the outputs; it may be another recording's (`recorded`), which then has to see the call too. An `eager`
    model gives its weights to whoever asks for them.
    """

    def attend(module, query, key, value, attention_mask, scaling=None, is_causal=None, **kwargs):
        unread = [name for name in _UNREAD if kwargs.get(name) is not None]
        if unread:
            raise CaptureError(
                f"{type(module).__name__} changes its attention weights by {', '.join(unread)}, which is not read "
                "here: load the model with attn_implementation='eager' and output_attentions=True instead."
            )
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        call = AttentionCall(
            query,
            key,
            value,
            attention_mask,
            causal=attention_mask is None and bool(causal) and query.shape[-2] > 1,
            scale=scaling,
            bias=kwargs.get("position_bias"),
            softcap=kwargs.get("softcap"),
        )
        # Dropout and gradients go through the kernel that was meant for them.
        tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        own = call.plain and not (kwargs.get("dropout") or tracked or eager or recorded)
        layer, mixed = hooks.seen(call, mix=own)
        weights = None
        if hooks.rewrite is not None:
            mixed = hooks.rewrite(layer, call)
        elif mixed is None and not recorded and not kwargs.get("dropout") and (eager or call.softcap is not None):
            # The fused kernel keeps its weights to itself, and knows no soft cap.
            weights = call.weights()
            mixed = weights @ call.values()
        if mixed is not None:
            return mixed.transpose(1, 2).contiguous(), weights if eager else None
        return base(module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs)

    return attend


@contextmanager
def huggingface(hooks: Reading, model: Any) -> Iterator[None]:
    """Send a Hugging Face model's attention past the hooks; restore every configuration."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    configurations = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configurations.items()}
    name, prior = f"pdelens_{id(hooks)}_{id(model)}", model.config._attn_implementation  # recordings may overlap
    recorded = str(prior).startswith("pdelens_")
    base = AttentionInterface._global_mapping[prior] if recorded else sdpa_attention_forward
    AttentionInterface.register(name, _interface(hooks, base, prior == "eager", recorded))
    AttentionMaskInterface.register(name, sdpa_mask)
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        for key, config in configurations.items():
            config._attn_implementation_internal = before[key]
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def multihead(hooks: Reading, attention: nn.MultiheadAttention) -> tuple[Callable, Callable]:
    """Return the hooks that read what a MultiheadAttention is given, and leave its call as it is.

    One that adds keys of its own is made to give its maps, and whoever had asked for weights gets those asked for.
    """
    adds_keys = attention.bias_k is not None or attention.add_zero_attn
    asked: list[dict[str, Any]] = []

    def before(module: Any, args: tuple, kwargs: dict):
        hooks.sequence_first = not attention.batch_first
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not (adds_keys and hooks.needs_maps):
            hooks.seen(multihead_call(module, given))
            return None
        if module.training and module.dropout:
            raise CaptureError(
                "this MultiheadAttention adds keys of its own and is in training mode, so its weights come after "
                "dropout: call model.eval() first."
            )
        asked.append(given)
        return (), {**given, "need_weights": True, "average_attn_weights": False}

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any):
        if not asked:
            return None
        given, (mixed, weights) = asked.pop(), output
        hooks.seen(None, weights)
        if not given.get("need_weights", True):
            return mixed, None
        return mixed, weights.mean(1) if given.get("average_attn_weights", True) else weights

    return before, after


def multihead_call(module: nn.MultiheadAttention, given: dict[str, Any]) -> AttentionCall:
    """Return the queries and keys that a MultiheadAttention makes of its arguments."""
    query, key = given["query"], given["key"]
    if module.bias_k is not None or module.add_zero_attn:
        raise CaptureError(
            "this MultiheadAttention adds keys of its own (add_bias_kv, add_zero_attn), which statistics do not read: "
            "use attention='weights'."
        )
    if not module.batch_first and query.ndim == 3:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    width = module.embed_dim
    if module.in_proj_weight is not None:
        matrices = module.in_proj_weight[:width], module.in_proj_weight[width : 2 * width]
    else:
        matrices = module.q_proj_weight, module.k_proj_weight
    biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.split(width)[:2]
    queries, keys = (
        nn.functional.linear(x, matrix, bias).unflatten(-1, (module.num_heads, -1)).transpose(-3, -2)
        for x, matrix, bias in zip((query, key), matrices, biases, strict=True)
    )  # each (batch, heads, tokens, head width)
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if mask is not None:
        # Here True hides a key; everywhere else in this library it shows one.
        mask = ~mask if mask.dtype == torch.bool else mask
        mask = mask.unflatten(0, (-1, module.num_heads)) if mask.ndim == 3 else mask
    if padding is not None:
        real = (~padding if padding.dtype == torch.bool else padding == 0)[:, None, None, :]
        if mask is None:
            mask = real
        else:
            mask = mask & real if mask.dtype == torch.bool else mask.masked_fill(~real, float("-inf"))
    return AttentionCall(queries, keys, keys, mask)
