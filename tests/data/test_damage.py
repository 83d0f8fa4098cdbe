"""What libraries raise on damaged files becomes one error that names the file."""

from pathlib import Path

import numpy as np
import pytest

from sclitmus.data.source import readable
from sclitmus.errors import DataError


@pytest.mark.parametrize(
    "error",
    [
        SystemError("Negative size passed to PyBytes_FromStringAndSize"),  # blosc
        MemoryError("Unable to allocate 1.00 TiB"),  # a damaged length
        RuntimeError("wrong fractal heap header signature"),  # HDF5
        ValueError("codes need to be between -1 and len(categories)-1"),
    ],
)
def test_errors_of_libraries_are_explained(error: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"cells\.h5ad cannot be read: "),
        readable(Path("cells.h5ad")),
    ):
        raise error


def test_a_type_error_is_a_damaged_file_only_if_a_library_raised_it() -> None:
    with pytest.raises(DataError, match="cannot be read"), readable(Path("cells.h5ad")):
        np.linalg.inv(np.array([["a"]]))  # a TypeError from inside numpy
    from sclitmus.data import matrix

    with pytest.raises(TypeError), readable(Path("cells.h5ad")):
        exec(compile("len(3)", matrix.__file__, "exec"))  # as if a line of ours had raised it
