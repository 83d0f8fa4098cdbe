"""Gene names: which are symbols, which are Ensembl ids, and whose genes they are."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sclitmus.core.dataset import Genes, Note
from sclitmus.data.wording import as_text, listed

# A stable id with an optional version; the chrY copies of GENCODE's pseudoautosomal genes keep
# their mark, because they are other genes than the chrX copies of the same number.
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(_PAR_Y)?")

ORGANISMS = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMMUG": "macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSPTRG": "chimpanzee",
    "ENSGGOG": "gorilla",
    "ENSMICG": "mouse lemur",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSOCUG": "rabbit",
    "ENSCAFG": "dog",
    "ENSGALG": "chicken",
    "ENSXETG": "frog",
}
LATIN = {
    "homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat",
    "danio rerio": "zebrafish", "macaca mulatta": "macaque",
}  # fmt: skip

# Names of columns in use, compared without case; a column counts only if its content agrees.
ENSEMBL_COLUMNS = (
    "ensembl_id", "ensembl", "ensembl_gene_id", "ensembl_ids", "gene_ids", "gene_id", "feature_id",
    "ensg", "accession",
)  # fmt: skip
SYMBOL_COLUMNS = (
    "gene_symbol", "gene_symbols", "symbol", "symbols", "feature_name", "gene_name", "gene_names",
    "gene_short_name", "hgnc_symbol", "gene", "name",
)  # fmt: skip


def recognise(var: pd.DataFrame, organism: str | None = None) -> tuple[Genes, tuple[Note, ...]]:
    """Find symbols, Ensembl ids and the organism in a var table.

    Names in the index are taken entry by entry: what has the form of an Ensembl id is one, the
    rest are symbols; a column that holds the other kind of name completes them. Versions are
    stripped from Ensembl ids only. Duplicates stay, each its own column, and are noted.

    Parameters
    ----------
    var
        One row per gene, names in the index.
    organism
        What the user says; otherwise told by the prefix of the Ensembl ids, else guessed by the
        case of the symbols, else ``"unknown"``.
    """
    index = _strings(var.index)
    from_index = [_ensembl(name) for name in index]
    ensembl = _column(var, ENSEMBL_COLUMNS, ensembl=True)
    symbol = _column(var, SYMBOL_COLUMNS, ensembl=False)
    ids = [
        id or _ensembl(name)
        for id, name in zip(from_index, ensembl or [""] * len(index), strict=True)
    ]
    if symbol is None:
        symbol = ["" if id else name for id, name in zip(from_index, index, strict=True)]
    symbols = ["" if _ensembl(name) else name for name in symbol]
    name, notes = _organism(ids, symbols, organism)
    notes += _duplicates(symbols, "symbol") + _duplicates(ids, "Ensembl id")
    if symbols and not any(ids) and all(name.isdecimal() for name in symbols):
        text = "genes are named by numbers only; methods that need to know the genes cannot run"
        notes += (Note("gene_names", text, len(symbols)),)
    return Genes(tuple(symbols), tuple(ids), name), notes


def expression_columns(var: pd.DataFrame) -> tuple[list[bool] | None, Note | None]:
    """Tell which rows of var are genes, where a table mixes them with antibodies, guides or peaks.

    Returns None where all are genes, or where nothing says what they are.
    """
    named = [c for c in var.columns if str(c).lower() in ("feature_types", "feature_type")]
    if not named:
        return None, None
    kinds = _strings(var[named[0]])
    keep = [kind == "Gene Expression" for kind in kinds]
    if all(keep) or not any(keep):
        return None, None
    others = Counter(kind for kind in kinds if kind != "Gene Expression")
    listed = ", ".join(f"{n} {kind or 'without a kind'}" for kind, n in sorted(others.items()))
    text = f"{sum(others.values())} features that are no genes were left out ({listed})"
    return keep, Note("features", text, sum(others.values()))


def _strings(values: Any) -> list[str]:
    """Names as text; missing ones are empty."""
    found = pd.Series(values, dtype=object)
    return ["" if missing else as_text(v) for v, missing in zip(found, found.isna(), strict=True)]


def _ensembl(name: str) -> str:
    """Return the Ensembl id without version, or "" if `name` is none."""
    match = ENSEMBL.fullmatch(name)
    return match[1] + (match[2] or "") if match else ""


def _column(var: pd.DataFrame, names: Sequence[str], *, ensembl: bool) -> list[str] | None:
    """First column with one of these names whose entries are mostly of that kind."""
    lower = {str(column).lower(): column for column in reversed(list(var.columns))}
    for name in names:
        if name not in lower:
            continue
        entries = _strings(var[lower[name]])
        filled = [entry for entry in entries if entry]
        n_ensembl = sum(bool(_ensembl(entry)) for entry in filled)
        if filled and (2 * n_ensembl > len(filled)) == ensembl:
            return entries
    return None


def _organism(
    ids: Sequence[str], symbols: Sequence[str], given: str | None
) -> tuple[str, tuple[Note, ...]]:
    prefixes = Counter(id.rstrip("0123456789_PARY") for id in ids if id)
    seen = Counter[str]()
    for prefix, n in prefixes.items():
        seen[ORGANISMS.get(prefix, "unknown")] += n
    told = seen.most_common(1)[0][0] if seen else "unknown"
    notes: tuple[Note, ...] = ()
    if len(seen) > 1:
        listed = ", ".join(f"{n} {name}" for name, n in seen.most_common())
        notes += (Note("organism", f"Ensembl ids of several organisms: {listed}"),)
    if given:
        name = LATIN.get(given.strip().lower().replace("_", " "), given.strip().lower())
        if told not in ("unknown", name):
            text = f"the organism was given as {name}, the Ensembl ids are of {told}"
            notes += (Note("organism", text),)
        return name, notes
    if told != "unknown":
        return told, notes
    guess = _by_case(symbols)
    if guess != "unknown":
        text = f"organism guessed to be {guess} by the case of the gene symbols; say --organism"
        notes += (Note("organism", text),)
    return guess, notes


def _by_case(symbols: Sequence[str]) -> str:
    """human: CD3E; mouse: Cd3e. Other organisms share these conventions, hence a guess."""
    words = [s for s in symbols if len(s) > 1 and s[0].isalpha() and any(map(str.isalpha, s[1:]))]
    if len(words) < 10:
        return "unknown"
    # Readthrough and clone names (C1orf43, RP11-…) break the rule in about one gene of ten.
    if sum(word.isupper() for word in words) > 0.8 * len(words):
        return "human"
    titled = sum(word[0].isupper() and word[1:].islower() for word in words)
    return "mouse" if titled > 0.7 * len(words) else "unknown"


def _duplicates(names: Sequence[str], what: str) -> tuple[Note, ...]:
    repeated = [name for name, n in Counter(name for name in names if name).items() if n > 1]
    if not repeated:
        return ()
    text = f"{len(repeated)} {what}s name more than one column ({listed(repeated)}); all are kept"
    return (Note("duplicate_genes", text, len(repeated)),)
