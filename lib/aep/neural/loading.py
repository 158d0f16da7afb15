"""From a name to a `NeuralLanguage`: embedded model, then existing folder, then hub id. Safetensors only, no remote code."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as http
import huggingface_hub
import pandas as pd
import torch
import transformers
from huggingface_hub import errors as hub
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .._progress import enabled
from ..errors import AepError, DeviceError, ModelError, nearest, unknown_name
from .language import NeuralLanguage
from .model_folder import check_config, check_folder, check_sizes

__all__ = ["card", "embedded", "embedded_rewards", "load", "load_pretrained", "models", "resolve"]

_DTYPES = ("float64", "float32", "bfloat16", "float16")
_HUB_SECONDS = 8.0
# A config that is not of its architecture fails in many ways; ImportError: weights of a package that is not installed.
_TOLD = (OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError, hub.StrictDataclassError)
_DAMAGE = (*_TOLD, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)
_REWARD = "-reward"
_HASHED = {"config.json", "model.safetensors", "tokenizer.json"}  # at least these have a checksum in every card


def _models_folder() -> Path:
    return Path(__file__).resolve().parents[3] / "data" / "models"


def embedded() -> dict[str, Path]:
    """Name and folder of every embedded language model."""
    return {name: folder for name, folder in _on_the_shelf().items() if not name.endswith(_REWARD)}


def embedded_rewards() -> dict[str, Path]:
    """Name and folder of every embedded reward model: those whose name ends with "-reward"."""
    return {name: folder for name, folder in _on_the_shelf().items() if name.endswith(_REWARD)}


def _on_the_shelf() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(_models_folder().glob("*/card.json"))}


def card(name: str) -> dict[str, Any]:
    """The card of an embedded model: facts, learning curve, checksums.

    Raises ModelError if there is no such model, or if its card is damaged.
    """
    known = _on_the_shelf()
    if name not in known:
        raise ModelError(unknown_name("embedded model", name, known))
    try:
        facts = json.loads((known[name] / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _damaged(name, "is not JSON") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), dict):
        raise _damaged(name, "has no entry 'sha256'")
    return facts


def _damaged(name: str, why: str) -> ModelError:
    return ModelError(f"embedded model {name!r}: card.json is damaged; restore it from git (it {why})")


def models() -> pd.DataFrame:
    """The embedded models as a table, smallest first: what the card of each says.

    `held_out_loss`, with its interval `held_out_low` to `held_out_high`, is in nats per token of the model's own tokenizer:
    a token of docs-bytes is one byte, one of the other docs models about three, so these are compared among models of equal
    `vocab_size` only. `nats_per_byte`, the same loss per byte of text, is compared among all docs models. A token of tales
    is a word, and its losses are of another kind of text. `seconds` are those of the training. Raises ModelError, naming the
    model, if a card is damaged.
    """
    facts = ("parameters", "vocab_size", "held_out_loss", "held_out_low", "held_out_high")
    training = ("steps", "seconds", "seed")
    rows = []
    for name in embedded():
        said = card(name)
        try:
            per_byte = said["held_out"]["nats_per_byte"]["value"]
            row = {key: said[key] for key in facts} | {"nats_per_byte": per_byte} | {key: said[key] for key in training}
        except (KeyError, TypeError) as error:
            raise _damaged(name, f"lacks {error}" if isinstance(error, KeyError) else "has no held-out loss") from None
        rows.append({"name": name, **row})
    table = pd.DataFrame(rows, columns=["name", *facts, "nats_per_byte", *training]).set_index("name")
    return table.sort_values("parameters", kind="stable")


def load(
    name: str | os.PathLike, *, revision: str | None = None, dtype: str | None = None, device: str | None = None
) -> NeuralLanguage:
    """Load a causal language model by embedded name, folder or hub id.

    Parameters
    ----------
    revision : branch, tag or commit of a hub model; may be given as "owner/name@revision" where only a name fits
    dtype : "float64", "float32", "bfloat16" or "float16"; default ("auto" or None) float64 for embedded models, else the
        checkpoint's own
    device : "cpu", "cuda", "cuda:1", "mps"; default "cpu"

    Raises
    ------
    ModelError : not found (with the nearest embedded names), incomplete, or its weights do not match its card
    DeviceError : a device or dtype that is not available here
    """
    return resolve(str(name), embedded, _language, revision=revision, dtype=dtype, device=device)


def resolve(
    name: str,
    shelf: Callable[[], dict[str, Path]],
    build: Any,
    *,
    revision: str | None,
    dtype: str | None,
    device: str | None,
) -> Any:
    """What `build` makes of the embedded model (one of `shelf()`), the folder, or the hub id `name`. Arguments as of `load`.

    `build` takes a folder or hub id, the name to show, a fingerprint, a dtype or None, a device, and options of the hub.
    """
    place = _device(device)
    if not name.strip():
        raise ModelError(f"model name is empty; embedded models are {', '.join(shelf()) or '(none)'}")
    dtype = None if dtype == "auto" else dtype
    if dtype is not None and dtype not in _DTYPES:
        raise DeviceError(unknown_name("dtype", dtype, ("auto", *_DTYPES)))
    _switch_progress_bar()
    known = shelf()
    folder = Path(os.path.expanduser(name))  # unlike Path.expanduser, it leaves the home of a stranger as it is
    local = name in known or os.path.isdir(folder)  # unlike Path.is_dir, False for a name too long for any folder
    if local and revision is not None:
        what = "an embedded model" if name in known else "a folder"
        raise ModelError(f"revision={revision!r} is of a hub model, and {name!r} is {what}: leave it out")
    if name in known:
        fingerprint = _check_card(name, known[name])
        return build(known[name], name, fingerprint, dtype or "float64", place)
    if name in _on_the_shelf():
        raise ModelError(
            f"{name!r} is a reward model, not a language: aep.neural.rewards.load_reward({name!r}) loads it"
            if name in embedded_rewards()
            else f"{name!r} is a language, not a reward model; reward models are {', '.join(known) or '(none)'}"
        )
    if local:
        check_folder(folder)
        return build(folder, folder.resolve().name, _weights_hash(folder), dtype, place)
    if revision is None and "@" in name.strip("@"):
        name, _, revision = name.partition("@")
    if name.startswith((".", "~", os.sep)) or os.path.exists(folder):
        raise ModelError(f"model {name!r} is not a folder; embedded models are {', '.join(known) or '(none)'}")
    return _from_hub(name, revision, known, lambda *where, **more: build(*where, dtype, place, **more))


def _switch_progress_bar() -> None:
    if enabled():
        transformers.utils.logging.enable_progress_bar()
    else:
        transformers.utils.logging.disable_progress_bar()


def _device(device: str | None) -> torch.device:
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    wanted = "cpu" if device is None else device
    if wanted == "cuda" and len(available) > 1 and available[1].startswith("cuda"):
        return torch.device("cuda:0")
    if wanted not in available:
        raise DeviceError(unknown_name("device", wanted, available))
    return torch.device(wanted)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_hash(folder: Path) -> str:
    digests = [_hash(path) for path in (folder / "config.json", *sorted(folder.glob("*.safetensors")))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _check_card(name: str, folder: Path) -> str:
    check_folder(folder)
    listed = card(name)["sha256"]
    read = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")} - {"card.json"}
    if lacking := sorted((_HASHED | read) - set(listed)):
        raise _damaged(name, f"has no sha256 of {lacking[0]}")
    for file, digest in listed.items():
        if not (folder / file).exists() or _hash(folder / file) != digest:
            raise ModelError(
                f"embedded model {name!r}: {file} does not match the sha256 of its card; restore it from git"
            )
    return _weights_hash(folder)


def _language(
    place: Path | str, name: str, fingerprint: str, dtype: str | None, device: torch.device, **where: Any
) -> NeuralLanguage:
    model, tokenizer = load_pretrained(place, name, dtype, device, **where)
    with _damage(name):
        return NeuralLanguage(model, tokenizer, name=name, fingerprint=fingerprint)


def load_pretrained(
    place: Path | str,
    name: str,
    dtype: str | None,
    device: torch.device,
    *,
    auto: Any = AutoModelForCausalLM,
    **where: Any,
) -> tuple[Any, Any]:
    """The network (of the class that `auto` chooses) and the tokenizer in a folder or on the hub; ModelError if damaged."""
    options = {"trust_remote_code": False, **where}
    with _damage(name):
        check_config(place, name, where)
        with _TokenizerDamage(name):
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model, found = _network(auto, place, name, getattr(torch, dtype) if dtype else "auto", options)
    if device.type == "mps" and model.dtype == torch.float64:
        raise DeviceError(f"model {name!r} is of dtype float64, which mps does not have: add dtype float32")
    if lacking := sorted(found["missing_keys"]):
        raise ModelError(
            f"model {name!r}: its weights lack {len(lacking)} tensors of the network, such as {lacking[0]}"
        )
    for tensor, in_file, in_network in found["mismatched_keys"]:
        raise ModelError(
            f"model {name!r}: {tensor} is {list(in_file)} in its file and {list(in_network)} by its config.json"
        )
    if spare := sorted(found["unexpected_keys"]):
        warnings.warn(
            f"model {name!r}: {len(spare)} tensors of its file are not used, such as {spare[0]}", stacklevel=3
        )
    return model.to(device), tokenizer


def _network(auto: Any, folder: Path | str, name: str, dtype: Any, options: dict[str, Any]):
    """The network and what transformers says of its weights; the report of many lines that it would print is left out."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        if isinstance(folder, Path):  # the files of a hub id are not here yet
            check_sizes(folder, name, auto, options)
        return auto.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by name afterwards, as missing ones are
            **options,
        )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turns what `transformers` and `safetensors` raise over damaged or unknown content into a ModelError of one line."""
    try:
        yield
    except AepError:
        raise
    except _DAMAGE as error:
        known = isinstance(error, _TOLD)
        hint = "" if known else f" ({type(error).__name__}): its config.json or its tokenizer is damaged"
        raise ModelError(f"model {name!r} cannot be loaded: {_first_line(error)}{hint}") from None


class _TokenizerDamage:
    """Turns what `tokenizers` reports of a damaged tokenizer.json, a plain `Exception` among it, into a ModelError."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if kind in (Exception, KeyError, json.JSONDecodeError):
            raise ModelError(f"model {self.name!r} has a damaged tokenizer: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    """The first line of what an error says, and the second where the first only announces it."""
    lines = [line.strip() for line in (str(error).strip() or type(error).__name__).splitlines()]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def _from_hub(name: str, revision: str | None, known: dict[str, Path], build: Any):
    close = nearest(name, known)
    listed = ", ".join(known) or "(none)"
    hint = f"; did you mean the embedded {' or '.join(close)}?" if close else f"; embedded models are {listed}"
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS)
    except hub.GatedRepoError:
        raise ModelError(f"model {name!r} is gated: accept its terms on the hub and set HF_TOKEN{hint}") from None
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError):
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(f"model {name!r}{at} was not found on the hub, and no folder has that name{hint}") from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, http.HTTPError, OSError):
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return _cached(name, revision, build)
        raise ModelError(
            f"model {name!r} is neither embedded nor a folder, and the hub cannot be reached (offline){hint}"
        ) from None
    return build(name, name, f"{name}@{info.sha}", revision=info.sha)


def _cached(name: str, revision: str | None, build: Any) -> Any:
    commit = getattr(AutoConfig.from_pretrained(name, revision=revision, local_files_only=True), "_commit_hash", None)
    return build(name, name, f"{name}@{commit}", revision=revision, local_files_only=True)
