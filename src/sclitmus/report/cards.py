"""What was compared: cards of the datasets and methods, and the paragraph for a paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sclitmus.core.method import MethodCard
from sclitmus.core.task import TaskCard
from sclitmus.execution.result import DatasetInfo
from sclitmus.report.content import ReportData
from sclitmus.report.families import families, family_of
from sclitmus.report.overlap import flattered, overlap
from sclitmus.report.text import joined, mid_sentence, spoken

PARTS: Mapping[str, str] = {
    "contender": "model under test",
    "bar": "simple baseline",
    "floor": "floor control",
    "ceiling": "ceiling control",
    "canary": "canary control",
}

_MANY = 4  # metrics of one family, from which on their names are not repeated

_SOFTWARE = (
    *("anndata", "scanpy", "scvi-tools", "harmonypy", "scikit-learn", "numpy", "scipy"),
    *("igraph", "umap-learn", "torch", "polars"),
)


@dataclass(frozen=True)
class Card:
    """A card as the page shows it: facts as (name, value), and what the reader must know."""

    title: str
    tag: str
    text: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    doi: str = ""


def dataset_cards(data: ReportData) -> tuple[Card, ...]:
    """Return one card per dataset; its notes are warnings."""
    return tuple(_dataset_card(data, info) for info in data.datasets)


def _dataset_card(data: ReportData, info: DatasetInfo) -> Card:
    card = info.card
    facts = [
        ("Cells", f"{info.n_cells:,}"),
        ("Genes", f"{info.n_genes:,}"),
        ("Types", _spread(info.labels)),
        ("Batches", _spread(info.batches)),
        ("Columns", ", ".join(f"{role}: {column}" for role, column in info.columns.items())),
        ("Organism", card.organism),
        ("Labels", card.label_quality),
        ("Source", card.source),
        ("Licence", card.licence),
        ("Public ids", ", ".join(card.corpora)),
    ]
    warnings = [note.text for note in info.notes]
    warnings += [flattered(m, info) for m in data.cards.values() if overlap(m, info)]
    warnings += [n["note"] for n in data.notes if n["dataset"] == info.id and not n["method"]]
    return Card(
        card.title or info.id,
        info.id if card.title and card.title != info.id else "",
        "",
        tuple((name, value) for name, value in facts if value and value != "unknown"),
        tuple(warnings),
        card.doi,
    )


def method_cards(data: ReportData) -> tuple[Card, ...]:
    """Return one card per method, with the overlap of its pretraining with the datasets."""
    cards = []
    for card in data.cards.values():
        facts = [
            ("Kind", spoken(card.kind)),
            ("Behaviour", card.behaviour),
            ("Settings", ", ".join(f"{k} = {v}" for k, v in card.params.items())),
            ("Genes", card.gene_space),
            ("Needs", ", ".join(card.needs)),
            ("Same for every seed", "yes" if card.deterministic else "no"),
            ("Sees the labels", "yes, on purpose: it is a control" if card.sees_labels else "no"),
            ("Pretrained on", ", ".join(card.corpora)),
            ("Licence", card.licence + " (not for commercial use)" * card.non_commercial),
        ]
        facts += [
            (f"On {note['dataset']}", note["note"])
            for note in data.notes
            if note["method"] == card.id
        ]
        warnings = tuple(flattered(card, info) for info in data.datasets if overlap(card, info))
        cards.append(
            Card(
                data.names[card.id],
                PARTS[card.part],
                card.summary,
                tuple((name, value) for name, value in facts if value),
                warnings,
                card.doi,
            )
        )
    return tuple(cards)


def _spread(counts: Mapping[str, int]) -> str:
    """Return ``10 (from 12 to 240 cells)``."""
    if not counts:
        return ""
    low, high = min(counts.values()), max(counts.values())
    cells = f"{low:,} cells" if low == high else f"{low:,} to {high:,} cells each"
    return f"{len(counts)} ({cells})"


def methods_paragraph(data: ReportData) -> str:
    """Return the paragraph for a paper's methods section, made of what the run recorded."""
    sentences = [
        f"{_what(data)} with scLitmus {_version('sclitmus')} on "
        + joined(
            [
                f"{d.card.title or d.id} ({d.n_cells:,} cells, {d.n_genes:,} genes"
                + (f", {len(d.labels)} types" if d.labels else "")
                + (f", {len(d.batches)} batches" if d.batches else "")
                + f"{_doi(d.card.doi)})"
                for d in data.datasets
            ]
        )
        + "."
    ]
    for part, opening in (
        ("contender", "Evaluated were"),
        ("bar", "The simple baselines to beat were"),
        ("floor", "The floor of the scale was"),
        ("ceiling", "The ceiling of the scale was"),
        ("canary", "Scores that can be gamed were looked for with"),
    ):
        cards = [c for c in data.cards.values() if c.part == part]
        if cards:
            sentences.append(f"{opening} {joined([_method(c) for c in cards])}.")
    for task in data.tasks:
        metric = data.metric(task.headline)
        name = metric.title if metric else task.headline
        beside = _beside(data, task)
        text = f"The task {spoken(task.id)} asked “{task.question}” and was judged by {name}"
        text += f"{_in_brackets(metric.doi)}" if metric else ""
        text += f", shown beside {joined(beside)}" if beside else ""
        sentences.append(
            f"{text}; differences up to {task.margin:g} counted as equivalent"
            f"{_in_brackets(task.doi)}."
        )
    hows = [how for how in data.analysis.intervals["how"].unique(maintain_order=True) if how]
    if hows:
        sentences.append(
            f"Intervals (95%) rest on {joined(hows)} (delete-d jackknife, "
            "doi:10.1214/aos/1176347263)."
        )
    sentences.append(
        "Every method was scored on the same cells, so that differences are paired; each model "
        "was compared with the best simple baseline (multiple comparisons with the best, "
        "doi:10.1214/aos/1176346586), and p-values were corrected for the number of models "
        "after Holm."
    )
    software = [f"{name} {v}" for name in _SOFTWARE if (v := _version(name))]
    sentences.append(f"Software: {', '.join(software)}.")
    return " ".join(sentences)


def _what(data: ReportData) -> str:
    """Say what was evaluated: embeddings as they are, labels learned, or both."""
    if not data.label_tasks:
        return "Cell embeddings were evaluated zero-shot"
    learned = (
        "Methods were evaluated by the labels that they learned from some cells and predicted for "
        "others (embeddings by a logistic regression on them, the same for all)"
    )
    if len(data.label_tasks) == len(data.tasks):
        return learned
    return f"Cell embeddings were evaluated zero-shot, and {mid_sentence(learned)},"


def _beside(data: ReportData, task: TaskCard) -> list[str]:
    """Name the metrics beside a headline, those of its own family by what they differ in."""
    family = family_of(task.headline)
    own = [metric for metric in task.beside if family_of(metric) == family]
    own = own if len(own) >= _MANY else []
    named = [m.title if (m := data.metric(b)) else b for b in task.beside if b not in own]
    if own:
        members = families(data, [task.headline, *own])[0].members[1:]
        named.append(f"its values for {joined([mid_sentence(m.words) for m in members])}")
    return named


def citations(data: ReportData) -> tuple[tuple[str, str], ...]:
    """Return (what, doi) of everything the study rests on, each doi once."""
    named: list[tuple[str, str]] = [(c.title or c.id, c.doi) for c in data.cards.values()]
    named += [(spoken(t.id), t.doi) for t in data.tasks]
    named += [(m.title, m.doi) for m in data.metrics]
    named += [(d.card.title or d.id, d.card.doi) for d in data.datasets]
    about: dict[str, list[str]] = {}
    for name, dois in named:
        for doi in dois.replace(",", " ").split():
            about.setdefault(doi.removeprefix("doi:"), []).append(name)
    return tuple((", ".join(dict.fromkeys(names)), doi) for doi, names in about.items())


def _method(card: MethodCard) -> str:
    params = ", ".join(f"{k} = {v}" for k, v in card.params.items())
    inside = "; ".join(x for x in (params, f"doi:{card.doi}" if card.doi else "") if x)
    return f"{card.title or card.id} ({inside})" if inside else (card.title or card.id)


def _doi(doi: str) -> str:
    return f", doi:{doi}" if doi else ""


def _in_brackets(doi: str) -> str:
    return f" (doi:{doi})" if doi else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
