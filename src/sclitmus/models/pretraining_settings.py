"""What a pretraining is asked for: a TOML file's tables, with the published values as defaults."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from sclitmus.errors import MethodError
from sclitmus.models.card import model_card
from sclitmus.models.rates import Schedule

Arch = Literal["scgpt", "geneformer", "scbert"]
MODELS: dict[str, str] = {  # whose files are written: the id under which they run
    "scgpt": "scgpt",
    "geneformer": "geneformer_v1_10m",
    "scbert": "scbert",
}
PORTS = {
    "scgpt": "sclitmus.models.scgpt:ScGPT",
    "geneformer": "sclitmus.models.geneformer:Geneformer",
    "scbert": "sclitmus.models.scbert:ScBERT",
}


@dataclass(frozen=True)
class GeneChoice:
    """Which genes of the corpus the model knows.

    Attributes
    ----------
    min_cells
        Training cells that must have a count of a gene.
    most
        Only so many, those whose log-normalised expression varies most; 0 takes all.
    list
        File with a name per line: only genes in it, in its order. Empty: the union of all files.
    """

    min_cells: int = 3
    most: int = 0
    list: str = ""


@dataclass(frozen=True)
class Objective:
    """What is hidden and what predicts it.

    Attributes
    ----------
    share
        Of the genes of a cell that are predicted; of several, each cell draws one.
    kept, random
        Of those, the share whose input stays as it is, and that gets a random gene's.
    gepc
        scGPT: whether the cell's vector predicts them too (the published "GEPC").
    tied
        Geneformer: whether the output vectors of genes are their input vectors.
    gene_vectors
        scBERT: ``"random"``, drawn once and left so; ``"trained"``; or a file in word2vec's text
        format (the published gene2vec), left as it is, which then decides on the genes.
    """

    share: tuple[float, ...] = (0.15,)
    kept: float = 0.0
    random: float = 0.0
    gepc: bool = True
    tied: bool = True
    gene_vectors: str = "random"


@dataclass(frozen=True)
class Course:
    """How long and how fast is trained; see `training.Plan`.

    Attributes
    ----------
    epoch_cells
        Cells between two validations, which is also what a killed training loses at most; 0: all.
    batch_cells
        Cells of a step of the optimiser. They pass through the network in as many parts as memory
        asks for, `batch_tokens` tokens at a time (0: what suits the device).
    clip
        0 shortens no gradient.
    patience
        Epochs without a lower validation loss before it stops; 0 never stops.
    """

    optimiser: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    schedule: Literal["constant", "decay", "linear", "cycles"] = "constant"
    gamma: float = 1.0
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: int = 10
    epoch_cells: int = 0
    batch_cells: int = 32
    batch_tokens: int = 0
    patience: int = 0

    @property
    def rates(self) -> Schedule:
        return Schedule(self.schedule, self.gamma, self.warmup)


@dataclass(frozen=True)
class Shuffling:
    """How cells are read; see `corpus.Corpus`."""

    block_cells: int = 256
    window_blocks: int = 16


@dataclass(frozen=True)
class HeldOut:
    """Which cells are kept from training, to be predicted after every epoch.

    Attributes
    ----------
    share
        Of the cells.
    by
        ``"cell"``; ``"file"``: whole files; ``"obs:COLUMN"``: whole donors, say.
    cells
        Most that are predicted, at random of those held out.
    warn_after
        Epochs after which a model that is no better than the mean is warned about.
    """

    share: float = 0.1
    by: str = "cell"
    cells: int = 5000
    warn_after: int = 3

    @property
    def column(self) -> str:
        """The obs column whose values are held out whole, or nothing."""
        return self.by.removeprefix("obs:") if self.by.startswith("obs:") else ""


# scGPT: Cui et al. 2024, Methods (Adam 1e-4, 0.9 per epoch, 6 epochs, 32 cells); ratios of
# examples/pretrain.py in the branch dev-temp. Geneformer: Theodoris et al. 2023, Methods (15 %, as
# BERT; AdamW 1e-3, linear after 10,000 steps of warm-up, weight decay 0.001, 3 epochs, 12 cells on
# each of 12 GPUs). scBERT: Yang et al. 2022, pretrain.py (15 % of the non-zero, 90 % of these
# hidden; Adam 1e-4 in cycles, clipped to 100; 3 cells x 60 steps).
PUBLISHED: dict[str, tuple[Objective, Course]] = {
    "scgpt": (
        Objective(share=(0.25, 0.5, 0.75)),
        Course("adam", 1e-4, "decay", gamma=0.9, epochs=6, batch_cells=32),
    ),
    "geneformer": (
        Objective(kept=0.1, random=0.1),
        Course("adamw", 1e-3, "linear", 1.0, 10_000, 1e-3, epochs=3, batch_cells=144),
    ),
    "scbert": (
        Objective(kept=0.1),
        Course("adam", 1e-4, "cycles", clip=100.0, epochs=100, batch_cells=180),
    ),
}


@dataclass(frozen=True)
class Settings:
    """All of it.

    Attributes
    ----------
    model
        Sizes, under the names of the official configuration file; by default the published ones.
    """

    arch: Arch
    model: Mapping[str, Any]
    genes: GeneChoice = field(default_factory=GeneChoice)
    objective: Objective = field(default_factory=Objective)
    training: Course = field(default_factory=Course)
    corpus: Shuffling = field(default_factory=Shuffling)
    validation: HeldOut = field(default_factory=HeldOut)

    @classmethod
    def of(cls, arch: str, tables: Mapping[str, Any]) -> Self:
        """Take the tables of a configuration.

        Raises
        ------
        MethodError
            If there is no such architecture or setting, or a value cannot be.
        """
        if arch not in get_args(Arch):
            raise MethodError(
                f"no {arch!r} can be pretrained here", ", ".join(get_args(Arch)), "choose one"
            )
        published: Mapping[str, Any] = model_card(MODELS[arch]).config
        objective, training = PUBLISHED[arch]
        start = cls(arch, published, objective=objective, training=training)  # type: ignore[arg-type]
        _refuse_unknown("", tables, [f.name for f in fields(cls)][1:])
        _refuse_unknown("model", tables.get("model", {}), list(published))
        parts: dict[str, Any] = {"model": {**published, **tables.get("model", {})}}
        for name in ("genes", "objective", "training", "corpus", "validation"):
            parts[name] = _changed(name, getattr(start, name), tables.get(name, {}))
        settings = replace(start, **parts)
        settings._check()
        return settings

    @classmethod
    def read(cls, arch: str, path: Path) -> Self:
        """Read the tables of a .toml file; paths in it are relative to it.

        Raises
        ------
        MethodError
            If it is no such file, or as of `of`.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MethodError(
                f"{path} cannot be read: {error}",
                "a .toml file with the tables model, genes, objective, training, corpus, "
                "validation, all of them optional",
                "start from studies/pretrain",
            ) from error
        settings = cls.of(arch, tables)
        genes, vectors = settings.genes, settings.objective.gene_vectors
        if genes.list:
            genes = replace(genes, list=str(path.parent / genes.list))
        if vectors not in ("random", "trained"):
            vectors = str(path.parent / vectors)
        return replace(
            settings, genes=genes, objective=replace(settings.objective, gene_vectors=vectors)
        )

    @property
    def vectors_file(self) -> str:
        """The file with gene vectors, if there is one."""
        given = self.objective.gene_vectors
        return given if self.arch == "scbert" and given not in ("random", "trained") else ""

    @property
    def plain(self) -> dict[str, Any]:
        """As what JSON holds."""
        return {**asdict(self), "model": dict(self.model)}

    def _check(self) -> None:
        objective, course = self.objective, self.training
        wrong = [
            ("objective.share", objective.share, all(0 < x < 1 for x in objective.share)),
            ("objective.share", objective.share, len(objective.share) > 0),
            ("objective.kept + random", objective.kept, objective.kept + objective.random <= 1),
            ("training.lr", course.lr, course.lr > 0),
            ("training.epochs", course.epochs, course.epochs >= 1),
            ("training.batch_cells", course.batch_cells, course.batch_cells >= 1),
            ("training.optimiser", course.optimiser, course.optimiser in ("adam", "adamw")),
            (
                "training.schedule",
                course.schedule,
                course.schedule in ("constant", "decay", "linear", "cycles"),
            ),
            ("corpus.block_cells", self.corpus.block_cells, self.corpus.block_cells >= 1),
            ("corpus.window_blocks", self.corpus.window_blocks, self.corpus.window_blocks >= 1),
            ("validation.share", self.validation.share, 0 < self.validation.share < 1),
            (
                "validation.by",
                self.validation.by,
                self.validation.by in ("cell", "file") or bool(self.validation.column),
            ),
            ("validation.cells", self.validation.cells, self.validation.cells >= 1),
            (
                "model.special_token",
                self.model.get("special_token"),
                not self.model.get("special_token", False),
            ),
        ]
        for name, value, fine in wrong:
            if not fine:
                raise MethodError(
                    f"{name} = {value!r}", "a value that docs/pretraining.md names", "change it"
                )


def _refuse_unknown(table: str, given: Mapping[str, Any], known: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise MethodError(
            f"there is no setting {', '.join(f'{table}.{name}'.strip('.') for name in unknown)}",
            f"one of: {', '.join(known)}",
            "docs/pretraining.md lists them",
        )


def _changed(table: str, default: Any, given: Mapping[str, Any]) -> Any:
    """Return these settings with some of them changed, each of the type it had."""
    _refuse_unknown(table, given, [f.name for f in fields(default)])
    changes = {}
    for name, value in given.items():
        old = getattr(default, name)
        if isinstance(old, tuple):
            value = tuple(float(x) for x in (value if isinstance(value, list) else [value]))
        elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(old):
            raise MethodError(
                f"{table}.{name} is {value!r}", f"a {type(old).__name__}", "change its value"
            )
        changes[name] = value
    return replace(default, **changes)
