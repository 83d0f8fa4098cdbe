"""The Performer's linear attention (FAVOR+), as scBERT and scFoundation's decoder use it.

Choromanski et al. 2021, arXiv:2009.14794: exp(q·k) is replaced by the product of two vectors of
positive random features, so that attention over n tokens costs n, not n². The random directions
were drawn once in training and are part of a checkpoint.

The key features are divided by the exponential of a maximum before a small constant is added to
them, so that maximum shows in the result. The original takes it over every cell of a batch, and a
cell's vector then depends on its batch-mates. Here it is of the cell, unless `shared` asks for
theirs.

Parameter names are those of the checkpoints: ``net.layers.N.0.fn.to_q`` …
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-4  # added to every feature
CPU_TOKENS = 1024  # of one head at a time: their features stay in a CPU's cache
FF_MULT = 4  # width of a feed-forward layer in units of the width of a token

RENAME = {r"(.*\.1\.fn)\.fn\.(w[12]\..*)": r"\1.\2"}  # the original wraps feed-forward layers twice
UNUSED = {r"(.*\.)?calls_since_last_redraw": "counts training steps"}


def favor(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, offsets: Sequence[int], shared: bool
) -> Tensor:
    """Linear attention of each cell's tokens among themselves.

    Parameters
    ----------
    q, k, v
        (n_tokens, n_heads, d_head).
    directions
        (n_features, d_head).
    offsets
        Cell i has the tokens ``offsets[i]:offsets[i + 1]``.
    shared
        Whether the keys' maximum is that of all cells, as published, or each cell's own.

    Returns
    -------
    (n_tokens, n_heads, d_head), float32: exponentials do not survive a shorter format.
    """
    with torch.autocast(q.device.type, enabled=False):
        scale = q.shape[2] ** -0.25
        q, k = ((x.float() * scale).transpose(0, 1) for x in (q, k))
        one = torch.ones_like(v[..., :1])  # sums up to what the rest is divided by
        v = torch.cat([v, one], 2).float().transpose(0, 1)
        cpu = q.device.type == "cpu"
        heads = _slices(0, len(q), 1 if cpu else len(q))
        cells = [_slices(a, b, CPU_TOKENS if cpu else b - a) for a, b in pairwise(offsets)]
        sums = [[_key_sums(k[h], v[h], directions, tokens) for h in heads] for tokens in cells]
        tops = torch.stack([torch.stack([top.amax() for _, top in cell]).amax() for cell in sums])
        if shared:
            tops = tops.amax().expand(len(cells))
        out = torch.empty_like(v[..., :-1])
        for (a, b), tokens, cell, top in zip(pairwise(offsets), cells, sums, tops, strict=True):
            for h, (context, own) in zip(heads, cell, strict=True):
                context = context * torch.exp(own - top)
                context += EPSILON * v[h, a:b].sum(1, keepdim=True)
                for t in tokens:
                    z = _query_features(q[h, t], directions) @ context
                    out[h, t] = z[..., :-1] / z[..., -1:]
        return out.transpose(0, 1)


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(a, min(a + step, stop)) for a in range(start, stop, max(step, 1))]


def _key_sums(
    k: Tensor, v: Tensor, directions: Tensor, tokens: Iterable[slice]
) -> tuple[Tensor, Tensor]:
    """Return the sum over tokens of key features times values, and what their exponents lack.

    Features are relative to the largest exponent of their head and without the constant; both are
    put right in `favor`, where the cell's, or the batch's, largest is known.

    Returns
    -------
    context, top
        (n_heads, n_features, d_head + 1) and (n_heads, 1, 1).
    """
    context = v.new_zeros((len(k), len(directions), v.shape[2]))
    top = v.new_full((len(k), 1, 1), -math.inf)
    for t in tokens:
        x = k[:, t] @ directions.T
        above = torch.maximum(top, x.amax((1, 2), keepdim=True))
        features = x.sub_(_half_square(k[:, t]) + above).exp_()
        context = context * torch.exp(top - above) + features.transpose(1, 2) @ v[:, t]
        top = above
    return context, top


def _query_features(q: Tensor, directions: Tensor) -> Tensor:
    x = q @ directions.T
    top = x.amax(2, keepdim=True)
    return x.sub_(_half_square(q) + top).exp_().add_(EPSILON)


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum(2, keepdim=True) / 2


def random_directions(n: int, d: int) -> Tensor:
    """Draw n directions: orthogonal in blocks of d, as long as Gaussian vectors are."""
    blocks = [torch.linalg.qr(torch.randn(d, d))[0].T for _ in range(-(-n // d))]
    lengths: Tensor = torch.randn(n, d).norm(dim=1)
    return lengths[:, None] * torch.cat(blocks)[:n]


class FastAttention(nn.Module):
    projection_matrix: Tensor

    def __init__(self, d_head: int) -> None:
        super().__init__()
        n_features = int(d_head * math.log(d_head))
        self.register_buffer("projection_matrix", random_directions(n_features, d_head))


class SelfAttention(nn.Module):
    def __init__(self, d: int, n_heads: int, d_head: int, bias: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.fast_attention = FastAttention(d_head)
        self.to_q = nn.Linear(d, n_heads * d_head, bias=bias)
        self.to_k = nn.Linear(d, n_heads * d_head, bias=bias)
        self.to_v = nn.Linear(d, n_heads * d_head, bias=bias)
        self.to_out = nn.Linear(n_heads * d_head, d)

    def forward(self, x: Tensor, offsets: Sequence[int], shared: bool) -> Tensor:
        q, k, v = (
            to(x).unflatten(1, (self.n_heads, -1)) for to in (self.to_q, self.to_k, self.to_v)
        )
        z = favor(q, k, v, self.fast_attention.projection_matrix, offsets, shared)
        out: Tensor = self.to_out(z.flatten(1))
        return out


class FeedForward(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(d, d * FF_MULT)
        self.w2 = nn.Linear(d * FF_MULT, d)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(nn.functional.gelu(self.w1(x)))
        return out


class PreNorm(nn.Module):
    def __init__(self, d: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.fn = fn

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        out: Tensor = self.fn(self.norm(x), *args)
        return out


class Performer(nn.Module):
    """Pre-norm layers of linear attention and feed-forward, on packed tokens.

    Parameters
    ----------
    d, n_layers, n_heads, d_head
        Sizes; heads need not add up to d.
    bias
        Whether queries, keys and values have one.
    """

    def __init__(self, d: int, n_layers: int, n_heads: int, d_head: int, *, bias: bool) -> None:
        super().__init__()

        def layer() -> nn.ModuleList:
            attention = SelfAttention(d, n_heads, d_head, bias)
            return nn.ModuleList([PreNorm(d, attention), PreNorm(d, FeedForward(d))])

        layers = nn.ModuleList([layer() for _ in range(n_layers)])
        self.net = nn.ModuleDict({"layers": layers})

    def forward(self, x: Tensor, offsets: Sequence[int], shared: bool) -> Tensor:
        """Pass tokens (n_tokens, d) through the layers; see `favor` for `shared`."""
        for layer in self.net["layers"].children():
            attention, feed_forward = layer.children()
            x = x + attention(x, offsets, shared)
            x = x + feed_forward(x)
        return x
