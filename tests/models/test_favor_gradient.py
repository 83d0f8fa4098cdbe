"""Linear attention with a gradient, beside the fast one without, and beside automatic gradients."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sclitmus.models.favor_gradient import LinearAttention, linear_attention, with_gradient
from sclitmus.models.performer import Performer, favor, random_directions

SHAPE = (3, 2, 7, 8)  # cells, heads, tokens, of a head


Three = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def qkv() -> Three:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    return q, k, v


@pytest.fixture
def directions() -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return random_directions(16, SHAPE[3])


def test_it_is_the_fast_one(qkv: Three, directions: Tensor) -> None:
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in qkv)
    fast = favor(q, k, v, directions, [0, 7, 14, 21], False)
    slow = linear_attention(*qkv, directions).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(slow, fast, rtol=0, atol=2e-6)


def test_its_gradient_is_the_automatic_one(qkv: Three, directions: Tensor) -> None:
    q, k, v = given = tuple(x.requires_grad_() for x in qkv)
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    own = torch.autograd.grad(LinearAttention.apply(q, k, v, directions), given, weights)  # type: ignore[no-untyped-call]
    plain = torch.autograd.grad(linear_attention(q, k, v, directions), given, weights)
    for a, b in zip(own, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_its_gradient_is_the_slope(qkv: Three, directions: Tensor) -> None:
    """Through the maximum too, which other implementations take for a constant."""
    step = 1e-2
    for i in range(3):
        q, k, v = given = tuple(x.clone().requires_grad_() for x in qkv)
        out = linear_attention(q, k, v, directions).square().sum()
        (gradient,) = torch.autograd.grad(out, given[i])
        towards = torch.randn(SHAPE, generator=torch.Generator().manual_seed(i))
        ends = []
        for sign in (-1, 1):
            q, k, v = (x + sign * step * towards * (i == j) for j, x in enumerate(qkv))
            ends.append(linear_attention(q, k, v, directions).double().square().sum())
        slope = (ends[1] - ends[0]) / (2 * step)
        torch.testing.assert_close((gradient * towards).sum().double(), slope, rtol=2e-2, atol=1e-2)


def test_the_whole_network_is_the_same_with_and_without_gradient() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        performer = Performer(12, 2, 3, 8, bias=False)
        x = torch.randn(4, 9, 12)
    offsets = [0, 9, 18, 27, 36]
    with torch.no_grad():
        fast = performer(x.flatten(0, 1), offsets, False).unflatten(0, (4, 9))
    out = with_gradient(performer, x)
    torch.testing.assert_close(out, fast, rtol=0, atol=5e-6)
    out.sum().backward()  # type: ignore[no-untyped-call]
    missing = [name for name, p in performer.named_parameters() if p.grad is None]
    assert missing == []
    alone = torch.cat([with_gradient(performer, x[a : a + 1]) for a, _ in pairwise(range(5))])
    torch.testing.assert_close(alone, out, rtol=0, atol=5e-6)  # no influence of batch-mates
