"""Writes a trained Transformer's weights into the master equation: the exact parity case."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..lattice import Grid, Lattice
from ..models import Transformer
from .equation import PostNorm, TransformerPDE
from .terms import Reaction, SelfAttention


def equation_of(model: nn.Module, lattice: Lattice | None = None) -> TransformerPDE:
    """Return the equation that is this Transformer exactly: D = 0, one piece a layer, one Lie step a layer.

    For the small teachers (`pdelens.models.Transformer`, pre-norm) and Hugging Face's `BertModel` (post-norm). Norms'
    gains and biases are folded into the matrices (pre-norm) or kept as fields g(t), b(t) (post-norm). `lattice` says
    where tokens live (a teacher of pictures knows); the equation has no local term until one is switched on. Solve it
    with `integrate(equation, u0, method="lie")` from the embedding: states and attention are the model's to rounding.
    Raises `TypeError` for another kind of model, `ValueError` for a teacher whose parts have no such form. Cost: a
    copy of the weights. Source: Lu et al. 2019 (arXiv 1906.02762); the proof is in the chapter *Depth as time*.

    >>> from pdelens.models import Configuration, Transformer
    >>> print(equation_of(Transformer(Configuration(layers=2))))
    ∂u/∂t = W A(u) V n(u) + R(n(u)),  t in [0, 2], grid of 7 × 7, neumann, 2 piecewise modes
    """
    _doors.is_a("lattice", lattice, (Lattice, type(None)), "a Chain, a Grid or None")
    # A model of transformers can't be here without it, and the library does not import it for a question.
    bert = getattr(sys.modules.get("transformers"), "BertModel", None)
    if isinstance(model, Transformer):
        return _from_small_transformer(model, lattice)
    if bert is not None and isinstance(model, bert):
        return _from_bert(model, lattice)
    raise TypeError(
        f"a {type(model).__name__} was given, but its parts are only known for pdelens.models.Transformer and "
        "transformers.BertModel."
    )


def _from_small_transformer(model: Any, lattice: Lattice | None) -> TransformerPDE:
    """Return the equation of a small pre-norm teacher (`pdelens.models.Transformer`)."""
    about = model.configuration
    if (about.norm, about.placement) != ("layer", "pre"):
        raise ValueError(
            f"a teacher with norm {about.norm!r} and placement {about.placement!r} was given, but the exact equation "
            "is known for norm 'layer' and placement 'pre'."
        )
    if lattice is None and not about.vocabulary:
        lattice = Grid(about.side // about.patch, about.side // about.patch)
    if lattice is not None and not about.vocabulary and lattice.tokens != about.tokens:
        raise ValueError(f"{lattice} of {lattice.tokens} tokens was given for a teacher of {about.tokens}.")
    pde = _blank(about.width, about.heads, about.layers, 4 * about.width, about.activation, lattice, "pre", 1e-5)
    pde.to(next(model.parameters()))
    attention, reaction = pde.terms["attention"], pde.terms["reaction"]
    assert isinstance(attention, SelfAttention) and isinstance(reaction, Reaction)
    attention.causal = about.causal
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            norm, mlp = block.norm_attention, block.norm_mlp
            attention.inputs.coefficients[layer] = _folded(block.attention.queries_keys_values, norm)
            attention.output.coefficients[layer] = _folded(block.attention.project, None)
            reaction.first.coefficients[layer] = _folded(block.mlp[0], mlp)
            reaction.second.coefficients[layer] = _folded(block.mlp[2], None)
    return pde


def _from_bert(model: Any, lattice: Lattice | None) -> TransformerPDE:
    """Return the equation of a post-norm encoder (Hugging Face's `BertModel`)."""
    about = model.config
    pde = _blank(
        about.hidden_size,
        about.num_attention_heads,
        about.num_hidden_layers,
        about.intermediate_size,
        about.hidden_act,
        lattice,
        "post",
        about.layer_norm_eps,
    )
    pde.to(next(model.parameters()))
    mixing, residual = pde.terms["attention"], pde.terms["reaction"]
    assert isinstance(mixing, PostNorm) and isinstance(residual, PostNorm)
    attention, reaction = mixing.inner, residual.inner
    assert isinstance(attention, SelfAttention) and isinstance(reaction, Reaction)
    entering = model.embeddings.LayerNorm
    with torch.no_grad():
        for layer, block in enumerate(model.encoder.layer):
            parts = block.attention.self
            stacked = torch.cat([_folded(part, None) for part in (parts.query, parts.key, parts.value)])
            attention.inputs.coefficients[layer] = stacked
            attention.output.coefficients[layer] = _folded(block.attention.output.dense, None)
            reaction.first.coefficients[layer] = _folded(block.intermediate.dense, None)
            reaction.second.coefficients[layer] = _folded(block.output.dense, None)
            for term, norm in ((mixing, entering), (residual, block.attention.output.LayerNorm)):
                term.gain.coefficients[layer] = norm.weight
                term.bias.coefficients[layer] = norm.bias
            entering = block.output.LayerNorm
    pde.last_norm = (entering.weight.detach().clone(), entering.bias.detach().clone())
    return pde


def _blank(width, heads, layers, hidden, activation, lattice, form, epsilon) -> TransformerPDE:
    return TransformerPDE(
        width,
        heads,
        lattice,
        depth=layers,
        temporal_modes=layers,
        basis="piecewise",
        hidden=hidden,
        activation=activation,
        form=form,
        diffusion=None,
        epsilon=epsilon,
    )


def _folded(linear: nn.Linear, norm: nn.LayerNorm | None) -> Tensor:
    """Return [W | b], with a preceding norm's gain and bias folded in: `W (g n + c) + b`."""
    weight, bias = linear.weight, linear.bias
    if norm is not None:
        bias = bias + weight @ norm.bias
        weight = weight * norm.weight
    return torch.cat([weight, bias[:, None]], 1)
