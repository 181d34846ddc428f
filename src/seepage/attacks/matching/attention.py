"""Attention with its second derivative written out, in place of PyTorch's own functions.

With S = c Q K^T + M, P = softmax(S), O = P V, d the slope of the risk in O, and a row's mean
<X> = sum_j P_ij X_ij:

    V' = P^T d      R = d V^T - <d V^T>      B = P R      Q' = c B K      K' = c B^T Q

For cotangents (a, b, z) of (Q', K', V'), with F = c (a K^T + Q b^T), D = P (F - <F>),
X = (F - <F>) R + d z^T and T = P (X - <X>), those of d, Q, K and V are

    P z + D V       c (B b + T K)       c (B^T a + T^T Q)       D^T d
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, bmm, nn
from torch.overrides import TorchFunctionMode


class _Attend(torch.autograd.Function):
    """P V; its derivative is `_AttendSlopes` where a graph is kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
    ) -> Tensor:
        scores = bmm(scale * q, k.mT)
        weights = torch.softmax(scores if mask is None else scores.add_(mask), -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return bmm(weights, v)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (q, k, v, weights) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            # P depends on Q and K: that is followed in the equations, not in the graph.
            found = _AttendSlopes.apply(delta, q, k, v, (weights.detach(), ctx.scale))  # type: ignore[no-untyped-call]
            return (*found, None, None)
        return (*_slopes(delta, (q, k, v), weights, ctx.scale)[0], None, None)


class _AttendSlopes(torch.autograd.Function):
    """Q', K' and V', and the cotangents of d, Q, K and V."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, q: Tensor, k: Tensor, v: Tensor, known: tuple[Tensor, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, scale = known
        found, rest, bent = _slopes(delta, (q, k, v), weights, scale)
        ctx.save_for_backward(delta, q, k, v, weights, rest, bent)
        ctx.scale = scale
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (a, b, z), (delta, q, k, v, weights, rest, bent) = cotangents, ctx.saved_tensors
        scale = ctx.scale
        a, b = scale * a, scale * b
        spread = bmm(a, k.mT).baddbmm_(q, b.mT)
        spread -= (weights * spread).sum(-1, keepdim=True)
        direct = weights * spread
        inner = spread.mul_(rest).baddbmm_(delta, z.mT)
        inner -= (weights * inner).sum(-1, keepdim=True)
        inner *= weights
        return (
            bmm(weights, z).baddbmm_(direct, v),
            bmm(bent, b).baddbmm_(inner, k, alpha=scale),
            bmm(bent.mT, a).baddbmm_(inner.mT, q, alpha=scale),
            bmm(direct.mT, delta),
            None,
        )


def _slopes(
    delta: Tensor, inputs: tuple[Tensor, Tensor, Tensor], weights: Tensor, scale: float
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Q', K' and V', then R and B."""
    q, k, v = inputs
    rest = bmm(delta, v.mT)
    rest -= (weights * rest).sum(-1, keepdim=True)
    bent = weights * rest
    scaled = scale * bent
    return (bmm(scaled, k), bmm(scaled.mT, q), bmm(weights.mT, delta)), rest, bent


class Attentive(TorchFunctionMode):
    """While it is entered, attention is computed by this file wherever it fits.

    `used` tells whether it was: the mode itself costs a little at every call of PyTorch.
    """

    used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made: Any = None
        if func is nn.functional.scaled_dot_product_attention:
            made = _attention(dict(zip(_ATTENTION, args, strict=False)) | (kwargs or {}))
        elif func is nn.functional.multi_head_attention_forward:
            made = _heads(dict(zip(_HEADS, args, strict=False)) | (kwargs or {}))
        if made is None:
            return func(*args, **(kwargs or {}))
        self.used = True
        return made


def unseen(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    """Apply a function unseen by modes, which would look at every shape that it reads."""
    with torch._C.DisableTorchFunction():
        output: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return output


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_HEADS = tuple(inspect.signature(nn.functional.multi_head_attention_forward).parameters)


def _attention(given: Mapping[str, Any]) -> Tensor | None:
    """Attention of each query to the keys of its own head; None where it is of another kind."""
    q, k, v = given["query"], given["key"], given["value"]
    alike = q.ndim == 4 and q.shape[:2] == k.shape[:2] and q.requires_grad
    if not alike or given.get("dropout_p") or given.get("enable_gqa"):
        return None
    scale = given.get("scale") or 1 / math.sqrt(q.shape[-1])
    return _mixed((q, k, v), scale, _added(given, (*q.shape[:-1], k.shape[-2]), q))


def _added(given: Mapping[str, Any], shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """What is added to the scores: a mask is minus infinity where nothing is seen."""
    mask: Tensor | None = given.get("attn_mask")
    if given.get("is_causal"):
        mask = torch.ones(shape[-2:], dtype=torch.bool, device=like.device).tril()
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = like.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
    return mask.expand(shape).flatten(0, 1)


def _mixed(parts: tuple[Tensor, Tensor, Tensor], scale: float, mask: Tensor | None) -> Tensor:
    """Attention over (n, heads, places, width)."""
    q, k, v = (part.flatten(0, 1) for part in parts)
    mixed: Tensor = _Attend.apply(q, k, v, scale, mask)  # type: ignore[no-untyped-call]
    return mixed.view(*parts[0].shape[:-1], v.shape[-1])


def _heads(given: Mapping[str, Any]) -> tuple[Tensor, None] | None:
    """Self-attention of `nn.MultiheadAttention` without masks; None where it is of another kind."""
    x, heads = given["query"], given["num_heads"]
    own = x is given["key"] and x is given["value"] and x.ndim == 3 and x.requires_grad
    dropped = given.get("training", True) and given["dropout_p"]
    other = any(given.get(name) is not None for name in _OTHER_TENSORS)
    flags = given["add_zero_attn"] or given.get("need_weights", True) or given.get("is_causal")
    if not own or dropped or other or flags or given.get("use_separate_proj_weight"):
        return None
    length, n, width = x.shape
    joint = nn.functional.linear(x, given["in_proj_weight"], given["in_proj_bias"])
    q, k, v = joint.view(length, n, 3, heads, width // heads).permute(2, 1, 3, 0, 4).unbind()
    mixed = _mixed((q, k, v), 1 / math.sqrt(width // heads), None).permute(2, 0, 1, 3)
    weight, bias = given["out_proj_weight"], given["out_proj_bias"]
    return nn.functional.linear(mixed.reshape(length, n, width), weight, bias), None


_OTHER_TENSORS = ("bias_k", "bias_v", "static_k", "static_v", "key_padding_mask", "attn_mask")
