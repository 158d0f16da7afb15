"""Whether the files of a model may be read: whole, of safetensors, and without code that would come from elsewhere."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig

from ..errors import ModelError, shown

__all__ = ["check_config", "check_folder", "check_sizes"]

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_INDEX = "model.safetensors.index.json"
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_MOST_LAYERS = 10_000  # a damaged number of layers would fill the memory before anything is compared with the weights
_SPARE = 10**7  # parameters that a network may have beyond twice those in its files: room for ties that are stored once


def check_folder(folder: Path) -> None:
    """ModelError, in one line, for a folder without config, safetensors or tokenizer, with one that is no file, or with
    an index of weights that leads elsewhere. A link to a file is followed: the caches of the hub are made of links."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {folder} has no config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"model folder {folder} has no weights: a *.safetensors file is needed (pickled weights are not read)"
        )
    if broken := [path.name for path in weights if not path.is_file()]:
        raise ModelError(f"model folder {folder}: {broken[0]} is no file (a folder, or a link that leads nowhere)")
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise ModelError(f"model folder {folder} has no tokenizer (tokenizer.json or the files of a slow one)")
    if not (folder / "model.safetensors").exists() and (folder / _INDEX).is_file():
        _check_index(folder)


def _check_index(folder: Path) -> None:
    """Without the check `transformers` would read a pickle that is named here, or weights that the fingerprint does not
    cover."""
    try:
        named = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"model folder {folder}: {_INDEX} is damaged, it has no map of weights") from None
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"model folder {folder}: {_INDEX} names {shown(name)}; only *.safetensors files of the folder are read"
            )


def check_config(place: Path | str, name: str, where: dict[str, Any]) -> None:
    """ModelError for a config.json that asks for attention code of the hub, or for a number of layers that no model has."""
    raw, _ = PreTrainedConfig.get_config_dict(place, **where)
    for key, value in _entries(raw):
        if key.endswith("attn_implementation") and "/" in str(value):
            raise ModelError(
                f"model {name!r}: its config.json asks for code, {shown(value)}, and no remote code is run"
            )
        if key in _LAYERS and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"model {name!r}: its config.json is damaged, {key} is {shown(value)}")


def check_sizes(folder: Path, name: str, auto: Any, options: dict[str, Any]) -> None:
    """ModelError for a config.json whose network is far larger than the weights in the folder, before it is allocated.

    The network (of the class that `auto` chooses) is built without memory, and its parameters are counted against the
    headers of the files. Smaller differences are found when the weights are read. Quantized weights are packed: not counted.
    """
    config = AutoConfig.from_pretrained(folder, **options)
    if getattr(config, "quantization_config", None) is not None:
        return
    held: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            held |= {tensor: list(file.get_slice(tensor).get_shape()) for tensor in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        network = auto.from_config(config)
    asked, there = sum(p.numel() for p in network.parameters()), sum(map(math.prod, held.values()))
    if asked <= 2 * there + _SPARE:
        return
    for tensor, value in network.state_dict().items():
        if (shape := list(value.shape)) != held.get(tensor, shape):
            raise ModelError(f"model {name!r}: {tensor} is {held[tensor]} in its file and {shape} by its config.json")
    raise ModelError(f"model {name!r}: its config.json asks for {asked} parameters, and its files hold {there}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of a mapping and of the mappings in it."""
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield str(key), entry
        yield from _entries(entry)
