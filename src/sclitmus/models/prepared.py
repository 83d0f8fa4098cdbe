"""Before the first step of a pretraining: corpus, genes, network with random weights, averages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32
from scipy import sparse

from sclitmus.core.activity import say
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError
from sclitmus.models import gene_survey
from sclitmus.models.corpus import Corpus, divided
from sclitmus.models.inference import tokenised
from sclitmus.models.masked_baselines import Baselines, OfBins, OfRanks
from sclitmus.models.objectives import (
    GeneformerObjective,
    Objective,
    ScBERTObjective,
    ScGPTObjective,
)
from sclitmus.models.pretraining_settings import PORTS, Settings
from sclitmus.models.tokens import Tokens
from sclitmus.models.weights import Weights
from sclitmus.models.written import unpublished, write_genes

COUNTED = 2048  # cells tokenised at once to count averages


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a pretraining starts from.

    Attributes
    ----------
    lookups
        The model's row of each column of each source.
    genes
        Their names, in the order of the model.
    """

    corpus: Corpus
    objective: Objective
    baselines: Baselines
    lookups: tuple[Int32[np.ndarray, "n_columns"], ...]
    genes: tuple[str, ...]

    def tokenise(self, source: int, counts: sparse.csr_matrix) -> Tokens:
        """Turn counts of a source into tokens."""
        draws_none = np.random.default_rng(0)
        tokens: Tokens = self.objective.port.tokenise(counts, self.lookups[source], draws_none)
        return tokens


def prepare(data: Sequence[Dataset], settings: Settings, out: Path, seed: int) -> Prepared:
    """Hold cells out, choose the genes and write them down, build the network, count averages.

    Raises
    ------
    MethodError
        If the data do not allow it.
    """
    held, shuffling = settings.validation, settings.corpus
    by = "group" if held.column else held.by
    sizes = shuffling.block_cells, shuffling.window_blocks
    corpus = divided(data, held.share, by, seed, *sizes, held.cells)
    genes = _write_genes(corpus, settings, out)
    port = _port(settings, genes, out, seed)
    lookups = tuple(_lookup(source, port) for source in corpus.sources)
    baselines = _averages(corpus, port, lookups, settings)
    objective = _objective(port, settings, baselines, seed)
    return Prepared(corpus, objective, baselines, lookups, genes)


def _write_genes(corpus: Corpus, settings: Settings, out: Path) -> tuple[str, ...]:
    arch, choice, vectors = settings.arch, settings.genes, settings.vectors_file
    found = gene_survey.gene_names(corpus.sources, "ensembl" if arch == "geneformer" else "symbol")
    seen = gene_survey.survey(corpus, found)
    listed = gene_survey.read_list(choice.list) if choice.list else None
    if vectors:
        own = _word_vectors(vectors)
        listed = [x for x in listed if x in own] if listed is not None else list(own)
    genes = gene_survey.chosen(found, seen, choice.min_cells, choice.most, listed)
    row = {name: i for i, name in enumerate(found.names)}
    medians = seen.median[[row[name] for name in genes]]
    write_genes(arch, out, genes, medians, found.symbols)
    return genes


def _port(settings: Settings, genes: tuple[str, ...], out: Path, seed: int) -> Any:
    """Build the network with random weights on the genes as they were written."""
    module, _, name = PORTS[settings.arch].partition(":")
    config = dict(settings.model)
    if settings.arch == "geneformer":
        # All layers are trained, whichever is read later. There are 2 special tokens.
        config |= {"vocab_size": len(genes) + 2, "emb_layer": 0}
    weights = Weights(unpublished(settings.arch), out)
    named = Genes(genes, ("",) * len(genes), "unknown")
    port: Any = getattr(import_module(module), name)
    port = port.build(config, named, weights, "fixed", seed)
    port.network.requires_grad_(True)
    if settings.arch == "scbert":
        _set_gene_vectors(port, settings)
    return port


def _set_gene_vectors(port: Any, settings: Settings) -> None:
    table = port.gene_embedding()
    table.requires_grad_(settings.objective.gene_vectors == "trained")
    with torch.no_grad():
        table[-1] = 0.0  # the position without a gene
        if settings.vectors_file:
            vectors = _word_vectors(settings.vectors_file)
            given = np.stack([vectors[name] for name in port.space.names])
            if given.shape[1] != table.shape[1]:
                raise MethodError(
                    f"gene vectors of {given.shape[1]} numbers, and model.dim {table.shape[1]}",
                    "the same number",
                    f"set model.dim to {given.shape[1]}",
                )
            table[:-1] = torch.from_numpy(given)


def _word_vectors(path: str) -> dict[str, Float32[np.ndarray, "d"]]:
    """Read vectors in word2vec's text format: a name and its numbers per line.

    Raises
    ------
    MethodError
        If it is no such file.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        parts = [line.split() for line in lines if line.strip()]
        if parts and len(parts[0]) == 2:  # number of vectors and of their numbers
            parts = parts[1:]
        table = np.array([part[1:] for part in parts], dtype=np.float32)
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise ValueError("no table of finite numbers")
    except (OSError, ValueError) as error:
        raise MethodError(
            f"{path} cannot be read: {error}",
            "a text file with a gene name and its numbers per line, all of one length",
            'give such a file, or gene_vectors = "random" or "trained"',
        ) from error
    return {part[0]: vector for part, vector in zip(parts, table, strict=True)}


def _lookup(source: Dataset, port: Any) -> Int32[np.ndarray, "n_columns"]:
    matched = port.space.match(source.genes)
    if not matched.n_matched:
        raise MethodError(
            f"{source.id} has none of the model's {matched.n_model} genes",
            "genes in common with the rest of the corpus",
            "leave it out",
        )
    lookup: np.ndarray = matched.lookup
    return lookup


def _averages(
    corpus: Corpus, port: Any, lookups: Sequence[np.ndarray], settings: Settings
) -> Baselines:
    def cells() -> Iterator[Tokens]:
        done = 0
        for source, counts in corpus.blocks("train", COUNTED):
            yield tokenised(port, counts, lookups[source], np.random.default_rng(0))
            done += counts.shape[0]
            say("counting averages", done, corpus.n_train)

    n_rows = len(port.space.names)
    if settings.arch == "geneformer":
        return OfRanks.of(cells, n_rows, port.config.room)
    if settings.arch == "scgpt":
        return OfBins.of(cells(), n_rows, port.config.n_bins, "value")
    return OfBins.of(cells(), n_rows, port.network.token_emb.num_embeddings - 1, "bin")


def _objective(port: Any, settings: Settings, baselines: Baselines, seed: int) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)  # not those of the network again
        if settings.arch == "geneformer":
            return GeneformerObjective(port, settings.objective)
        if settings.arch == "scbert":
            return ScBERTObjective(port, settings.objective)
        assert isinstance(baselines, OfBins)
        return ScGPTObjective(port, settings.objective, baselines.overall)
