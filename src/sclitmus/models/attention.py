"""Self-attention of cells laid end to end, and the encoder layer that most models use.

Every tensor is "packed": the tokens of all cells of a batch one after another, ``(n_tokens, …)``,
with `Batch.offsets` saying where each cell begins.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    *,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention of each cell's tokens among themselves.

    Parameters
    ----------
    q, k, v
        (n_tokens, n_heads, d_head).
    offsets
        Cell i has the tokens ``offsets[i]:offsets[i + 1]``.
    bias
        (n_tokens,): added to the logits of every query towards this token as key.
    causal
        Whether a token sees only itself and those before it.

    Returns
    -------
    (n_tokens, n_heads, d_head)
    """
    if q.device.type == "cpu":
        return _run_by_run(q, k, v, offsets, bias, causal)
    return _padded(q, k, v, offsets, bias, causal)


def _run_by_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    bias: Tensor | None,
    causal: bool,
) -> Tensor:
    """No padding at all: one call per run of cells of equal length."""
    out = torch.empty_like(q)
    for a, b, length in _equal_runs(offsets):
        q_run, k_run, v_run = (
            _heads_first(x[a:b].reshape(-1, length, *x.shape[1:])) for x in (q, k, v)
        )
        mask = None
        if bias is not None:
            mask = bias[a:b].to(q.dtype).reshape(-1, 1, 1, length)
        z = F.scaled_dot_product_attention(q_run, k_run, v_run, attn_mask=mask, is_causal=causal)
        out[a:b] = _heads_first(z).flatten(0, 1)
    return out


def _padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    bias: Tensor | None,
    causal: bool,
) -> Tensor:
    """One call for all cells, padded to the longest: what a GPU does best."""
    lengths = [b - a for a, b in pairwise(offsets)]
    n, longest = len(lengths), max(lengths, default=0)
    device = q.device
    if all(length == longest for length in lengths):
        return _run_by_run(q, k, v, offsets, bias, causal)
    lens = torch.tensor(lengths, device=device)
    real = torch.arange(longest, device=device)[None, :] < lens[:, None]  # (n, longest)

    def pad(x: Tensor) -> Tensor:
        full = x.new_zeros((n, longest, *x.shape[1:]))
        full[real] = x
        return _heads_first(full)

    mask = torch.zeros((n, 1, 1, longest), dtype=q.dtype, device=device)
    mask.masked_fill_(~real[:, None, None, :], float("-inf"))
    if bias is not None:
        shifts = mask.new_zeros((n, longest))
        shifts[real] = bias.to(q.dtype)
        mask = mask + shifts[:, None, None, :]
    if causal:
        later = torch.ones((longest, longest), dtype=torch.bool, device=device).triu(1)
        mask = mask.masked_fill(later, float("-inf"))
    z = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask)
    return _heads_first(z)[real]


def _equal_runs(offsets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (start, end, length) of each run of neighbouring cells with equally many tokens."""
    runs: list[tuple[int, int, int]] = []
    for a, b in pairwise(offsets):
        if b == a:
            continue
        if runs and runs[-1][2] == b - a:
            runs[-1] = (runs[-1][0], b, b - a)
        else:
            runs.append((a, b, b - a))
    return runs


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)  # (n, length, heads, d) <-> (n, heads, length, d)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of ``torch.nn.MultiheadAttention``."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, offsets: Sequence[int], bias: Tensor | None = None) -> Tensor:
        """Attend within each cell; x is (n_tokens, d). See `attend` for `bias`."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(len(x), 3, self.n_heads, -1).unbind(1)
        out: Tensor = self.out_proj(attend(q, k, v, offsets, bias=bias).flatten(1))
        return out


class EncoderLayer(nn.Module):
    """A post-norm encoder layer, parameters named as in ``torch.nn.TransformerEncoderLayer``."""

    def __init__(
        self, d: int, n_heads: int, d_hidden: int, activation: Literal["relu", "gelu"] = "relu"
    ) -> None:
        super().__init__()
        self.self_attn = SelfAttention(d, n_heads)
        self.linear1 = nn.Linear(d, d_hidden)
        self.linear2 = nn.Linear(d_hidden, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, offsets: Sequence[int], bias: Tensor | None = None) -> Tensor:
        """Pass packed tokens (n_tokens, d) through the layer."""
        x = self.norm1(x + self.self_attn(x, offsets, bias))
        out: Tensor = self.norm2(x + self.linear2(self.activation(self.linear1(x))))
        return out
