"""The three ways in which models attend, each led past hooks: an attribute, transformers' interface, torch's module.

An adapter asks the hooks what to do with a call (`seen`, `rewrite`) and otherwise lets the model's own code run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .call import AttentionCall, CaptureError
from .runs import Seen, same

# What an attention function may be given that changes the weights in a way not computed here.
_UNREAD = ("s_aux", "sinks")


# Arguments by which a module is given the tokens of another sequence to look at.
_OTHER_TOKENS = ("key_value_states", "encoder_hidden_states", "cross_attention_states", "memory", "context")
# Rows of a call that are compared with what a module's own `attend` made of them.
_COMPARED = 16


class Reading(Protocol):
    """What an adapter needs of the hooks."""

    needs_maps: bool
    across: set[int]
    rewrite: Callable[[Seen, AttentionCall], Tensor | None] | None

    def seen(
        self, call: AttentionCall | None, weights: Tensor | None = None, *, mix: bool = False, **about: Any
    ) -> tuple[Seen, Tensor | None]:
        """Note a call of attention; return where it was, and mixed values where they were made on the way."""
        ...


def attends(method: Any) -> bool:
    """Say whether this is an `attend(query, key, value, mask)`."""
    if not callable(method):
        return False
    try:
        signature(method).bind(None, None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def watches_other_tokens(across: set[int], module: nn.Module) -> Callable | None:
    """Return the hook that notes in `across` whether a module looks at another sequence, where it could."""
    known = signature(module.forward)
    names = [name for name in _OTHER_TOKENS if name in known.parameters]
    pair = {"query", "key"} <= set(known.parameters)
    if not names and not pair:
        return None

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        try:
            given = known.bind(*args, **kwargs).arguments
        except TypeError:
            return
        found = any(given.get(name) is not None for name in names)
        query, key = given.get("query"), given.get("key")
        if pair and isinstance(query, Tensor) and isinstance(key, Tensor):
            found = found or not same(query, key)
        (across.add if found else across.discard)(id(module))

    return before


def attribute(hooks: Reading, module: nn.Module, original: Callable) -> Callable:
    """Return what replaces a module's `attend(query, key, value, mask)`."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        call = AttentionCall(query, key, value, mask)
        cross = id(module) in hooks.across or query.shape[-2] != key.shape[-2]
        found, _ = hooks.seen(call, cross=cross)
        given = None if hooks.rewrite is None else hooks.rewrite(found, call)
        if given is not None:
            return given
        mixed = original(query, key, value, mask)
        if not module.training:
            _refuse_other_weights(type(module).__name__, call, mixed)
        return mixed

    return attend


@torch.no_grad()
def _refuse_other_weights(name: str, call: AttentionCall, mixed: Tensor) -> None:
    """Raise `CaptureError` where `attend` weighs otherwise than by softmax(Q K^T / sqrt(d)) under its mask."""
    rows = torch.linspace(0, call.query.shape[-2] - 1, min(_COMPARED, call.query.shape[-2])).long()
    mask = call.mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., rows.to(mask.device), :]
    part = replace(call, query=call.query[:1, :, rows], key=call.key[:1], value=call.value[:1])
    part = replace(part, mask=mask[:1] if mask is not None and mask.ndim == 4 else mask)
    weights = part.weights()
    sees = weights.sum(-1) > 0  # what a row without any key gives is the module's own matter
    wanted, found = (weights @ part.values())[sees], mixed[:1, :, rows][sees]
    half = min(torch.finfo(values.dtype).bits for values in (wanted, found)) < 32
    slack = 0.05 if half else 1e-3
    wanted, found = wanted.double(), found.double()
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    if wanted.shape != found.shape or not torch.allclose(found, wanted, rtol=slack, atol=slack * largest):
        raise CaptureError(
            f"`attend` of {name} does not return softmax(query key^T / sqrt(head width)) value under its mask, so its "
            "weights are not known: scale the queries before, and give masks and biases as `mask`."
        )


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
        found, mixed = hooks.seen(call, mix=own, cross=id(module) in hooks.across)
        weights = None
        if hooks.rewrite is not None:
            mixed = hooks.rewrite(found, call)
        if mixed is None and not recorded and not kwargs.get("dropout") and (eager or call.softcap is not None):
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
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def before(module: Any, args: tuple, kwargs: dict):
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        about: dict[str, Any] = {
            "cross": not same(given["query"], given["key"]),
            "sequence_first": not attention.batch_first,
        }
        if not (adds_keys and hooks.needs_maps):
            real = _real_keys(module, given)
            hooks.seen(multihead_call(module, given, real), real=real, **about)
            return None
        if module.training and module.dropout:
            raise CaptureError(
                "this MultiheadAttention adds keys of its own and is in training mode, so its weights come after "
                "dropout: call model.eval() first."
            )
        asked.append((given, about))
        return (), {**given, "need_weights": True, "average_attn_weights": False}

    def after(module: Any, args: tuple, kwargs: dict, output: Any):
        if not asked:
            return None
        (given, about), (mixed, weights) = asked.pop(), output
        real = _real_keys(module, given)
        mask = _mask(module, given, real)
        if mask is not None:  # every query sees the keys that the module adds
            mask = nn.functional.pad(mask, (0, weights.shape[-1] - mask.shape[-1]), value=mask.dtype == torch.bool)
        hooks.seen(None, weights, real=real, mask=mask, **about)
        if not given.get("need_weights", True):
            return mixed, None
        return mixed, weights.mean(1) if given.get("average_attn_weights", True) else weights

    return before, after


def multihead_call(module: nn.MultiheadAttention, given: dict[str, Any], real: Tensor) -> AttentionCall:
    """Return the queries and keys that a MultiheadAttention makes of its arguments, with its real keys."""
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
    return AttentionCall(queries, keys, keys, _mask(module, given, real))


def _real_keys(module: nn.MultiheadAttention, given: dict[str, Any]) -> Tensor:
    """Return which keys a MultiheadAttention is told are real, (batch, keys)."""
    padding, key = given.get("key_padding_mask"), given["key"]
    if padding is None:
        shape = key.shape[:2] if module.batch_first else key.shape[1::-1]
        return torch.ones(shape, dtype=torch.bool, device=key.device)
    return ~padding if padding.dtype == torch.bool else padding == 0


def _mask(module: nn.MultiheadAttention, given: dict[str, Any], real: Tensor) -> Tensor | None:
    """Return the mask of a MultiheadAttention and its padding in one, as `AttentionCall` has it."""
    mask = given.get("attn_mask")
    if mask is not None:
        # Here True hides a key; everywhere else in this library it shows one.
        mask = ~mask if mask.dtype == torch.bool else mask
        mask = mask.unflatten(0, (-1, module.num_heads)) if mask.ndim == 3 else mask
    if given.get("key_padding_mask") is None:
        return mask
    shown = real[:, None, None, :]
    if mask is None:
        return shown
    return mask & shown if mask.dtype == torch.bool else mask.masked_fill(~shown, float("-inf"))
