"""What scFoundation and AIDO.Cell share, both of the xTrimoGene architecture: genes, soft bins.

Gong et al. 2023, arXiv:2311.15156.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from sclitmus.errors import WeightsError

GENE_LIST = "OS_scRNA_gene_index.19264.tsv"
COUNTS_PER_CELL = 1e4  # to which counts are normalised
SLOPE = 0.1  # of the leaky rectifier


class SoftBins(nn.Module):
    """Vector of a number: a mean of the vectors of bins, weighted by how it falls into them."""

    def __init__(self, d: int, n_bins: int, alpha: float) -> None:
        super().__init__()
        self.mlp = nn.Linear(1, n_bins)
        self.mlp2 = nn.Linear(n_bins, n_bins)
        self.emb = nn.Embedding(n_bins, d)
        self.alpha = alpha

    def forward(self, values: Tensor) -> Tensor:
        """Return the vectors (n_tokens, d) of values (n_tokens,)."""
        # Counts are small whole numbers: far fewer distinct values than tokens. In float32, since
        # a shorter format would change the values themselves.
        with torch.autocast(values.device.type, enabled=False):
            distinct, which = torch.unique(values, return_inverse=True)
            h = nn.functional.leaky_relu(self.mlp(distinct[:, None]), SLOPE)
            weights = torch.softmax(self.alpha * h + self.mlp2(h), dim=1)
            out: Tensor = (weights @ self.emb.weight)[which]
        return out


def gene_list(path: Path) -> tuple[str, ...]:
    """Read the published list of genes: a line per gene, with its row.

    Raises
    ------
    WeightsError
        If it is no such list.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = [line.split("\t") for line in lines[1:] if line]
    rows = [entry[-1] for entry in entries]
    if lines[:1] != ["gene_name\tindex"] or rows != [str(row) for row in range(len(rows))]:
        raise WeightsError(
            f"{path} is no list of genes: it begins with {lines[:1]}",
            "lines of gene_name and index, separated by a tab, the index counting from 0",
            "get the file from the official repository again, unchanged",
        )
    return tuple(entry[0] for entry in entries)
