"""The command line: ``python -m aep run | score | sample | models | store | train | corpus | bench``.

Heavy imports stand inside the sub-commands, so that help and refusals are immediate.
"""

import argparse
import os
import sys
from pathlib import Path

from .errors import AepError, ParameterError, make_room, nearest, shown

__all__ = ["main"]

# What this package makes below AEP_HOME, which may point to a folder that holds other things too.
_KEPT = {"texts": "records/texts", "tokens": "records/tokens", "training": "training", "probes": "probes"}

_AGAIN = "no half-written file is left, and the same command begins again"
_AFTER_INTERRUPT = {
    "sample": "finished texts are in the store, and the same command goes on from them",
    "score": _AGAIN,
    "train": "the same command goes on from the last checkpoint",
    "bench": "rows that were measured are in the table, and the same command measures all its rows again",
}


class _Parser(argparse.ArgumentParser):
    """argparse with one line on stderr per mistake, and the nearest valid names in it."""

    def error(self, message):
        raise ParameterError(f"{message.replace(chr(10), ' ')} ({self.prog} --help lists what there is)")

    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [s for action in self._actions for s in action.option_strings]
            close = nearest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else []
            self.error(f"unrecognised {unknown[0]!r}" + (f": did you mean {' or '.join(close)}?" if close else ""))
        return found, unknown

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            close = nearest(str(value), map(str, action.choices))
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            what = action.metavar or action.dest
            self.error(f"unknown {what} {value!r}: {hint}valid are {', '.join(map(str, action.choices))}")


def _integer(text: str) -> int:
    """The integer of an option; larger ones than a machine counts with are refused before they reach any arithmetic."""
    if len(text) < 100 and abs(number := int(text)) < 2**63:
        return number
    raise argparse.ArgumentTypeError(f"{shown(text)} is not an integer below 2**63")


_integer.__name__ = "int"  # what argparse calls it where the text is no number


def _arguments() -> argparse.ArgumentParser:
    """The parser of every sub-command. Long because it is the one table of all options."""
    parser = _Parser(prog="python -m aep", description="The asymptotic equipartition property of language models.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name, function, summary):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(function=function)
        return sub

    sub = command("run", _run, "execute notebooks; results go below runs/ unless every parameter is the default")
    sub.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help='"02", "02_self_aep", or "all"')
    sub.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    sub.add_argument("-f", type=Path, metavar="FILE.yaml", help="parameters from a YAML file")
    sub.add_argument("--profile", metavar="PROFILE", help="a file of notebooks/params: paper, gpu")
    sub.add_argument("--in-place", action="store_true", help="rewrite the committed notebooks (make notebooks)")

    sub = command("score", _score, "surprisal, entropy, varentropy ... of every token of a text file")
    sub.add_argument("model", metavar="MODEL", help="embedded name, folder, or hub id")
    sub.add_argument("file", type=Path, metavar="FILE.txt")
    contexts = ["full", "rolling", "strided"]
    chosen = "default: full if the text fits, else rolling with sliding attention, else strided"
    sub.add_argument("--context", choices=contexts, help=chosen)
    sub.add_argument("--overlap", type=_integer, metavar="TOKENS", help="of strided windows (half a window)")
    starts = "the start token once before the text, before every window too, or never (once)"
    sub.add_argument("--bos", choices=["once", "every", "never"], default="once", help=starts)
    adapted = 'a column log_q of the model under this adaptor, e.g. "top_k(50)"; may be repeated'
    sub.add_argument("--adaptor", action="append", default=[], metavar="ADAPTOR", help=adapted)
    _model_options(sub, "tokens.parquet")

    sub = command("sample", _sample, "draw texts from a model")
    sub.add_argument("model", metavar="MODEL", help="embedded name, folder, or hub id")
    sub.add_argument("--texts", type=_integer, default=4, help="number of texts (4)")
    sub.add_argument("--tokens", type=_integer, default=200, help="tokens per text, bytes with --per-byte (200)")
    sub.add_argument("--seed", type=_integer, default=0, help="decides which texts are drawn (0)")
    sub.add_argument("--prompt", help="text to go on from (default: the start token alone)")
    sub.add_argument("--adaptor", default="ancestral()", help='e.g. "temperature(.8)|top_k(50)"')
    stops = "eos ends a text at the end token; never samples on past it (never)"
    sub.add_argument("--stop", choices=["eos", "never"], default="never", help=stops)
    kept = "do not keep finished texts in the store, from which the same command goes on after an interrupt"
    sub.add_argument("--no-store", action="store_true", help=kept)
    _model_options(sub, "texts.parquet")

    command("models", _models, "the embedded models: sizes, and held-out losses in nats per token and per byte")
    sub = command("store", _store, "place and size of the store of records and checkpoints")
    sub.add_argument(
        "--verify", action="store_true", help="check the content of every record; exit code 1 if one is damaged"
    )
    sub.add_argument("--prune", action="store_true", help="empty it (asks first)")
    sub.add_argument("--kind", choices=list(_KEPT), metavar="KIND", help=f"prune only this: {', '.join(_KEPT)}")
    sub.add_argument(
        "--damaged", action="store_true", help="prune only damaged or outdated records and left-over files"
    )
    sub.add_argument("--yes", action="store_true", help="prune without asking")
    sub = command("train", _train, "train an embedded model; an interrupted training goes on where it stopped")
    sub.add_argument("name", metavar="NAME")
    sub = command("corpus", _corpus, "the training corpus")
    sub.add_argument("--check", action="store_true", required=True, help="compare with the corpus of the models")
    sub = command("bench", _bench, "measure anew and write data/results/bench.csv")
    sub.add_argument("rows", nargs="*", metavar="ROW", help="default: every row")
    return parser


def _model_options(sub, output: str) -> None:
    dtypes = ["float64", "float32", "bfloat16", "float16"]
    sub.add_argument("--dtype", choices=dtypes, help="default: float64 for embedded models, else the checkpoint's own")
    sub.add_argument("--device", help="cpu (default), cuda, cuda:1, mps")
    of_bytes = "the model as a language of bytes, its tokens summed over: comparable whatever the tokenizer"
    sub.add_argument("--per-byte", action="store_true", help=of_bytes)
    sub.add_argument(
        "--width", type=_integer, metavar="N", help="with --per-byte: token sequences followed per text (8)"
    )
    sub.add_argument("--revision", help="of a hub model")
    sub.add_argument("-o", dest="output", type=Path, default=Path(output), metavar="FILE", help=f"({output})")


def _run(options) -> int:
    from .runner import run

    repeated = [name for name, _ in options.p]
    twice = next((name for name in repeated if repeated.count(name) > 1), None)
    if twice:
        raise ParameterError(f"parameter {twice!r} is given twice; a list is one comma-separated value, 'a,b'")
    return run(options.notebooks, dict(options.p), options.profile, options.f, in_place=options.in_place)


def _score(options) -> int:
    from ._commands import score

    return score(options)


def _sample(options) -> int:
    from ._commands import sample

    return sample(options)


def _models(_) -> int:
    import aep

    print(aep.models().to_string())
    print(
        "held_out_loss, held_out_low, held_out_high: nats per token of the model's own tokenizer; a token of docs-bytes"
    )
    print(
        "is one byte, so compare models of other vocab_size by nats_per_byte (nats per byte of text); tales has a text"
    )
    print("of its own: compare it with the entropy of its grammar, in its card")
    return 0


def _store(options) -> int:
    from .records import store_home
    from .store import Store

    if not options.prune and (options.kind or options.damaged or options.yes):
        raise ParameterError("--kind, --damaged and --yes say what to prune: use them with --prune")
    home = store_home()
    store = Store(home / "records")
    _list_store(home, store)
    if options.prune:
        return _prune(options, home, store)
    if not options.verify:
        return 0
    damaged = store.damaged()
    for _, reason in damaged:
        print(f"damaged: {reason}")
    print(
        f"{len(damaged)} damaged files; python -m aep store --prune --damaged" if damaged else "every record is whole"
    )
    return 1 if damaged else 0


def _list_store(home: Path, store) -> None:
    """Place, files and size by kind, and one line per model and scorer."""
    files = [file for part in ("records", "training", "probes") for file in _below(home / part)]
    print(f"{home}: {len(files)} files, {_megabytes(files)}")
    for kind, folder in _KEPT.items():
        if found := _below(home / folder):
            print(f"  {kind}: {len(found)} files, {_megabytes(found)}")
    shards = store.shards()
    for (kind, name), part in shards.groupby(["kind", "name"]):
        what = f"texts of {name}" if kind == "texts" else f"tokens under {name}"
        print(f"  {what}: {len(part)} files, {part['rows'].sum()} {kind}, {part['bytes'].sum() / 1e6:.1f} MB")


def _prune(options, home: Path, store) -> int:
    folders = [home / _KEPT[options.kind]] if options.kind else [home / n for n in ("records", "training", "probes")]
    files = [file for folder in folders for file in _below(folder)]
    if options.damaged:
        useless = {path for path, _ in store.damaged()} | set(store.left_over())
        files = [file for file in files if file in useless]
    if not files:
        print("nothing to prune")
        return 0
    what, size = f"{len(files)} {'damaged ' if options.damaged else ''}files", _megabytes(files)
    if not options.yes:
        if not sys.stdin.isatty():
            raise ParameterError("--prune asks before it deletes; without a terminal say --yes")
        if (
            input(f"Delete {what} ({size}) of {options.kind or 'records and checkpoints'}? [y/N] ").strip().lower()
            != "y"
        ):
            return 0
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        _remove_empty(folder)
    print(f"{what} deleted, {size} freed")
    return 0


def _below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _megabytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files if file.exists()) / 1e6:.1f} MB"


def _remove_empty(folder: Path) -> None:
    for path in sorted([*folder.rglob("*"), folder], reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _train(options) -> int:
    from .neural.training.train import train

    train(options.name)
    return 0


def _corpus(_) -> int:
    from .neural.training.corpus import check

    report = check()
    print(report)
    return 1 if report.missing or report.changed else 0


def _bench(options) -> int:
    from . import bench

    print(bench.run(options.rows).to_string(index=False))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. A mistake of the user is one line on stderr and exit code 2."""
    options = None
    try:
        options = _arguments().parse_args(arguments)
        code = options.function(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # nobody reads on: `python -m aep models | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell reports it of its own commands
    except (AepError, OSError) as error:
        strerror, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
        message = f"{strerror}: {str(filename)!r}" if strerror and filename else str(error)
        message += make_room(error) if isinstance(error, OSError) else ""
        print(f"aep: {_one_line(message) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        kept = _AFTER_INTERRUPT.get(getattr(options, "command", ""), "the same command goes on or begins again")
        kept = _AGAIN if getattr(options, "no_store", False) else kept
        print(f"aep: interrupted; {_one_line(str(interrupt)) or kept}", file=sys.stderr)
        return 130


def _one_line(message: str) -> str:
    """The message on one line, shortened in the middle, control characters of a name in it as codes."""
    from ._display import visible

    line = visible(" ".join(message.split()))
    return line if len(line) <= 2000 else f"{line[:1500]} ... {line[-400:]}"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # sampled characters that the terminal's encoding lacks
    sys.exit(main())
