"""UCE (Rosen et al. 2023, doi:10.1101/2023.11.28.568918): cells of any species by their proteins.

A cell is a list of 1024 of its genes, drawn with replacement in proportion to log1p of their
counts and laid out along the chromosomes, each between a token of the chromosome and one that ends
it. A gene is the ESM2 vector of its protein, a chromosome a random vector. A token in front, CLS,
becomes the embedding.

Files: ``4layer_model.torch`` or ``33l_8ep_1024t_1280.torch`` (state dict, with the vectors of all
tokens), ``species_chrom.csv`` (chromosome and start of each gene), ``species_offsets.pkl`` (first
token of each species), ``protein_embeddings/*.pt`` (only the names in them, in their order). The
original's ``all_tokens.torch`` is not read: for the eight species the vectors of the checkpoint
take its place there too.

fixed beside official: the original adds 1 to the attention towards padding instead of leaving it
out, so a cell's embedding depends on the longest cell of its batch; it draws the genes and the
order of the chromosomes at random. Here there is no padding, the chromosomes keep one order, and
the 1024 genes are those at equal steps along the sum of the cell's weights. The original also
drops genes and cells that are rare in the data set; here all cells stay, either way.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from numba import njit
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import EncoderLayer
from sclitmus.models.checkpoint import fill, read_torch, tensors_of, without_prefix
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.uce_genome import (
    MADE_UP_CHROMOSOMES,
    N_SPECIAL,
    Genome,
    SpeciesSpace,
    made_up_genome,
    read_genome,
)
from sclitmus.models.weights import Weights

PAD, CHROM_END, CLS = 0, 2, 3  # rows of the token table; 1 would begin a chromosome and is unused
TABLE = "pe_embedding.weight"  # its key in the checkpoint
CHUNK = 4096  # rows of the token table that are encoded at once

UNUSED = {r"binary_decoder\..*": "tells whether a cell expresses a gene"}


@dataclass(frozen=True)
class Config:
    """Sizes of the network and of what it reads; the card has the published ones."""

    token_dim: int
    d_model: int
    nhead: int
    d_hid: int
    nlayers: int
    output_dim: int
    pad_length: int  # longest list of tokens
    sample_size: int  # genes in it
    chrom_offset: int  # first chromosome in the token table
    batch_size: int  # cells that the original passes through the network at once


class Positions(nn.Module):
    """Sines and cosines of a token's place in the list."""

    pe: Tensor

    def __init__(self, d: int, longest: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, d, 2) * (-math.log(10_000.0) / d))
        angles = torch.arange(longest)[:, None] * rates
        table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        self.register_buffer("pe", table[:, None, :])


def _reader(d_in: int, d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d), nn.GELU(), nn.LayerNorm(d))


def _block(d_in: int, d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d), nn.LayerNorm(d), nn.GELU())


class Network(nn.Module):
    """The encoder, on packed tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d, out = config.d_model, config.output_dim
        self.encoder = _reader(config.token_dim, d)
        self.pos_encoder = Positions(d, config.pad_length)
        # The original copies one layer, so that all start from the same weights.
        layer = EncoderLayer(d, config.nhead, config.d_hid, "relu")
        layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(config.nlayers))
        self.transformer_encoder = nn.ModuleDict({"layers": layers})
        self.decoder = nn.Sequential(
            _block(d, 1024), _block(1024, out), _block(out, out), nn.Linear(out, out)
        )
        self.gene_embedding_layer = _reader(config.token_dim, d)
        self.d = d

    def forward(self, x: Tensor, offsets: list[int], bias: Tensor | None) -> Tensor:
        """Return the last state of every token, (n_tokens, d); x are the encoded tokens."""
        places = torch.cat([torch.arange(b - a, device=x.device) for a, b in pairwise(offsets)])
        x = x * math.sqrt(self.d) + self.pos_encoder.pe[places, 0]
        for layer in self.transformer_encoder["layers"].children():
            x = layer(x, offsets, bias)
        return x


class TokenTable:
    """Vectors of all tokens, memory-mapped; those that occur are encoded once and kept.

    Parameters
    ----------
    raw
        (n_tokens, token_dim); in main memory, or in the file.
    """

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw
        self.place = torch.full((len(raw),), -1)  # of each token in `encoded`
        self.encoded: Tensor | None = None

    def encode(self, network: Network, tokens: Tensor) -> Tensor:
        """Return what the network reads for these tokens, (n, d)."""
        device = tokens.device
        if self.encoded is None or self.encoded.device != device:
            self.place.fill_(-1)
            self.encoded = torch.empty((0, network.d), device=device)
        distinct, which = torch.unique(tokens, return_inverse=True)
        distinct = distinct.cpu()
        new = distinct[self.place[distinct] < 0]
        if len(new):
            known = len(self.encoded)
            self.place[new] = torch.arange(known, known + len(new))
            # In full precision, whatever the rest is run in: it is done once.
            with torch.autocast(device.type, enabled=False):
                parts = [
                    network.encoder(nn.functional.normalize(self.raw[rows].to(device)))
                    for rows in torch.split(new, CHUNK)
                ]
            self.encoded = torch.cat([self.encoded, *parts])
        return self.encoded[self.place[distinct].to(device)[which]]


@dataclass(frozen=True, eq=False)
class UCE:
    """The port: see `models.port.Port`."""

    network: Network
    space: SpeciesSpace
    config: Config
    behaviour: Behaviour
    table: TokenTable
    genome: Genome

    @property
    def together(self) -> int | None:
        return self.config.batch_size if self.behaviour == "official" else None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        config = Config(**weights.card.config)
        path, tensors, table = _checkpoint(weights, config)
        space, genome = read_genome(weights, config.chrom_offset, len(table))
        with torch.device("meta"):
            network = Network(config)
        fill(network, tensors, path, unused=UNUSED)
        return cls(network, space, config, behaviour, TokenTable(table), genome)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        sizes = Config(**config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes).eval().requires_grad_(False)
            if weights is not None:  # what it reads is not learned: proteins and places as they are
                table = _checkpoint(weights, sizes)[2]
                space, genome = read_genome(weights, sizes.chrom_offset, len(table))
            else:
                space, genome = made_up_genome(genes)
                sizes = replace(sizes, chrom_offset=N_SPECIAL + len(space.names))
                n_tokens = sizes.chrom_offset + MADE_UP_CHROMOSOMES
                table = torch.randn(n_tokens, sizes.token_dim)
        return cls(network, space, sizes, behaviour, TokenTable(table), genome)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        columns = np.flatnonzero(lookup >= 0)
        if self.behaviour == "fixed":
            columns = columns[np.argsort(self.genome.rank[lookup[columns]], kind="stable")]
        # By way of columns: that sorts the entries of each cell, in linear time.
        known = sparse.csr_matrix(sparse.csc_matrix(counts)[:, columns])
        known.eliminate_zeros()
        rows = lookup[columns]
        token, chrom = self.genome.token[rows], self.genome.chrom[rows]
        if self.behaviour == "official":
            drawn = _drawn(known, token, chrom, self.genome.start[rows], self.config, rng)
        else:
            drawn = _combed(
                known.indptr.astype(np.int64),
                known.indices.astype(np.int64),
                np.log1p(known.data.astype(np.float64)),
                token,
                chrom.astype(np.int64),
                self.config.sample_size,
                self.config.pad_length,
                self.config.chrom_offset,
            )
        offsets, tokens, at = drawn
        gene = np.full(len(at), -1, dtype=np.int32)
        gene[at >= 0] = rows[at[at >= 0]]
        return Tokens(offsets, {"gene": gene, "token": tokens})

    def cells(self, batch: Batch) -> Tensor:
        states, starts, _ = self._states(batch)
        z = self.network.decoder(states[torch.tensor(starts, device=states.device)])
        return nn.functional.normalize(z.float(), dim=1)

    def gene_states(self, batch: Batch) -> Tensor:
        states, _, real = self._states(batch)
        z: Tensor = self.network.decoder(states if real is None else states[real])
        return z

    def _states(self, batch: Batch) -> tuple[Tensor, list[int], Tensor | None]:
        """Return states of all tokens, where each cell begins, and which tokens are not padding."""
        tokens, offsets = batch.columns["token"], list(batch.offsets)
        if self.behaviour == "fixed":
            states = self.network(self.table.encode(self.network, tokens), offsets, None)
            return states, offsets[:-1], None
        longest = max(batch.lengths)
        lengths = torch.tensor(batch.lengths, device=tokens.device)
        real = (torch.arange(longest, device=tokens.device) < lengths[:, None]).flatten()
        padded = tokens.new_full((len(real),), PAD)
        padded[real] = tokens
        offsets = list(range(0, len(real) + 1, longest))
        # A mask of numbers is added to the attention: padding, marked by 1, gains by it.
        bias = (~real).float()
        return (
            self.network(self.table.encode(self.network, padded), offsets, bias),
            offsets[:-1],
            real,
        )

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        """What the authors advise: the proteins' vectors through the layer that reads them."""
        read = self.network.gene_embedding_layer
        device = next(read.parameters()).device
        with torch.inference_mode():
            parts = [
                read(self.table.raw[rows].to(device)).cpu()
                for rows in torch.split(torch.from_numpy(self.genome.token).long(), CHUNK)
            ]
        return np.asarray(torch.cat(parts).numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _checkpoint(weights: Weights, config: Config) -> tuple[Path, dict[str, Tensor], Tensor]:
    """Return the tensors of the network, and those of the tokens."""
    name = next(file.name for file in weights.card.files if file.name.endswith(".torch"))
    path = weights.file(name)
    tensors = without_prefix(tensors_of(read_torch(path), path))
    table = tensors.pop(TABLE, None)
    if table is None or table.ndim != 2 or table.shape[1] != config.token_dim:
        raise WeightsError(
            f"{path} has "
            + (f"no {TABLE}" if table is None else f"a {TABLE} of {tuple(table.shape)}"),
            f"a vector of {config.token_dim} numbers per token",
            "take the checkpoint as published, not the weights of the network alone",
        )
    return path, tensors, table


Drawn = tuple[Int64[np.ndarray, "n_cells_plus_1"], Int32[np.ndarray, "n"], Int64[np.ndarray, "n"]]


def _drawn(
    known: sparse.csr_matrix,
    token: np.ndarray,
    chrom: np.ndarray,
    start: np.ndarray,
    config: Config,
    rng: np.random.Generator,
) -> Drawn:
    """Draw genes and the order of chromosomes as the original does, number by number.

    Returns
    -------
    offsets, tokens, columns
        The column of `known` that a token stands for; -1 for a special one.
    """
    sentences: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    none = np.array([-1])
    dense = torch.zeros(known.shape[1], dtype=torch.int64)
    for a, b in pairwise(known.indptr.tolist()):
        tokens, at = [np.array([CLS])], [none]
        if b > a:
            genes = known.indices[a:b]
            # Rounded as there: 32 bits, torch's sum over all genes, then a sum one by one.
            dense.zero_()[genes] = torch.from_numpy(known.data[a:b].astype(np.int64))
            logs = torch.log1p(dense[None])
            weight = (logs / torch.sum(logs)).numpy()[0, genes]
            weight = weight / np.cumsum(weight)[-1]
            levels = np.cumsum(weight.astype(np.float64))
            levels /= levels[-1]
            drawn = genes[np.searchsorted(levels, rng.random(config.sample_size), side="right")]
            drawn = drawn[np.argsort(chrom[drawn])]
            kinds = np.unique(chrom[drawn])
            rng.shuffle(kinds)
            for kind in kinds:
                part = drawn[chrom[drawn] == kind]
                part = part[np.argsort(start[part])]
                opening = np.array([config.chrom_offset + int(kind)])
                tokens += [opening, token[part], np.array([CHROM_END])]
                at += [none, part, none]
        sentences.append(np.concatenate(tokens)[: config.pad_length])
        columns.append(np.concatenate(at)[: config.pad_length])
    offsets = np.cumsum([0, *(len(sentence) for sentence in sentences)])
    return offsets, np.concatenate(sentences).astype(np.int32), np.concatenate(columns)


@njit(cache=True, nogil=True)
def _combed(indptr, indices, weights, token, chrom, n_drawn, longest, chrom_offset):  # type: ignore[no-untyped-def]
    """Take the genes at equal steps along the sum of a cell's weights; see `_drawn`.

    The columns are in the order of the genome: what is taken needs no sorting.
    """
    n_cells = len(indptr) - 1
    offsets = np.zeros(n_cells + 1, dtype=np.int64)
    tokens = np.empty(n_cells * longest, dtype=np.int32)
    columns = np.full(n_cells * longest, -1, dtype=np.int64)
    n = 0
    for cell in range(n_cells):
        a, b = indptr[cell], indptr[cell + 1]
        end = n + longest
        tokens[n] = CLS
        n += 1
        total = 0.0
        for at in range(a, b):
            total += weights[at]
        reached, step, last = 0.0, 0, -1
        for at in range(a, b):
            reached += weights[at]
            column = indices[at]
            # Step k lies at (k + 1/2) / n_drawn of the sum.
            while step < n_drawn and (step + 0.5) * total < reached * n_drawn:
                step += 1
                opens = last < 0 or chrom[last] != chrom[column]
                if n + (4 if opens else 2) > end:  # room to end a chromosome must be left
                    break
                if opens:
                    if last >= 0:
                        tokens[n] = CHROM_END
                        n += 1
                    tokens[n] = chrom_offset + chrom[column]
                    n += 1
                    last = column
                tokens[n] = token[column]
                columns[n] = column
                n += 1
        if last >= 0:
            tokens[n] = CHROM_END
            n += 1
        offsets[cell + 1] = n
    return offsets, tokens[:n], columns[:n]
