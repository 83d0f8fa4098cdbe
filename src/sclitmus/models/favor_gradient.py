"""Linear attention with a gradient, for scBERT's network in training.

`performer.favor` works in place, which is fast and has no gradient. Here cells of one length go
side by side. Features are n_cells x n_heads x length x n_features numbers, 180 MB per cell and
layer in full size; none is kept for the backward pass, they are made again. The directions stay as
they were drawn: the original draws them anew every 1000 steps, in frozen layers too.
"""

from typing import Any

import torch
from torch import Tensor

from sclitmus.models.performer import EPSILON, Performer


def linear_attention(q: Tensor, k: Tensor, v: Tensor, directions: Tensor) -> Tensor:
    """Do what `performer.favor` does, on whole cells: (n_cells, n_heads, length, d_head)."""
    with torch.autocast(q.device.type, enabled=False):
        scale = q.shape[-1] ** -0.25
        q, k, v = q.float() * scale, k.float() * scale, v.float()
        x = q @ directions.T
        of_queries = torch.exp(x - _half_square(q) - x.amax(-1, keepdim=True)) + EPSILON
        x = k @ directions.T
        of_keys = torch.exp(x - _half_square(k) - x.amax((1, 2, 3), keepdim=True)) + EPSILON
        z = of_queries @ (of_keys.transpose(2, 3) @ v)
        return z / (of_queries @ of_keys.sum(2)[..., None])


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True) / 2


class LinearAttention(torch.autograd.Function):
    """`linear_attention`, whose features are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, directions: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, directions)
        return linear_attention(q, k, v, directions)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, directions = ctx.saved_tensors
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        with torch.enable_grad():
            out = linear_attention(q, k, v, directions)
        return (*torch.autograd.grad(out, (q, k, v), grads[0]), None)


def with_gradient(performer: Performer, x: Tensor) -> Tensor:
    """Pass cells (n_cells, length, d) through the layers, so that gradients flow back."""
    layers: Any = performer.net["layers"]
    for attention, feed_forward in layers:
        x = x + _attention(attention.fn, attention.norm(x))
        x = x + feed_forward(x)
    return x


def _attention(module: Any, x: Tensor) -> Tensor:
    heads = (module.to_q, module.to_k, module.to_v)
    q, k, v = (head(x).unflatten(2, (module.n_heads, -1)).transpose(1, 2) for head in heads)
    directions = module.fast_attention.projection_matrix
    z: Any = LinearAttention.apply(q, k, v, directions)  # type: ignore[no-untyped-call]
    out: Tensor = module.to_out(z.transpose(1, 2).flatten(2))
    return out
