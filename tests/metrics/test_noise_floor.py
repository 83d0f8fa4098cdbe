"""No metric rewards noise unnoticed: noise, a projection, the data, and the labels themselves.

What knows nothing of the cells must be at chance where a metric names a chance level; a metric
that noise does well on must say that it is about batches; and no headline may be one of those.
"""

import numpy as np
import pytest

from sclitmus.metrics.suite import METRICS, ScoredEmbedding, score_all

N_CELLS, N_GENES, N_TYPES, N_BATCHES = 900, 400, 6, 3
HEADLINES = ("avg_bio", "integration")

# Metrics on which noise comes within a tenth of their range of the ceiling, or beats the data.
REWARD_NOISE = {
    "batch_asw", "bras", "cilisi", "ilisi", "kbet", "mixing", "pcr", "pcr_comparison",
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """Value of every metric, by embedding."""
    rng = np.random.default_rng(7)
    label = rng.choice(N_TYPES, N_CELLS, p=[0.05, 0.1, 0.15, 0.2, 0.2, 0.3]).astype(np.int32)
    batch = rng.choice(N_BATCHES, N_CELLS, p=[0.25, 0.35, 0.4]).astype(np.int32)
    batch[(label == 0) & (batch == 2)] = 0  # one type is isolated
    rate = rng.gamma(0.3, 1.0, N_GENES)
    program = np.exp(0.5 * rng.normal(size=(N_TYPES, N_GENES)))
    effect = np.exp(0.15 * rng.normal(size=(N_BATCHES, N_GENES)))
    depth = rng.lognormal(0, 0.3, N_CELLS)[:, None]
    counts = rng.poisson(depth * rate * program[label] * effect[batch] * 3)
    logged = np.log1p(1e3 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    centred = logged - logged.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    data = left[:, :20] * scale[:20]
    embeddings = {
        "noise": rng.normal(size=(N_CELLS, 20)),
        "projection": centred @ rng.normal(size=(N_GENES, 20)) / np.sqrt(20),
        "data": data,
        "labels": np.eye(N_TYPES)[label] + 0.01 * rng.normal(size=(N_CELLS, N_TYPES)),
    }
    values = {}
    for name, z in embeddings.items():
        scores = score_all(
            ScoredEmbedding(z.astype(np.float32), label, batch, data.astype(np.float32))
        )
        assert {score.status for score in scores} == {"ok"}
        values[name] = {s.metric: s.value for s in scores if s.unit == "dataset"}
    return values


def goodness(id: str, value: float) -> float:
    """Return the value on a scale where 1 is best and a step is a share of the range."""
    low, high = METRICS[id].bounds
    low = max(low, 0.0)
    return (value - low) / (high - low) if METRICS[id].direction == "higher" else 1 - value


@pytest.mark.parametrize(
    "id", [id for id, metric in METRICS.items() if metric.chance is not None and id != "relations"]
)
def test_noise_is_at_chance(found, id: str):
    assert found["noise"][id] == pytest.approx(METRICS[id].chance, abs=0.05)


def test_noise_keeps_no_relations_on_average():
    # Few distances are correlated, so that one draw scatters with an sd of about 0.3.
    rng = np.random.default_rng(1)
    label = rng.integers(0, 8, 400).astype(np.int32)
    before = (rng.normal(size=(8, 10))[label] + rng.normal(size=(400, 10))).astype(np.float32)
    values = [
        score_all(
            ScoredEmbedding(rng.normal(size=(400, 5)).astype(np.float32), label, before=before),
            ["relations"],
        )[0].value
        for _ in range(40)
    ]
    assert np.mean(values) == pytest.approx(METRICS["relations"].chance, abs=0.15)


def test_metrics_that_reward_noise_are_known_and_say_that_they_are_about_batches(found):
    rewarding = {
        id
        for id, value in found["noise"].items()
        if goodness(id, value) > 0.9 or goodness(id, value) > goodness(id, found["data"][id]) + 0.02
    }
    assert rewarding == REWARD_NOISE
    assert {METRICS[id].side for id in rewarding} == {"batches"}


# The projection's place holds for the mild batch effect simulated here. With a strong one
# (0.35, programs of 0.8) the data split by batch, and a random projection of them scored
# higher: AvgBIO 0.80 against 0.66. Noise was last there too.
@pytest.mark.parametrize("id", [*HEADLINES, "avg_bio_fixed", "conservation"])
def test_headlines_put_noise_below_a_projection_below_the_data(found, id: str):
    assert found["noise"][id] < found["projection"][id] - 0.02
    assert found["projection"][id] < found["data"][id]
    assert found["noise"][id] < 0.35


def test_labels_are_the_ceiling_of_the_type_side(found):
    labels = found["labels"]
    for id in ("nmi_oracle", "ari_oracle", "purity", "clisi"):
        assert labels[id] == pytest.approx(1.0, abs=0.01), id
    # At a fixed resolution Leiden may cut a type in two that is one tight ball.
    fixed = {"nmi", "ari", "avg_bio_fixed"}
    for id, metric in METRICS.items():
        if metric.side == "types" and id not in {"relations", *fixed}:
            assert labels[id] >= found["data"][id] - 0.01, id
    assert labels["avg_bio"] > 0.95
    assert min(labels[id] for id in fixed) > 0.8


def test_labels_alone_do_not_keep_the_relations_of_types(found):
    # One-hot types are all equally far apart: the score that a label-trained embedding fails.
    assert found["labels"]["relations"] < 0.5
    assert found["data"]["relations"] > found["labels"]["relations"] + 0.3


def test_the_total_of_scib_gives_noise_nearly_half_marks(found):
    # Why it is no headline: the figure is declared in its page of the documentation.
    assert 0.35 < found["noise"]["overall_scib"] < found["data"]["overall_scib"]
