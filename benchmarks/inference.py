"""Time of embedding cells with a foundation model, beside the way the published pipelines do it.

    python benchmarks/inference.py                         # scGPT and Geneformer V1-10M, CPU
    python benchmarks/inference.py --device cuda --cells 2000 --models scgpt geneformer_v2_104m
    python benchmarks/inference.py --only tokens           # 20k cells x 20k genes

Both sides share one network with random weights and the same cells. The published way, written here
from its description: every cell is tokenised by itself in Python, padded to the longest the model
takes, and passes through attention that writes out all of its weights (softmax(QK') V). Ours:
`sclitmus embed`. Figures:

tokens      cells per second from counts to the tensors that a network takes; ours on all cores
cells       cells per second from counts to embedding, of cells that no model cuts short, and the
            largest difference between both
of matmul   floating-point operations of the real tokens (no padding) per second of the whole call,
            as a share of what a large matrix product reaches on this machine, measured just before
            and just after
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import sparse

from sclitmus import catalog
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.inference import Compute, tokenised

PUBLISHED_BATCH = 64
PUBLISHED_LENGTH = {"scgpt": 1200, "geneformer": 2048}


def simulated(n_cells: int, n_genes: int, expressed: float) -> Dataset:
    """Counts with about `expressed` genes per cell, like those of droplets."""
    rng = np.random.default_rng(0)
    popularity = rng.gamma(0.35, 1.0, n_genes)
    blocks = []
    for start in range(0, n_cells, 1000):
        n = min(1000, n_cells - start)
        depth = rng.lognormal(0.0, 0.4, (n, 1))
        mean = popularity[None, :] * depth * (expressed / n_genes * 2.2)
        blocks.append(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    counts = sparse.vstack(blocks, format="csr")
    names = tuple(f"ENSG{i:011d}" for i in range(n_genes))
    genes = Genes(tuple(f"G{i}" for i in range(n_genes)), names, "human")
    return Dataset("simulated", counts, genes, tuple(map(str, range(n_cells))))


# ---- the published way


def scgpt_tokens(port: Any, rows: sparse.csr_matrix, ids: np.ndarray, rng: Any) -> list[Any]:
    """Cell by cell: its expressed genes, binned between 50 quantiles, behind <cls>."""
    made = []
    for row in rows.toarray():
        expressed = np.nonzero(row)[0]
        genes = torch.from_numpy(np.insert(ids[expressed], 0, port.cls)).long()
        values = torch.from_numpy(np.insert(row[expressed], 0, -2)).float()
        counts = values[1:].numpy()
        edges = np.quantile(counts, np.linspace(0, 1, 50))
        left, right = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
        u = 0.5 * np.ones(len(counts)) if rng is None else rng.random(len(counts))
        values[1:] = torch.from_numpy(np.ceil(u * (right - left) + left))
        made.append((genes, values))
    return made


def geneformer_tokens(port: Any, rows: sparse.csr_matrix, ids: np.ndarray, rng: Any) -> list[Any]:
    """Scale all, then cell by cell: its genes by descending value, cut to the longest."""
    scaled = sparse.csr_matrix(rows / rows.sum(axis=1) * 10_000 / port.medians[ids])
    made = []
    for i in range(scaled.shape[0]):
        tokens = ids[scaled[i].indices]
        order = np.argsort(-scaled[i].data, kind="stable")
        made.append((torch.tensor(tokens[order][: port.config.room]).long(), None))
    return made


def padded(rows: list[torch.Tensor], length: int, value: float) -> torch.Tensor:
    return torch.stack(
        [F.pad(row[:length], (0, length - len(row[:length])), value=value) for row in rows]
    )


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = logits.masked_fill(~real[:, None, None, :], float("-inf")).softmax(-1)
    return weights @ v


def heads(x: torch.Tensor, n: int) -> torch.Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def scgpt_forward(port: Any, genes: torch.Tensor, values: torch.Tensor, real: torch.Tensor) -> Any:
    net = port.network
    b, length = genes.shape
    x = net.encoder(genes) + net.value_encoder(values.flatten()).unflatten(0, (b, length))
    for layer in net.transformer_encoder["layers"]:
        own = layer.self_attn
        qkv = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
        z = attention(*(heads(part, own.n_heads) for part in qkv), real)
        x = layer.norm1(x + own.out_proj(z.transpose(1, 2).flatten(2)))
        x = layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x))))
    return F.normalize(x[:, 0].float(), dim=1)


def geneformer_forward(port: Any, genes: torch.Tensor, values: Any, real: torch.Tensor) -> Any:
    bert = port.network.bert
    places = torch.arange(genes.shape[1], device=genes.device).expand_as(genes)
    x = bert.embeddings(genes, places)
    hidden = [x]
    for layer in bert.encoder["layer"]:
        own = layer.attention["self"]
        parts = (heads(own[name](x), layer.n_heads) for name in ("query", "key", "value"))
        z = attention(*parts, real).transpose(1, 2).flatten(2)
        x = layer.attention["output"](z, x)
        x = layer.output(layer.activation(layer.intermediate["dense"](x)), x)
        hidden.append(x)  # output_hidden_states=True keeps them all
    states = hidden[port.config.n_layers_run].float()
    weight = real[..., None].float()
    return (states * weight).sum(1) / weight.sum(1)


PUBLISHED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "scgpt": (scgpt_tokens, scgpt_forward),
    "geneformer": (geneformer_tokens, geneformer_forward),
}


def published_way(model: FrozenModel, cells: Dataset, compute: Compute) -> np.ndarray:
    """Embed as the original pipelines do: cell by cell, padded, eager attention."""
    port: Any = model.loaded
    family = model.id.partition("_")[0]
    tokens_of, forward = PUBLISHED[family]
    ids = model.match(cells.genes).lookup
    length = PUBLISHED_LENGTH[family]
    rows = []
    with torch.inference_mode():
        for start in range(0, cells.n_cells, PUBLISHED_BATCH):
            made = tokens_of(port, cells.counts[start : start + PUBLISHED_BATCH], ids, None)
            genes = padded([g for g, _ in made], length, 0).to(compute.place)
            real = padded([torch.ones(len(g)) for g, _ in made], length, 0).bool().to(compute.place)
            values = None
            if made[0][1] is not None:
                values = padded([v for _, v in made], length, -2).to(compute.place)
            low = compute.dtype != torch.float32
            with torch.autocast(compute.place.type, compute.dtype, enabled=low):
                rows.append(forward(port, genes, values, real).float().cpu().numpy())
    return np.concatenate(rows)


# ---- measuring


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    value = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, value


def matmul_rate(compute: Compute) -> float:
    """Floating-point operations per second of a large matrix product: the median of seven."""
    n = 8192 if compute.place.type == "cuda" else 2048
    a = torch.randn(n, n, device=compute.place, dtype=compute.dtype)
    times = sorted(seconds(lambda: a @ a)[0] for _ in range(7))
    return 2 * n**3 / times[3]


def true_flops(model: FrozenModel, cells: Dataset) -> float:
    """Operations of all real tokens: linear layers, and attention among a cell's own tokens."""
    port: Any = model.loaded
    counts = cells.counts
    tokens = port.tokenise(counts, model.match(cells.genes).lookup, np.random.default_rng(0))
    lengths = tokens.lengths.astype(float)
    config = port.config
    if model.id == "scgpt":
        d, hidden, layers = config.embsize, config.d_hid, config.nlayers
    else:
        d, hidden, layers = config.hidden_size, config.intermediate_size, config.n_layers_run
    per_token = 2 * (4 * d * d + 2 * d * hidden)
    return float(layers * (lengths * per_token + 4 * lengths**2 * d).sum())


def measure_tokens(model: FrozenModel, cells: Dataset) -> dict[str, float]:
    port: Any = model.loaded
    tokens_of = PUBLISHED[model.id.partition("_")[0]][0]
    lookup = model.match(cells.genes).lookup
    rng = np.random.default_rng(0)
    port.tokenise(cells.counts[:10], lookup, rng)  # compiled once per machine
    ours = min(seconds(lambda: tokenised(port, cells.counts, lookup, rng))[0] for _ in range(3))
    one = min(seconds(lambda: port.tokenise(cells.counts, lookup, rng))[0] for _ in range(3))
    few = cells.counts[:1000]

    length = PUBLISHED_LENGTH[model.id.partition("_")[0]]

    def theirs() -> None:
        for start in range(0, few.shape[0], PUBLISHED_BATCH):
            made = tokens_of(port, few[start : start + PUBLISHED_BATCH], lookup, rng)
            for column in zip(*made, strict=True):
                if column[0] is not None:
                    padded(list(column), length, 0)

    slow = min(seconds(theirs)[0] for _ in range(3))
    return {
        "ours": cells.n_cells / ours,
        "published way": few.shape[0] / slow,
        "on one core": cells.n_cells / one,
    }


def measure_cells(model: FrozenModel, cells: Dataset, compute: Compute) -> dict[str, float]:
    model.embed(cells.take(np.arange(4)))
    before = matmul_rate(compute)
    ours, z = seconds(lambda: model.embed(cells))
    rate = (before + matmul_rate(compute)) / 2
    slow, z_slow = seconds(lambda: published_way(model, cells, compute))
    return {
        "ours": cells.n_cells / ours,
        "published way": cells.n_cells / slow,
        "difference": float(np.abs(z - z_slow).max()),
        "GFLOP/s": true_flops(model, cells) / ours / 1e9,
        "matmul GFLOP/s": rate / 1e9,
        "of matmul": true_flops(model, cells) / ours / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["scgpt", "geneformer_v1_10m"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--cells", type=int, default=64, help="that pass through the networks")
    parser.add_argument("--token-cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--expressed", type=float, default=1_000, help="genes per cell, about")
    parser.add_argument("--only", choices=["tokens", "cells"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = Compute(args.device, args.precision)
    place = compute.place
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, {compute.dtype}")
    cells = simulated(max(args.token_cells, args.cells), args.genes, args.expressed)
    per_cell = np.diff(cells.counts.indptr)
    # Both ways leave out different genes of a cell that is too long: compared on those that fit.
    fit = np.flatnonzero(per_cell < min(PUBLISHED_LENGTH.values()))[: args.cells]
    print(
        f"{cells.n_genes} genes, {per_cell.mean():.0f} expressed per cell (to {per_cell.max()})\n"
    )
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    print("| model | figure | ours | published way | ratio | further |\n|---|---|---|---|---|---|")
    for id in args.models:
        made = catalog.load_method(
            f"{id}@random_init", device=args.device, precision=args.precision
        )
        model: Any = made.fit(cells, np.random.default_rng(0))
        kinds: dict[str, Callable[[], dict[str, float]]] = {
            "tokens": lambda m=model: measure_tokens(m, cells),
            "cells": lambda m=model: measure_cells(m, cells.take(fit), compute),
        }
        for kind, measure in kinds.items():
            if args.only not in (None, kind):
                continue
            row = measure()
            found[f"{id} {kind}"] = row
            further = ", ".join(
                f"{name} {value:.3g}"
                for name, value in row.items()
                if name not in ("ours", "published way")
            )
            ratio = row["ours"] / row["published way"]
            print(
                f"| {id} | {kind}/s | {row['ours']:,.1f} | {row['published way']:,.1f} "
                f"| {ratio:.1f}× | {further} |",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
