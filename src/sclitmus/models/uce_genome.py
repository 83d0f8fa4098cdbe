"""UCE's genes: those of several species, each with its token and its place on a chromosome."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int32, Int64

from sclitmus.core.dataset import Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.checkpoint import read_pickle, read_torch, refuse_foreign, tensors_of
from sclitmus.models.gene_space import GeneSpace, Matched
from sclitmus.models.weights import Weights

HUMAN = "human"
SPECIES = {  # the original's name of a species → its file in protein_embeddings
    "human": "Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt",
    "mouse": "Mus_musculus.GRCm39.gene_symbol_to_embedding_ESM2.pt",
    "frog": "Xenopus_tropicalis.Xenopus_tropicalis_v9.1.gene_symbol_to_embedding_ESM2.pt",
    "zebrafish": "Danio_rerio.GRCz11.gene_symbol_to_embedding_ESM2.pt",
    "mouse_lemur": "Microcebus_murinus.Mmur_3.0.gene_symbol_to_embedding_ESM2.pt",
    "pig": "Sus_scrofa.Sscrofa11.1.gene_symbol_to_embedding_ESM2.pt",
    "macaca_fascicularis": (
        "Macaca_fascicularis.Macaca_fascicularis_6.0.gene_symbol_to_embedding_ESM2.pt"
    ),
    "macaca_mulatta": "Macaca_mulatta.Mmul_10.gene_symbol_to_embedding_ESM2.pt",
}
CALLED = {  # our name of an organism → the original's; "human" is its default
    "unknown": HUMAN,
    "mouse lemur": "mouse_lemur",
    "macaque": "macaca_mulatta",
    "crab-eating macaque": "macaca_fascicularis",
}
N_SPECIAL = 4  # tokens before those of the first gene
MADE_UP_CHROMOSOMES = 24


@dataclass(frozen=True)
class SpeciesSpace(GeneSpace):
    """Genes of several species; those of other species than human are named "species:SYMBOL".

    Attributes
    ----------
    species
        Number of genes of each species that is at hand.
    """

    species: Mapping[str, int] = field(default_factory=dict)

    def match(self, genes: Genes) -> Matched:
        """Look up the row of every column of a dataset among the genes of its own species.

        Raises
        ------
        NotApplicable
            If the files of that species are not at hand, or there are none.
        """
        species = CALLED.get(genes.organism, genes.organism)
        if species not in self.species:
            raise NotApplicable(
                f"UCE has no tokens for the genes of {genes.organism}: "
                + (
                    f"protein_embeddings/{SPECIES[species]} is not among its files"
                    if species in SPECIES
                    else "it was not made for them"
                )
                + f"; it has those of {', '.join(self.species)}"
            )
        mark = _mark(species)
        symbols = tuple(mark + name if name else "" for name in genes.symbol)
        matched = super().match(replace(genes, symbol=symbols))
        examples = tuple(name.removeprefix(mark) for name in matched.examples)
        return replace(matched, n_model=self.species[species], examples=examples)


def _mark(species: str) -> str:
    return "" if species == HUMAN else f"{species}:"


@dataclass(frozen=True)
class Genome:
    """Of every row of the space: its token, its chromosome, and where on it the gene begins."""

    token: Int32[np.ndarray, "n_rows"]
    chrom: np.ndarray  # a code per species and chromosome, in the smallest type that holds it
    start: np.ndarray

    @property
    def rank(self) -> Int64[np.ndarray, "n_rows"]:
        """Place of each row if all are sorted along the chromosomes."""
        return np.argsort(np.lexsort((self.token, self.start, self.chrom)))


def read_genome(weights: Weights, chrom_offset: int, n_tokens: int) -> tuple[SpeciesSpace, Genome]:
    """Read the genes of the species that are at hand, and where they lie.

    Parameters
    ----------
    chrom_offset, n_tokens
        Where chromosomes begin in the table of tokens, and how many tokens it has.

    Raises
    ------
    WeightsError
        If a file is not what it should be, or the files do not belong together.
    """
    offsets = _offsets(weights.file("species_offsets.pkl"))
    places = _places(weights.file("species_chrom.csv"))
    ends = dict(pairwise([*sorted(offsets.values()), chrom_offset]))
    species: dict[str, int] = {}
    names: list[str] = []
    parts: list[pd.DataFrame] = []
    for kind in sorted(offsets, key=lambda kind: offsets[kind]):
        file = f"protein_embeddings/{SPECIES.get(kind, '')}"
        path = weights.file(file) if kind == HUMAN else weights.find(file)
        if path is None:
            continue
        symbols = list(dict.fromkeys(name.upper() for name in tensors_of(read_torch(path), path)))
        first, room = offsets[kind], ends[offsets[kind]] - offsets[kind]
        if len(symbols) > room:
            raise _other_release(
                f"{path} names {len(symbols)} genes, but species_offsets.pkl leaves room for "
                f"{room} of {kind}"
            )
        place = places[places["species"] == kind].set_index("gene_symbol").reindex(symbols)
        place["token"] = np.arange(first, first + len(symbols))
        # A gene without a place cannot be put into a sentence: it keeps its row, without a name.
        placed = place["code"].notna().to_numpy()
        species[kind] = int(placed.sum())
        names += [
            _mark(kind) + name if at else "" for name, at in zip(symbols, placed, strict=True)
        ]
        parts.append(place)
    table = pd.concat(parts)
    chrom = np.asarray(table["code"].fillna(-1), places["code"].to_numpy().dtype)
    start = np.asarray(table["start"].fillna(0), places["start"].to_numpy().dtype)
    if chrom_offset + int(chrom.max(initial=0)) >= n_tokens:
        raise _other_release(
            f"species_chrom.csv names {int(chrom.max()) + 1} chromosomes, but the checkpoint has "
            f"tokens for {n_tokens - chrom_offset}"
        )
    space = SpeciesSpace(tuple(names), "symbol", any_case=True, species=species)
    return space, Genome(np.asarray(table["token"], np.int32), chrom, start)


def _other_release(seen: str) -> WeightsError:
    return WeightsError(
        seen, "files of one release", "get all files from the official source again"
    )


def _offsets(path: Path) -> dict[str, int]:
    """Read the first token of each species."""
    offsets = read_pickle(path)
    if not isinstance(offsets, dict) or HUMAN not in offsets:
        raise WeightsError(
            f"{path} is no table of the first token of each species",
            f"numbers for {', '.join(SPECIES)}",
            "get it from the official source again",
        )
    return {str(name): int(offset) for name, offset in offsets.items()}


def _places(path: Path) -> pd.DataFrame:
    """Read species, symbol, start and chromosome code of every gene."""
    refuse_foreign(path)
    text = dict.fromkeys(("species", "gene_symbol", "chromosome"), str)
    try:
        table = pd.read_csv(path, dtype=text)
        # A code counts the names of all chromosomes in the file, of every species, sorted.
        code = pd.Categorical(table["species"] + "_" + table["chromosome"]).codes
        table = table[["species", "gene_symbol", "start"]].assign(code=code)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read: {error}",
            "a table with the columns species, gene_symbol, chromosome and start",
            "get species_chrom.csv from the official source again",
        ) from error
    return table.drop_duplicates(["species", "gene_symbol"])


def made_up_genome(genes: Genes) -> tuple[SpeciesSpace, Genome]:
    """Lay a dataset's own genes out by their names: where they lie in truth is not at hand."""
    species = CALLED.get(genes.organism, genes.organism)
    symbols = sorted({name.upper() for name in genes.symbol if name})
    names = tuple(_mark(species) + name for name in symbols)
    row = np.arange(len(names))
    chrom = row * MADE_UP_CHROMOSOMES // max(len(names), 1)
    space = SpeciesSpace(names, "symbol", any_case=True, species={species: len(names)})
    return space, Genome((row + N_SPECIAL).astype(np.int32), chrom.astype(np.int8), row)
