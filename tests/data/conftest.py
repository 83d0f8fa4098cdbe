"""A handful of cells whose counts are known by heart, as AnnData."""

from collections.abc import Callable
from typing import Any

import anndata
import pandas as pd
import pytest
from five_cells import BATCHES, CELLS, COUNTS, IDS, SYMBOLS, TYPES
from scipy import sparse

MakeAnnData = Callable[..., anndata.AnnData]


@pytest.fixture
def make_adata() -> MakeAnnData:
    """Return a maker of AnnData objects of five cells x four genes."""

    def make(x: Any = None, **parts: Any) -> anndata.AnnData:
        x = sparse.csr_matrix(COUNTS) if x is None else x
        obs = parts.pop("obs", None)
        if obs is None:
            obs = pd.DataFrame({"cell_type": TYPES, "batch": BATCHES}, index=CELLS)
        var = parts.pop("var", None)
        if var is None:
            var = pd.DataFrame({"ensembl_id": IDS}, index=SYMBOLS)
        return anndata.AnnData(x, obs=obs, var=var, **parts)

    return make
