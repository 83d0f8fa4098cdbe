"""FAVOR+ beside its definition, written out, and beside the softmax attention it stands for."""

import numpy as np
import pytest
import torch

from sclitmus.models import performer
from sclitmus.models.performer import EPSILON, Performer, favor, random_directions


def written_out(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, top: float
) -> np.ndarray:
    """One head of one cell in float64: (n, d), (n, d), (n, d), (m, d) and the keys' maximum."""
    q, k = q * q.shape[1] ** -0.25, k * k.shape[1] ** -0.25
    a, b = q @ w.T, k @ w.T
    left = np.exp(a - (q**2).sum(1, keepdims=True) / 2 - a.max(1, keepdims=True)) + EPSILON
    right = np.exp(b - (k**2).sum(1, keepdims=True) / 2 - top) + EPSILON
    weights = left @ right.T
    return weights @ v / weights.sum(1, keepdims=True)


def largest(k: np.ndarray, w: np.ndarray) -> float:
    return float((k * k.shape[-1] ** -0.25 @ w.T).max())


@pytest.fixture
def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(0, 2, (50, 3, 8)) for name in "qkv"}
    parts["k"][:20] *= 2  # the first cell has the larger maximum
    return parts | {"w": rng.normal(0, 1, (16, 8))}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_favor_is_its_definition(
    drawn: dict[str, np.ndarray], shared: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performer, "CPU_TOKENS", chunk)
    tensors = {name: torch.from_numpy(x).float() for name, x in drawn.items()}
    z = favor(tensors["q"], tensors["k"], tensors["v"], tensors["w"], [0, 20, 50], shared)
    q, k, v, w = (drawn[name] for name in "qkvw")
    for cell in (slice(0, 20), slice(20, 50)):
        top = largest(k if shared else k[cell], w)  # over all heads
        for head in range(3):
            expected = written_out(q[cell, head], k[cell, head], v[cell, head], w, top)
            assert np.abs(z[cell, head].numpy() - expected).max() < 1e-5


def test_a_shared_maximum_is_seen_by_the_other_cell(drawn: dict[str, np.ndarray]) -> None:
    q, k, v, w = (torch.from_numpy(drawn[name]).float() for name in "qkvw")
    own = favor(q, k, v, w, [0, 20, 50], shared=False)
    shared = favor(q, k, v, w, [0, 20, 50], shared=True)
    assert torch.equal(own[:20], shared[:20])
    assert (own[20:] - shared[20:]).abs().max() > 1e-3
    alone = favor(q[20:], k[20:], v[20:], w, [0, 30], shared=False)
    assert torch.equal(alone, own[20:])


def test_many_directions_come_close_to_softmax_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(30, 1, 8) * 0.5 for _ in range(3))
    z = favor(q, k, v, random_directions(20_000, 8), [0, 30], shared=False)
    exact = torch.softmax(q[:, 0] @ k[:, 0].T / 8**0.5, 1) @ v[:, 0]
    assert (z[:, 0] - exact).abs().max() < 0.02


def test_directions_are_orthogonal_in_blocks_and_as_long_as_gaussian_vectors() -> None:
    torch.manual_seed(0)
    w = random_directions(20, 8)
    assert w.shape == (20, 8)
    for block in (w[:8], w[8:16], w[16:]):
        cosines = torch.nn.functional.normalize(block, dim=1)
        assert torch.allclose(cosines @ cosines.T, torch.eye(len(block)), atol=1e-5)
    lengths = random_directions(4000, 8).square().sum(1)
    assert abs(float(lengths.mean()) - 8) < 0.3


def test_half_precision_does_not_reach_the_exponentials() -> None:
    torch.manual_seed(0)
    layers = Performer(24, 1, 3, 8, bias=True).eval()
    x = torch.randn(40, 24) * 3
    with torch.inference_mode():
        full = layers(x, [0, 40], False)
        with torch.autocast("cpu", torch.bfloat16):
            half = layers(x, [0, 40], False)
    assert half.isfinite().all()
    assert (half - full).abs().max() < 0.1
