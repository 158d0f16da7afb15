"""Watching a text grow: its log-perplexity, empirical entropy, band and e-value, token by token, with widgets in Jupyter.

`growing` draws the text and `state` says where it stands; both work without a notebook. `watch` puts them behind widgets.
"""

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from . import _progress
from ._array import as_numpy
from ._display import heading, token_map
from .adaptors import Adaptor, parse
from .analysis.eprocess import first_rejection, log_e_process
from .analysis.self_aep import running
from .analysis.typicality import Paths
from .errors import ParameterError
from .languages.protocol import Language
from .neural.loading import load
from .plotting import colours
from .plotting.watching import picture
from .records import Records
from .sampling import adapted_law, check_context, checked_adaptor, draw, ids_of_prompts, step_columns, text_stream

__all__ = ["Panel", "growing", "state", "watch"]

_LEAST = 8  # tokens of the first picture


def growing(
    language: Language,
    prompt: str | Sequence[int | np.integer] | np.ndarray | None = None,
    *,
    tokens: int,
    seed: int,
    adaptor: Adaptor | None = None,
) -> Iterator[Records]:
    """Draw one text and yield, after every token, the record of the text so far under `language` itself.

    The text is the one that ``sample(language, prompt, tokens=tokens, seed=seed, adaptor=adaptor)`` draws (same random
    stream), and the columns are those of its record: raw p, whatever `adaptor` the tokens were drawn with. One step of
    the language per token, with its cache. What was yielded stays as it is.

    Raises what `sample` raises, when the first token is asked for: PromptError, ParameterError, AdaptorError,
    ContextTooLong, DistributionError.
    """
    adaptor = checked_adaptor(1, tokens, seed, 1, adaptor, "never", language)
    prompts = ids_of_prompts(language, None if prompt is None else [prompt])
    check_context(language, prompts, tokens)
    uniforms = text_stream(seed, 0, 0).random(tokens)
    stepping = getattr(language, "stepping", lambda texts: nullcontext())
    meta = {"scorer": language.name, "sampler": {"language": language.name, "adaptor": str(adaptor), "seed": seed}}
    columns = {"text": np.zeros(tokens, np.int64), "position": np.arange(tokens), "token": np.zeros(tokens, np.int64)}
    now = state = None
    for t in range(tokens):
        with stepping(1):  # one token at a time: between two of them the caller may have other work
            now, state = language.start(prompts) if t == 0 else language.step(state, columns["token"][t - 1 : t])
            token = draw(adapted_law(adaptor, now).log_q, uniforms[t : t + 1])
            found = {"token": token} | step_columns(language, now, token)
        for name, value in found.items():
            value = as_numpy(value)
            columns.setdefault(name, np.zeros(tokens, value.dtype))[t] = value[0]
        yield Records({name: column[: t + 1] for name, column in columns.items()}, meta, language)


def state(records: Records, alpha: float = 0.05) -> pd.DataFrame:
    """One row per position of text 0: running l and h, σ, the time-uniform band of level 1-α, and the log e-value.

    The columns of `analysis.self_aep.running`, and `log_e`, the logarithm of the mixture e-process of
    `analysis.eprocess`. Nats per token; `log_e` has no unit. ParameterError unless α is in (0, 1).

    >>> from aep.languages import FiniteLanguage
    >>> *_, records = growing(FiniteLanguage([0.5, 0.5]), tokens=5, seed=0)
    >>> table = state(records)
    >>> bool(np.allclose(table.log_perplexity, np.log(2)) and np.allclose(table.empirical_entropy, np.log(2)))
    True
    """
    table = running(records, 0, alpha)
    table["log_e"] = log_e_process(Paths.of(records, 0))
    return table


def watch(
    models: Mapping[str, str | Language] | Sequence[str | Language],
    samplers: Mapping[str, str | Adaptor] | Sequence[str | Adaptor] = ("ancestral()", "temperature(0.8)", "top_k(50)"),
    *,
    prompt: str = "",
    tokens: int = 400,
    seed: int = 0,
    alpha: float = 0.05,
) -> widgets.VBox | None:
    """Widgets that draw a text and show l, h, the band and the e-value as it grows.

    The text is drawn with the chosen sampler and tested against raw p of the chosen model: the e-value of a text of
    another sampler rises, that of the model's own text exceeds 1/α with probability at most α however long one watches.
    Equal choices give equal texts; another text needs another seed. Pictures have the style that is set
    (`plotting.use_style`).

    Parameters
    ----------
    models : what the reader may choose from: languages, or names for `load`, which are loaded when chosen; a mapping
        gives them labels
    samplers : adaptors, or strings such as "temperature(0.8)|top_k(50)"; a mapping gives them labels
    prompt : what the box says at first; an empty box is the start token alone

    Returns
    -------
    The widgets, which Jupyter shows; None wherever no person is watching: in a notebook that papermill, nbval or nbconvert
    executes, and outside Jupyter.

    Raises
    ------
    ParameterError : no model, no sampler, or a level outside (0, 1)
    AdaptorError : a sampler that does not exist
    """
    models = _labelled(models, "model")
    adaptors = {label: parse(a) if isinstance(a, str) else a for label, a in _labelled(samplers, "sampler").items()}
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha={alpha!r}: a level in (0, 1) is needed")
    if not _progress.enabled() or "ipykernel" not in sys.modules:
        return None  # the first speaks of terminals too, where there is nothing to show widgets
    return Panel(models, adaptors, prompt=prompt, tokens=tokens, seed=seed, alpha=alpha).box


def _labelled(choices: Mapping[str, Any] | Sequence[Any], kind: str) -> dict[str, Any]:
    if isinstance(choices, str):
        raise ParameterError(f"{kind}s={choices!r}: give a list, such as [{choices!r}]")
    if not isinstance(choices, Mapping):
        choices = {getattr(c, "name", None) or str(c): c for c in choices}
    if not choices:
        raise ParameterError(f"there is no {kind} to choose from: give at least one")
    return dict(choices)


class Panel:
    """The widgets of `watch` (`box` holds them) and `task`, which serves them in the event loop that runs now.

    Clicks may arrive in any thread (a kernel may handle them beside its main one): Start hands over to the event loop, and
    Stop raises a flag that is read after every token.
    """

    def __init__(
        self,
        models: Mapping[str, str | Language],
        adaptors: Mapping[str, Adaptor],
        *,
        prompt: str,
        tokens: int,
        seed: int,
        alpha: float,
    ):
        self._models, self._adaptors, self._alpha = dict(models), dict(adaptors), alpha
        self._loop, self._halt = asyncio.get_running_loop(), threading.Event()
        self.task: asyncio.Task | None = None
        wide = {"description_width": "5em"}
        self.prompt = widgets.Text(
            prompt, description="prompt", placeholder="(the start token alone)", style=wide, layout={"width": "24em"}
        )
        self.model = widgets.Dropdown(options=list(models), description="model", style=wide, layout={"width": "17em"})
        self.sampler = widgets.Dropdown(
            options=list(adaptors), description="sampler", style=wide, layout={"width": "19em"}
        )
        self.seed = widgets.IntText(seed, description="seed", style=wide, layout={"width": "12em"})
        self.tokens = widgets.IntText(tokens, description="tokens", style=wide, layout={"width": "12em"})
        self.start = widgets.Button(description="Start", icon="play", button_style="primary", layout={"width": "7em"})
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True, layout={"width": "7em"})
        self.status, self.text = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"display": "none", "width": "60em", "max_width": "100%"})
        self.start.on_click(lambda _: self._loop.call_soon_threadsafe(self._begin))
        self.stop.on_click(lambda _: self._halt.set())
        first = widgets.HBox([self.prompt, self.model, self.sampler], layout={"flex_flow": "row wrap"})
        second = widgets.HBox([self.seed, self.tokens, self.start, self.stop], layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([first, second, self.status, self.picture, self.text])

    def _begin(self) -> None:
        if self.task is not None and not self.task.done():
            return
        self._halt.clear()
        self.start.disabled, self.stop.disabled = True, False
        self.text.value, self.picture.layout.display = "", "none"
        self.task = self._loop.create_task(self._run())
        self.task.add_done_callback(self._end)

    async def _run(self) -> None:
        """Draw token by token; show every one at first, then as often as the text has grown by a sixteenth."""
        model, prompt, tokens, sampler = self.model.value, self.prompt.value, self.tokens.value, self.sampler.value
        language = self._models[model]
        if isinstance(language, str):
            self.status.value = escape(f"loading {language} ...")
            language = self._models[model] = await asyncio.to_thread(load, language)
        title = f"{model}, {sampler}: " + (f"after “{prompt}”" if prompt else "without a prompt")
        asked = {"tokens": tokens, "seed": self.seed.value, "adaptor": self._adaptors[sampler]}
        shown, records = 0, None
        for records in growing(language, prompt or None, **asked):
            if len(records) - shown >= max(1, shown // 16):
                shown = len(records)
                self._show(records, title, model, tokens)
            await asyncio.sleep(0.001)  # clicks, and whatever else the kernel has to do
            if self._halt.is_set():
                break
        if records is not None and shown < len(records):
            self._show(records, title, model, tokens)

    def _show(self, records: Records, title: str, model: str, tokens: int) -> None:
        table = state(records, self._alpha)
        self.status.value = _sentence(table, tokens, self._alpha)
        columns = [records[n] for n in ("token", "surprisal", "entropy", "varentropy", "rank")]
        self.text.value = heading(title) + token_map(records.language.decode, *columns)
        if len(records) >= _LEAST:
            colour = colours([model])[model]
            self.picture.value = picture(table, tokens=tokens, alpha=self._alpha, colour=colour)
            self.picture.layout.display = ""

    def _end(self, task: asyncio.Task) -> None:
        """Whatever ended the task: the buttons as before, and an error as one line."""
        self.start.disabled, self.stop.disabled = False, True
        error = None if task.cancelled() else task.exception()
        if error is not None:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.status.value = f'<b style="color:#D55E00">{escape(line)}</b>'
        elif self._halt.is_set():
            self.status.value = f"{self.status.value} Stopped here."


def _sentence(table: pd.DataFrame, tokens: int, alpha: float) -> str:
    """Where the text stands, in two lines of HTML."""
    end, rejected = table.iloc[-1], float(first_rejection(table.log_e.to_numpy(), alpha))
    verdict = f"The e-value has not reached 1/α = {1 / alpha:g}."
    if np.isfinite(rejected):
        found = f"The e-value reached 1/α = {1 / alpha:g} at token {rejected:.0f}"
        verdict = f"<b>{found}: at level {alpha:g}, not the model's own text.</b>"
    numbers = f"l = {end.log_perplexity:.3f}, h = {end.empirical_entropy:.3f}, σ = {end.sigma:.3f} nats per token"
    log_e = f"{end.log_e:.2f}".replace("-", "−")
    return f"{len(table)} of {tokens} tokens: {numbers}; log e-value {log_e}.<br>{verdict}"
