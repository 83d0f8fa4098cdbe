"""scLitmus: does a single-cell foundation model beat what is simple, on your data, and how surely?

>>> import sclitmus
>>> results = sclitmus.run("my.h5ad", label="cell_type", batch="donor",
...                        embeddings={"mymodel": "emb.npy"})       # doctest: +SKIP
>>> results.verdict()                                               # doctest: +SKIP
>>> results.report("report.html")                                   # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "load", "read", "run"]

if TYPE_CHECKING:
    from sclitmus.api import Results, load, read, run


def __getattr__(name: str) -> Any:
    # Importing the package costs nothing; the heavy parts come with the first use.
    if name in {"Results", "load", "read", "run"}:
        from sclitmus import api

        return getattr(api, name)
    raise AttributeError(f"module 'sclitmus' has no attribute {name!r}")
