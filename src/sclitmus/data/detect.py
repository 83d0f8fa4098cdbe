"""Which format a path is of, told by its content; the suffix only helps to explain a failure."""

from contextlib import AbstractContextManager
from pathlib import Path

from sclitmus.data.source import Source
from sclitmus.data.wording import as_text, did_you_mean
from sclitmus.errors import DataError

READ = ".h5ad, .zarr (AnnData), 10x .h5, a 10x .mtx folder, or .loom"

FOREIGN = (
    (
        b"<",
        "looks like an HTML or XML page",
        "the download fetched a web page: use the direct link",
    ),
    (b"version https://git-lfs", "is a git-lfs pointer, not the data", "run `git lfs pull`"),
    (b"\x1f\x8b", "is gzip-compressed", "decompress it with gunzip"),
    (b"PK\x03\x04", "is a zip archive", "unpack it"),
    (b"%%MatrixMarket", "is a matrix without its genes and cells", "give the folder it lies in"),
)
REMEDY = {
    ".rds": "in R: zellkonverter::writeH5AD(sce, 'my.h5ad')",
    ".rda": "in R: zellkonverter::writeH5AD(sce, 'my.h5ad')",
    ".csv": "build an AnnData with the cells as rows and call write_h5ad; see docs/data.md",
    ".tsv": "build an AnnData with the cells as rows and call write_h5ad; see docs/data.md",
    ".txt": "build an AnnData with the cells as rows and call write_h5ad; see docs/data.md",
}


def open_path(path: Path) -> AbstractContextManager[Source]:
    """Return what opens this file or folder.

    Raises
    ------
    DataError
        If there is nothing there, or it is of no format that is read.
    """
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no file or folder {path}",
            "the path of " + READ,
            did_you_mean(path.name, near)
            + "check the path; `sclitmus list datasets` names bundled data",
        )
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_folder(path: Path) -> AbstractContextManager[Source]:
    if any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")):
        from sclitmus.data.annotated import open_zarr

        return open_zarr(path)
    from sclitmus.data.tenx import open_mtx

    return open_mtx(path)


def _open_file(path: Path) -> AbstractContextManager[Source]:
    import h5py

    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise DataError(f"{path} is empty (0 bytes)", READ, "copy or download the file again")
    if h5py.is_hdf5(path):
        return _open_hdf5(path)
    if head.startswith(b"%%MatrixMarket") or path.name.endswith((".mtx", ".mtx.gz")):
        from sclitmus.data.tenx import open_mtx

        return open_mtx(path.parent)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for sign, seen, remedy in FOREIGN:
        if start.startswith(sign.lower()):
            raise DataError(f"{path} {seen}", READ, remedy)
    suffix = path.suffix.lower()
    remedy = REMEDY.get(suffix, "convert the data to .h5ad, for example with scanpy")
    if suffix in (".h5ad", ".h5", ".loom"):
        remedy = "the file is damaged or misnamed: copy or download it again"
    raise DataError(
        f"{path} is of no known format (it starts with {head[:12]!r})", "one of: " + READ, remedy
    )


def _open_hdf5(path: Path) -> AbstractContextManager[Source]:
    import h5py

    from sclitmus.data.tenx import genomes_of_v2

    with h5py.File(path, "r") as file:
        keys = sorted(map(as_text, file))
        matrix = file.get("matrix")
        is_loom = isinstance(matrix, h5py.Dataset) and "row_attrs" in file
        is_tenx = isinstance(matrix, h5py.Group) and "features" in matrix and "barcodes" in matrix
        is_tenx = is_tenx or bool(genomes_of_v2(file))
    if is_loom:
        from sclitmus.data.loom import open_loom

        return open_loom(path)
    if is_tenx:
        from sclitmus.data.tenx import open_h5

        return open_h5(path)
    if "obs" in keys or "var" in keys or path.suffix.lower() == ".h5ad":
        from sclitmus.data.annotated import open_h5ad

        return open_h5ad(path)
    is_mudata = "mod" in keys
    raise DataError(
        f"{path} is an HDF5 file, but neither AnnData, 10x nor loom "
        f"(it holds: {', '.join(keys[:8]) or 'nothing'})",
        READ,
        "take one modality of the MuData: mdata['rna'].write_h5ad('rna.h5ad')"
        if is_mudata
        else "convert it to .h5ad with the program that wrote it",
    )
