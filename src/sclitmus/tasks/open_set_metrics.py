"""The metrics of unknown types and of confidence, with their scales."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from sclitmus.core.metric import Metric
from sclitmus.metrics import calibration, openset
from sclitmus.metrics.novelty import NOVELTY_SCORES

DOI_OSCR = "10.48550/arXiv.1811.04110"
DOI_CALIBRATION = "10.48550/arXiv.1706.04599"
DOI_SCBERT = "10.1038/s42256-022-00534-z"
SCALED = ".scaled"  # behind the metrics of probabilities after temperature scaling


def _of_novelty() -> list[Metric]:
    table = []
    for name, (title, _) in NOVELTY_SCORES.items():
        words = title[0].lower() + title[1:]
        table += [
            Metric(
                f"auroc.{name}",
                openset.auroc,
                f"AUROC, {words}",
                "Probability that a cell of the unknown type looks newer than a known one.",
                (0.0, 1.0),
                chance=0.5,
            ),
            Metric(
                f"aupr.{name}",
                openset.aupr,
                f"AUPR, {words}",
                "Average precision for the unknown type; its prevalence is what chance gives.",
                (0.0, 1.0),
            ),
            Metric(
                f"fpr95.{name}",
                openset.fpr_at_95_known_kept,
                f"FPR95, {words}",
                "Share of the unknown type's cells accepted where 95% of the known ones are.",
                (0.0, 1.0),
                "lower",
                chance=0.95,
                doi="10.48550/arXiv.1706.02690",
            ),
            Metric(
                f"oscr.{name}",
                openset.oscr,
                f"OSCR, {words}",
                "Known cells accepted and called right against unknown ones accepted: the area.",
                (0.0, 1.0),
                doi=DOI_OSCR,
            ),
        ]
    kin = {"near": "types with close relatives among the known", "far": "types without"}
    table += [
        Metric(
            f"auroc_{name}",
            openset.auroc,
            f"AUROC, max softmax, {words}",
            "AUROC over the held-out types that are near to, or far from, what was learned.",
            (0.0, 1.0),
            chance=0.5,
        )
        for name, words in kin.items()
    ]
    return table


def _at_threshold(part: str, found: openset.AtThreshold) -> float:
    return float(getattr(found, part))


def _of_threshold() -> list[Metric]:
    told = "at the threshold that rejects 5% of the validation cells, by max softmax"
    table = {
        "known_accuracy": ("Knowns accepted and right", "higher", ""),
        "known_rejected": ("Knowns rejected", "lower", ""),
        "novel_recall": ("Unknowns rejected", "higher", ""),
        "novel_precision": ("Unknowns among the rejected", "higher", ""),
        "jaccard": ("Unknowns, Jaccard", "higher", DOI_SCBERT),
    }
    return [
        Metric(
            name,
            partial(_at_threshold, name),
            title,
            f"{title}, {told}."
            + (" scBERT's accuracy on novel types." if name == "jaccard" else ""),
            (0.0, 1.0),
            "higher" if direction == "higher" else "lower",
            doi=doi,
        )
        for name, (title, direction, doi) in table.items()
    ]


def _of_confidence() -> list[Metric]:
    whole: list[tuple[str, Callable[..., Any], str, str, float]] = [
        (
            "ece",
            calibration.top_label_ece,
            "ECE",
            "Gap between confidence and accuracy, 15 bins of equal width.",
            1.0,
        ),
        (
            "ece_mass",
            partial(calibration.top_label_ece, bins="mass"),
            "ECE, equal mass",
            "Gap between confidence and accuracy, 15 bins of as many cells each.",
            1.0,
        ),
        (
            "classwise_ece",
            calibration.classwise_ece,
            "Class-wise ECE",
            "Gap between probability and frequency of each class, averaged over the classes.",
            1.0,
        ),
        (
            "brier",
            calibration.brier,
            "Brier score",
            "Squared error of the probabilities, summed over the classes: 0 to 2.",
            2.0,
        ),
        (
            "nll",
            calibration.nll,
            "Negative log-likelihood",
            "Mean of minus the log of the true class's probability, in nats.",
            np.inf,
        ),
    ]
    return [
        Metric(
            f"{name}{suffix}",
            compute,
            f"{title}{', after temperature scaling' if suffix else ''}",
            summary,
            (0.0, top),
            "lower",
            doi=DOI_CALIBRATION,
        )
        for name, compute, title, summary, top in whole
        for suffix in ("", SCALED)
    ] + [
        Metric(
            "aurc",
            openset.risk_coverage,
            "AURC",
            "Errors among the known cells kept, over all shares kept, surest first.",
            (0.0, 1.0),
            "lower",
            doi="10.48550/arXiv.1805.08206",
        )
    ]


def _curves() -> list[Metric]:
    table = {
        "bin_confidence": "Mean confidence of the cells in a bin",
        "bin_accuracy": "Share of the cells in a bin that are called right",
        "bin_cells": "Number of cells in a bin",
        "risk": "Errors among the share of known cells that is kept",
    }
    names = {f"{name}{suffix}": words for name, words in table.items() for suffix in ("", SCALED)}
    return [
        Metric(
            name,
            calibration.reliability if name.startswith("bin") else openset.risk_coverage,
            words,
            words + ".",
            (0.0, np.inf if name.startswith("bin_cells") else 1.0),
            unit="bin",
        )
        for name, words in names.items()
        if name != f"risk{SCALED}"  # a temperature leaves the order of confidences nearly alone
    ]


METRICS: Mapping[str, Metric] = {
    metric.id: metric
    for metric in (*_of_novelty(), *_of_threshold(), *_of_confidence(), *_curves())
}

NOT_MEASURED: Mapping[str, str] = (
    {
        f"{metric}{SCALED}": "no temperature can be told from the validation cells of every split: "
        "too few of them are called wrong"
        for metric in ("ece", "ece_mass", "classwise_ece", "brier", "nll")
    }
    | {
        f"{metric}.energy": "its scores are log probabilities, which have no energy"
        for metric in ("auroc", "aupr", "fpr95", "oscr")
    }
    | {
        f"{metric}.{name}": "the method measures no distances between cells"
        for name, (_, source) in NOVELTY_SCORES.items()
        if source == "features"
        for metric in ("auroc", "aupr", "fpr95", "oscr")
    }
)
