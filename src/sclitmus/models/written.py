"""A model pretrained here, written as its authors publish theirs, so that the same code loads it.

The files that name the genes are written first: the network is built from them, and so from what
will be loaded. A card beside them says that it is not the published model.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from sclitmus.models import geneformer, scbert, scgpt
from sclitmus.models.card import OWN_CARD, ModelCard, WeightFile, model_card
from sclitmus.models.objectives import MASK_VALUE, Objective
from sclitmus.models.pretraining_settings import MODELS, Arch
from sclitmus.models.weights import file_sha256

PICKLE_PROTOCOL = 4  # of the published dictionaries
H5AD = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
TABLE = {"encoding-type": "dataframe", "encoding-version": "0.2.0"}
TEXTS = {"encoding-type": "string-array", "encoding-version": "0.2.0"}


def write_genes(
    arch: Arch,
    folder: Path,
    names: Sequence[str],
    medians: Float64[np.ndarray, "n_genes"] | None = None,
    symbols: Mapping[str, str] | None = None,
) -> None:
    """Write what says which genes a model knows.

    Parameters
    ----------
    names
        Gene symbols; for Geneformer Ensembl ids.
    medians, symbols
        For Geneformer: expression per 10,000 counts where a gene has some, and symbol -> id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if arch == "scgpt":
        rows = {name: row for row, name in enumerate([*names, *scgpt.SPECIAL])}
        write_json(folder / "vocab.json", rows)
    elif arch == "scbert":
        _write_names(folder / scbert.REFERENCE, names)
    else:
        assert medians is not None
        tokens = {name: token for token, name in enumerate([*geneformer.SPECIAL_V1, *names])}
        known = set(names)
        # Also each name under itself: the table must not be empty, and a gene without an id is
        # found by its symbol.
        others = {name: name for name in names} | {
            symbol: id for symbol, id in (symbols or {}).items() if id in known
        }
        tables = {
            "token_dictionary": tokens,
            "gene_median_dictionary": dict(zip(names, medians.tolist(), strict=True)),
            "gene_name_id_dict": others,
        }
        for file in model_card(MODELS[arch]).files:
            for kind, table in tables.items():
                if file.name.startswith(kind):
                    with (folder / file.name).open("wb") as stream:
                        pickle.dump(table, stream, PICKLE_PROTOCOL)


def _write_names(path: Path, names: Sequence[str]) -> None:
    """Write an .h5ad file without cells whose var names these are."""
    import h5py

    def texts(group: Any, name: str, values: Sequence[str]) -> None:
        kind = h5py.string_dtype("utf-8")
        made = group.create_dataset(name, data=np.array(values, dtype=object), dtype=kind)
        made.attrs.update(TEXTS)

    with h5py.File(path, "w") as file:
        file.attrs.update(H5AD)
        for name, index in (("obs", []), ("var", list(names))):
            table = file.create_group(name)
            table.attrs.update(TABLE | {"_index": "_index"})
            table.attrs["column-order"] = np.array([], dtype=h5py.string_dtype("utf-8"))
            texts(table, "_index", index)


def unpublished(arch: Arch) -> ModelCard:
    """Return the card of the architecture for files that are not the published ones."""
    card = model_card(MODELS[arch])
    return replace(card, files=tuple(WeightFile(file.name) for file in card.files))


def write_weights(objective: Objective, arch: Arch, folder: Path, epoch: int) -> None:
    """Write network and heads."""
    port = objective.port
    tensors = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in [*port.network.state_dict().items(), *objective.head().items()]
    }
    if arch == "scgpt":
        write_json(folder / "args.json", _scgpt_args(port, objective))
        _save(tensors, folder / "best_model.pt")
    elif arch == "scbert":
        named = {_official_scbert(name): tensor for name, tensor in tensors.items()}
        named["performer.calls_since_last_redraw"] = torch.tensor(0)
        _save({"epoch": epoch, "model_state_dict": named}, folder / scbert.CHECKPOINT)
    else:
        from safetensors.torch import save_file

        write_json(folder / "config.json", _bert_config(port, objective))
        new = folder / "model.safetensors.new"
        save_file(tensors, new, metadata={"format": "pt"})
        new.replace(folder / "model.safetensors")


def _scgpt_args(port: Any, objective: Objective) -> dict[str, Any]:
    config = port.config
    return {
        "embsize": config.embsize,
        "nheads": config.nheads,
        "d_hid": config.d_hid,
        "nlayers": config.nlayers,
        "n_layers_cls": 3,
        "dropout": 0.0,
        "pad_token": "<pad>",
        "pad_value": config.pad_value,
        "mask_value": MASK_VALUE,
        "mask_ratio": list(objective.settings.share),
        "n_bins": config.n_bins,
        "max_seq_len": config.max_seq_len,
        "input_style": "binned",
        "input_emb_style": "continuous",
        "GEPC": objective.settings.gepc,
    }


def _bert_config(port: Any, objective: Objective) -> dict[str, Any]:
    config = port.config
    names = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "initializer_range",
        "type_vocab_size",
    )
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        **{name: getattr(config, name) for name in names},
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": port.tokens["<pad>"],
        "position_embedding_type": "absolute",
        "tie_word_embeddings": objective.settings.tied,
    }


def _official_scbert(name: str) -> str:
    """The original wraps feed-forward layers twice; see `performer.RENAME`."""
    return re.sub(r"(.*\.1\.fn)\.(w[12]\..*)", r"\1.fn.\2", name)


def write_card(arch: Arch, folder: Path, changes: Mapping[str, Any]) -> None:
    """Write what `card.own_card` reads: who this model is, and the checksums of its files.

    Parameters
    ----------
    changes
        Fields of `ModelCard`.
    """
    files = [
        {"name": file.name, "sha256": file_sha256(folder / file.name)}
        for file in model_card(MODELS[arch]).files
    ]
    by = f"sclitmus {version('sclitmus')}"
    write_json(
        folder / OWN_CARD,
        {"id": MODELS[arch], "made_by": by, **changes, "files": files},
    )


def _save(state: Any, path: Path) -> None:
    new = path.with_name(f"{path.name}.new")
    torch.save(state, new)
    new.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
