"""Training of an embedded model: the same command starts it, resumes it, and writes the finished model.

Sequences of packed documents or of tales drawn for every step, Muon for the matrices and AdamW for the rest; weights in
float32. Losses are in nats per token.
"""

import hashlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import MistralForCausalLM

from aep import _progress
from aep._folders import require_writable
from aep.errors import ModelError
from aep.neural.training import configs, corpus, planted_run, tales
from aep.neural.training.checkpoint import load_checkpoint, save_checkpoint, store
from aep.neural.training.data import Batches, FreshBatches, pack, windows
from aep.neural.training.export import Material, export, facts_of_documents
from aep.neural.training.fastloss import BANDED, training_loss, uses_half
from aep.neural.training.optimizers import SingleMuon
from aep.neural.training.planted import PlantedBatches
from aep.neural.training.tokenizer import encode, train_tokenizer

__all__ = ["Run", "fit", "fit_batches", "train"]

MODELS = corpus.ROOT / "data" / "models"
CHECKPOINT_EVERY = 300.0  # seconds
LOG_EVERY = 60.0  # seconds, when no progress bar is shown
Stream = Batches | FreshBatches | PlantedBatches
VALIDATION_ROWS = 128  # windows, spread evenly over the validation stream
# Fields of a run that a checkpoint holds as they are.
_PLAIN = ("step", "seconds", "cpu_seconds", "recent", "best_loss", "best_step", "best", "threads")


@dataclass
class Run:
    """The state of a training run.

    ``seconds`` of wall and of processor time, ``recent`` the running mean of the training loss (nats per token),
    ``best`` the weights with the lowest validation loss, ``log`` a row (step, recent, validation loss, seconds) per
    validation.
    """

    spec: configs.ModelSpec
    model: MistralForCausalLM
    optimizers: dict[str, torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    recent: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    log: list[tuple[int, float, float, float]] = field(default_factory=list)

    def state(self) -> dict:
        """Everything a resumed run needs, as plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            **{k: getattr(self, k) for k in (*_PLAIN, "log")},
        }

    def load(self, state: dict) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for k in _PLAIN:
            setattr(self, k, state[k])
        self.log = [tuple(row) for row in state["log"]]


def begin(spec: configs.ModelSpec, device: str) -> Run:
    """A fresh run of `spec`: weights drawn from its seed, optimizers without history."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = MistralForCausalLM(spec.config()).to(torch.float32)
    model.set_attn_implementation(BANDED)
    model.to(device).train()
    # One name per tensor: the output layer is the embedding.
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    emulated = device == "cpu" and not uses_half(torch.device(device))
    muon = (SingleMuon if emulated else torch.optim.Muon)(matrices, lr=spec.lr_matrices, weight_decay=spec.weight_decay)
    adamw = torch.optim.AdamW(others, lr=spec.lr_others, betas=(0.9, 0.95), weight_decay=0.0)
    return Run(spec, model, {"muon": muon, "adamw": adamw})


def schedule(spec: configs.ModelSpec, step: int) -> float:
    """Factor on the learning rates in `step`: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / spec.warmup)
    return warm * 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, step / spec.steps))))


def loss_of(model: MistralForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """`fastloss.training_loss` by the plain formula in float32: what is reported."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def validate(run: Run, rows: torch.Tensor) -> float:
    """Mean loss (nats per token) on the validation `rows`."""
    run.model.eval()
    parts = [loss_of(run.model, part).item() * len(part) for part in rows.split(run.spec.batch)]
    run.model.train()
    return sum(parts) / len(rows)


def advance(run: Run, rows: torch.Tensor) -> float:
    """One step on `rows`; returns the loss before it (nats per token)."""
    factor = schedule(run.spec, run.step)
    for name, rate in (("muon", run.spec.lr_matrices), ("adamw", run.spec.lr_others)):
        for group in run.optimizers[name].param_groups:
            group["lr"] = rate * factor
    loss = training_loss(run.model, rows)
    value = loss.item()
    if not np.isfinite(value):
        raise ModelError(f"training of {run.spec.name!r} diverged at step {run.step}: loss {value}; lower its rates")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for optimizer in run.optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return value


def fit(
    spec: configs.ModelSpec,
    training: list[np.ndarray],
    validation: list[np.ndarray],
    folder: Path,
    until: int | None = None,
) -> Run:
    """`fit_batches` on documents of token ids: epochs over `training`, windows spread evenly over `validation`."""
    batches = Batches(training, batch=spec.batch, length=spec.length, seed=spec.seed)
    return fit_batches(spec, batches, _spread(validation, spec.length), folder, until)


def _spread(documents: list[np.ndarray], length: int) -> np.ndarray:
    """At most `VALIDATION_ROWS` windows, spread evenly over the stream of `documents`."""
    rows = windows(pack(documents), length)
    return rows[np.linspace(0, len(rows) - 1, min(VALIDATION_ROWS, len(rows))).astype(int)]


def fit_batches(
    spec: configs.ModelSpec, batches: Stream, held: np.ndarray, folder: Path, until: int | None = None
) -> Run:
    """Train `spec` on `batches`, validated on the rows `held`, from the checkpoint in `folder` if there is one, to its end.

    `until` stops after that step, as an interrupt would. A checkpoint is written every five minutes, at the end, and
    before the KeyboardInterrupt after a Ctrl-C, which says where the run stands.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = begin(spec, device)
    saved = load_checkpoint(folder)
    if saved is not None:
        run.load(saved)
        print(f"{spec.name}: resuming at step {run.step} of {spec.steps}", file=sys.stderr, flush=True)
    last = spec.steps if until is None else min(until, spec.steps)
    with postponed_interrupt() as interrupted:
        _loop(run, batches, torch.from_numpy(held).to(device), folder, last, interrupted)
    if interrupted:
        raise KeyboardInterrupt(f"{spec.name}: stopped at step {run.step} of {spec.steps}; the same command resumes")
    return run


@contextmanager
def postponed_interrupt() -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C; a second Ctrl-C interrupts at once.

    An interrupt in the middle of a step would leave one optimizer a step ahead of the other, and a checkpoint of that
    would not continue the same run.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield seen
        return

    def note(number: int, _frame) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _loop(run: Run, batches: Stream, held: torch.Tensor, folder: Path, last: int, interrupted: list[int]) -> None:
    """Steps up to `last` or an interrupt, with validation, checkpoints, and a progress bar or a log line a minute."""
    spec, before, begun = run.spec, run.seconds, time.monotonic()
    saved = logged = begun
    cpu = run.cpu_seconds - time.process_time()
    if run.step >= last:
        return
    with _progress.progress(total=spec.steps, desc=spec.name, unit="step") as bar:
        bar.update(run.step)
        while run.step < last and not interrupted:
            value = advance(run, torch.from_numpy(batches[run.step]).to(held.device))
            run.recent = value if run.step == 1 else 0.98 * run.recent + 0.02 * value
            now = time.monotonic()
            run.seconds, run.cpu_seconds = before + now - begun, cpu + time.process_time()
            if run.step % spec.validate_every == 0 or run.step == spec.steps:
                _record(run, validate(run, held))
            bar.update()
            bar.set_postfix(loss=f"{run.recent:.3f}", validation=f"{run.best_loss:.3f}", refresh=False)
            if bar.disable and now - logged > LOG_EVERY:
                logged = now
                print(_line(run), file=sys.stderr, flush=True)
            if now - saved > CHECKPOINT_EVERY:
                saved = now
                try:
                    save_checkpoint(folder, run.state())
                except ModelError as error:  # the run is worth more than this checkpoint: there may be room next time
                    print(f"{spec.name}: {error}", file=sys.stderr, flush=True)
    save_checkpoint(folder, run.state())


def _line(run: Run) -> str:
    """Where the run stands, with the minutes left."""
    left = (run.spec.steps - run.step) * run.seconds / run.step / 60
    losses = f"loss {run.recent:.3f}, best validation {run.best_loss:.3f} nats per token"
    return f"{run.spec.name}: step {run.step} of {run.spec.steps}, {losses}, {left:.1f} min left"


def _record(run: Run, loss: float) -> None:
    """Add a row to the log and keep the weights if the validation `loss` is the best so far."""
    run.log.append((run.step, run.recent, loss, run.seconds))
    if loss < run.best_loss:
        run.best_loss, run.best_step = loss, run.step
        run.best = {k: v.detach().cpu().clone() for k, v in run.model.state_dict().items()}


def train(name: str, *, out: Path | str | None = None, threads: int | None = None) -> Path:
    """Train the embedded model `name` (or resume), and write it with its card to `out`; returns that folder.

    `out` is ``data/models/NAME`` by default, `threads` what torch chooses. Raises ModelError for an unknown name,
    ParameterError if `out` cannot be written to, and RecordError if the corpus is not installed exactly.
    """
    if name in configs.ALIGNED:
        from aep.neural.training import aligned  # the trainers of the extra [train]

        return aligned.train(name, out=out, threads=threads)
    spec = configs.get(name)
    target = Path(out) if out is not None else MODELS / name
    require_writable(target)
    if threads is not None:
        torch.set_num_threads(threads)
    material = _material(spec)
    folder = store() / f"{name}-{spec.hash(material.digest)}"
    run = fit_batches(spec, material.batches, material.held, folder)
    if material.last:
        keep_last(run)
    written = export(run, material, target)
    print(f"{name}: {run.step} steps in {run.seconds / 60:.1f} minutes, written to {written}", file=sys.stderr)
    return written


def keep_last(run: Run) -> None:
    """Make the weights of the last step, which the log ends with, the ones that are stored."""
    run.best_step, _, run.best_loss, _ = run.log[-1]
    run.best = {k: v.detach().cpu().clone() for k, v in run.model.state_dict().items()}


def _material(spec: configs.ModelSpec) -> Material:
    if isinstance(spec, configs.PlantedSpec):
        return planted_run.material(spec)
    return tales.material(spec) if spec.name == tales.NAME else _documents(spec)


def _documents(spec: configs.ModelSpec) -> Material:
    """The installed documentation; RecordError if it is not exactly the corpus."""
    texts = {split: [d.text for d in corpus.load_split(split)] for split in ("training", "validation")}
    tokenizer = train_tokenizer(texts["training"], spec.vocabulary)
    tokens = {split: encode(tokenizer, part) for split, part in texts.items()}
    counts = np.bincount(np.concatenate(tokens["training"]), minlength=spec.vocabulary)
    return Material(
        Batches(tokens["training"], batch=spec.batch, length=spec.length, seed=spec.seed),
        _spread(tokens["validation"], spec.length),
        tokenizer,
        hashlib.sha256(corpus.MANIFEST.read_bytes()).hexdigest(),
        lambda run, folder: facts_of_documents(run, folder, tokenizer, counts),
    )
