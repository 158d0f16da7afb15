"""The commands ``score`` and ``sample``: refusals before the work, an estimate before a long run, a summary after it.

Whatever can be refused without the model is refused before torch is imported.
"""

import hashlib
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aep

from ._display import visible
from ._text_files import read_utf8
from .adaptors import parse
from .errors import DeviceError, DistributionError, ParameterError, PromptError

__all__ = ["BOS", "sample", "score"]

BOS = {"once": True, "every": "every", "never": False}

_LONG = 5.0  # seconds: a run of more is announced
_BATCH = 64  # texts at once, as `aep.sample` has them
_SEGMENT = 4096  # tokens in the network at once
_SCORED, _STEPPED = (8, 8, 32, 256, 1024, 4096), (1, 1, 4, 16, 64)  # stretches that are measured; the first warms up
_SHOWN = 1000  # characters of a sampled text


def score(options: Any) -> int:
    """``aep score``: every column of `aep.Records` of a text file, as Parquet."""
    output = _writable(options.output, options.file)
    _check_per_byte(options)
    raw = read_utf8(options.file)
    text = raw.decode("utf-8-sig")
    if options.overlap is not None and options.context != "strided":
        raise ParameterError(f"--overlap {options.overlap} belongs to windows: say --context strided too")
    adaptors = list(dict.fromkeys(map(parse, options.adaptor)))
    language = _load(options)
    ids = language.encode(text)
    context, why = _context(options, language, len(ids))
    bos = BOS[options.bos]
    ask = partial(aep.score, scorer=language, adaptors=adaptors, context=context, bos=bos, overlap=options.overlap)
    with _refusals(language):
        fits = context != "full" or _fits(language, len(ids))  # else `ask` refuses it at once
        seconds, measured = _extrapolated(lambda n: ask([ids[:n]]), len(ids) if fits else 0, _SCORED)
        if fits:
            print(f"context {context}: {why}", flush=True)
        _announce(seconds, measured, _memory(language, _scoring(language, context, len(ids)), len(adaptors)))
        records = ask([ids])
    source = {"name": options.file.name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    replace(records, meta=records.meta | {"file": source}).to_parquet(output)
    unit = _unit(language)
    print(f"{len(records)} {unit}s of {options.file} under {language.name} ({language.dtype_name}), context {context}")
    print(_summary(records, unit))
    print(_per_byte(records, language, ids, text, len(text.encode())))
    print(f"written to {options.output}")
    return 0


def sample(options: Any) -> int:
    """``aep sample``: texts drawn from a model, as Parquet; the first one is printed."""
    output = _writable(options.output)
    _check_per_byte(options)
    adaptor = parse(options.adaptor)
    if options.prompt == "":
        raise PromptError("--prompt is empty: leave it out to sample from the start token alone")
    language = _load(options)
    prompts = None if options.prompt is None else [language.encode(options.prompt)]
    draw = partial(aep.sample, language, prompts, seed=options.seed, adaptor=adaptor, stop=options.stop, record=True)
    length = options.tokens + (0 if prompts is None else len(prompts[0]))
    with _refusals(language):
        if min(options.texts, options.tokens) > 0 and _fits(language, length):  # else `draw` refuses it at once
            together = min(options.texts, _BATCH)
            steps = math.ceil(options.texts / _BATCH) * options.tokens
            seconds, measured = _extrapolated(lambda n: draw(texts=together, tokens=n), steps, _STEPPED)
            held = _Held(options.texts * options.tokens, together * length, together, length)
            _announce(seconds, measured, _memory(language, held, 0))
        texts = draw(texts=options.texts, tokens=options.tokens, store=not options.no_store or None)
    texts.to_parquet(output)
    first = texts.decode(0)
    cut = f" … (the first {_SHOWN} of {len(first)} characters of text 0)" if len(first) > _SHOWN else ""
    print(visible(first[:_SHOWN], {"\n": "\n", "\t": "\t"}) + cut)
    total = sum(map(len, texts.ids))
    unit = _unit(language)
    print(f"{len(texts)} texts, {total} {unit}s from {language.name} ({language.dtype_name}), {adaptor}, ", end="")
    print(f"seed {options.seed}, stop {options.stop}")
    of_what = "" if adaptor.is_ancestral else f" (of {language.name} without the adaptor)"
    print(_summary(texts.records, unit) + of_what)
    print(f"written to {options.output}")
    return 0


def _load(options: Any) -> Any:
    language = aep.load(options.model, revision=options.revision, dtype=options.dtype, device=options.device)
    if not options.per_byte:
        return language
    return aep.per_byte(language) if options.width is None else aep.per_byte(language, options.width)


def _check_per_byte(options: Any) -> None:
    """Refuse options that do not go together with --per-byte, or without it."""
    if options.width is not None and not options.per_byte:
        raise ParameterError(f"--width {options.width} belongs to bytes: say --per-byte too")
    if options.width is not None and options.width < 1:
        raise ParameterError(f"--width {options.width}: at least one token sequence is followed")
    if options.per_byte and getattr(options, "context", None) not in (None, "full"):
        raise ParameterError(f"--context {options.context} is of tokens: with --per-byte a text is scored as a whole")
    if options.per_byte and getattr(options, "bos", "once") != "once":
        raise ParameterError(f"--bos {options.bos}: with --per-byte the start token stands once before the text")


def _unit(language: Any) -> str:
    return "token" if _network(language) is language else "byte"


def _network(language: Any) -> Any:
    """What computes: of a language of bytes, the language of tokens."""
    return getattr(language, "language", language)


def _writable(path: Path, read: Path | None = None) -> Path:
    """Refuse before the work, not after it, a file that cannot be written; where a link leads to otherwise."""
    if "\0" in str(path):
        raise ParameterError(f"output {str(path)!r} holds a NUL byte; give another name")
    if path.is_dir():
        raise ParameterError(f"output {str(path)!r} is a folder; give a file name")
    if path.exists() and not path.is_file():
        raise ParameterError(f"output {str(path)!r} is no ordinary file; give another name")
    if read is not None and path.exists() and read.exists() and path.samefile(read):
        raise ParameterError(f"output {str(path)!r} is the text itself; give another name")
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not path.absolute().parent.is_dir():
        raise ParameterError(f"output folder {str(path.parent)!r} does not exist")
    if path.exists() and not os.access(path, os.W_OK):
        raise ParameterError(f"output {str(path)!r} cannot be written: no permission")
    trial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # as the file will be called while it is written
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise ParameterError(f"output {str(path)!r} cannot be written: {error.strerror}") from None
    return path


def _fits(language: Any, tokens: int) -> bool:
    return language.context_length is None or tokens <= language.context_length


def _context(options: Any, language: Any, tokens: int) -> tuple[str, str]:
    """The policy, chosen if it was not asked for, and why."""
    from .stretches import choose_context

    if options.context is not None:
        return options.context, "as asked for"
    if _unit(language) == "byte":
        return "full", "every byte is scored given all that comes before it"
    limit = language.context_length
    long = f"{tokens} tokens are more than the {limit} of {language.name}"
    return (chosen := choose_context(language, tokens)), {
        "full": f"{tokens} tokens fit into the context of {language.name}" + (f", {limit}" if limit else ""),
        "rolling": f"{long}, whose every layer has a sliding window",
        "strided": f"{long}, which lacks a sliding window; windows share half their tokens",
    }[chosen]


@contextmanager
def _refusals(language: Any) -> Iterator[None]:
    """What goes wrong inside the network, told with the name of the model."""
    try:
        yield
    except DistributionError as error:
        hint = f"its weights are damaged, or {language.dtype_name} is too narrow for it"
        raise DistributionError(f"model {language.name!r}: {error}; {hint}") from None
    except (MemoryError, RuntimeError) as error:  # of torch, whose own classes are not known on this floor
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        reason = (str(error).strip() or "none left").splitlines()[0]
        raise DeviceError(f"out of memory on {_network(language).device}: {reason}; try a smaller --dtype") from None


def _extrapolated(work: Callable[[int], Any], total: int, stretches: tuple[int, ...]) -> tuple[float, int]:
    """Seconds that `work(total)` may take, and the stretch they were measured on: (0, 0) for work too short to measure.

    Longer and longer stretches until one takes a second or the next would be a good part of the work itself.
    """
    seconds, measured, whole = 0.0, 0, 0.0
    for k, stretch in enumerate(stretches):
        if stretch > total / 6 or seconds > 1 or (k > 1 and whole < 1):
            break
        started = time.perf_counter()
        work(stretch)
        seconds, measured = time.perf_counter() - started, stretch
        whole = seconds * total / measured
    return whole, measured


def _announce(seconds: float, measured: int, parts: dict[str, int]) -> None:
    """One line before a long run: time as measured on a short stretch, memory from the sizes of what is held.

    ParameterError where what is held cannot fit into this machine.
    """
    rows, room = parts["columns"], _physical_memory()
    if rows > room:
        raise ParameterError(
            f"the result alone takes {rows / 1e9:,.0f} GB, and this machine has {room / 1e9:,.0f}: ask for fewer tokens"
        )
    if seconds < _LONG:
        return
    minutes, hours = f"{seconds / 60:.0f} min", f"{seconds / 3600:.1f} h"
    span = f"{seconds:.0f} s" if seconds < 120 else minutes if seconds < 7200 else hours
    sizes = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in parts.items())
    total = f"{sum(parts.values()) / 1e6:,.0f} MB"
    print(f"estimate: about {span} (extrapolated from {measured} tokens) and {total} of memory ({sizes})", flush=True)


def _physical_memory() -> float:
    """Bytes of memory of this machine; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


class _Held(NamedTuple):
    """Rows of the result, cached positions of all texts, tokens in the network at once, and keys that each of them sees."""

    rows: int
    positions: int
    flowing: int
    keys: int


def _scoring(language: Any, context: str, tokens: int) -> _Held:
    """What the scoring of one text holds at most."""
    from .scoring import batch_tokens

    if _unit(language) == "byte":  # at most as many tokens as bytes, of which each is closed at most once
        return _Held(tokens, tokens, language.beam_width, tokens)
    if context == "strided":
        keys = min(language.context_length or tokens, tokens)
        flowing = min(tokens, batch_tokens(language))
        return _Held(tokens, flowing, flowing, keys)
    window = getattr(language.model.config.get_text_config(), "sliding_window", None) or 0
    keys = tokens if context == "full" else min(tokens, _SEGMENT + window)
    return _Held(tokens, keys, min(tokens, _SEGMENT), keys)


def _memory(language: Any, held: _Held, adaptors: int) -> dict[str, int]:
    """Bytes of weights, one chunk of logits, keys and values, one layer at work (its mask above all), and the result."""
    from .scoring import chunk_rows

    model, vocab_size = _network(language).model, _network(language).vocab_size
    config, item = model.config.get_text_config(), model.dtype.itemsize
    width = getattr(config, "hidden_size", None) or 0
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or width // heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    cached = 2 * (getattr(config, "num_key_value_heads", None) or heads) * head * item
    return {
        "weights": model.get_memory_footprint(),
        "logits": chunk_rows(vocab_size) * vocab_size * max(item, 4),
        "cache": cached * (getattr(config, "num_hidden_layers", None) or 0) * held.positions,
        "layer": held.flowing * (held.keys * (1 + item) + (4 * width + 2 * inner) * item),
        "columns": held.rows * (17 + adaptors) * 8,
    }


def _summary(records: Any, unit: str = "token") -> str:
    """l, h, sigma (nats per token, or per byte) and z over all tokens of a record."""
    from .analysis.typicality import running_mean, running_sigma, z_test

    a, h, v = (records[name].astype(float) for name in ("surprisal", "entropy", "varentropy"))
    found = z_test(a, h, v)
    z = f"{float(found.z):+.2f}" if found.has_test else "none (too few tokens share the variance)"
    mean, expected, sigma = running_mean(a)[-1], running_mean(h)[-1], running_sigma(v)[-1]
    return f"log-perplexity l = {mean:.4f}, entropy h = {expected:.4f}, sigma = {sigma:.4f} nats per {unit}; z = {z}"


def _per_byte(records: Any, language: Any, ids: Any, text: str, size: int) -> str:
    """l in bits per byte of the file, where the tokens hold the whole file."""
    if language.decode(ids) != text:
        return f"bits per byte: none, because the tokens of {language.name} do not decode to the file"
    bits = float(records["surprisal"].sum()) / math.log(2) / size
    left = len(ids) - len(records)
    return f"l = {bits:.4f} bits per byte of {size} bytes" + (
        " (the first token is context, not scored)" if left else ""
    )
