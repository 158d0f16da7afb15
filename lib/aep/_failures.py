"""A language that fails on some prompts: it is found which, the others go on, and one line names the first."""

from typing import Any

from .errors import AepError, DistributionError, ModelError, PromptError

__all__ = ["Failures"]

_MOST = 8  # a language that fails on so many prompts fails on all
_OF_A_LANGUAGE = (DistributionError, ModelError, PromptError)


class Failures:
    """What a language raised, part by part. ``with failures: ...`` holds an error back, as `caught`, until it is known
    which part it belongs to: `note` then says which, and `finish` raises what was noted.

    With `kept`, the place where finished parts are kept, the other parts go on after a failure. Of a request of one part
    (`several` is False) the error is raised as it is. Interrupts, lack of memory and refusals (of an adaptor, a parameter)
    are never held back.
    """

    def __init__(self, language: Any, several: bool, kept: Any = None):
        self.name, self.several, self.kept = language.name, several, kept
        self.caught: Exception | None = None
        self._found: list[tuple[str, Exception]] = []

    def __enter__(self) -> "Failures":
        self.caught = None
        return self

    def __exit__(self, kind, error, trace) -> bool:
        refusal = isinstance(error, AepError) and not isinstance(error, _OF_A_LANGUAGE)
        memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        if isinstance(error, Exception) and self.several and not refusal and not memory:
            self.caught = error
        return self.caught is not None

    def note(self, part: str) -> None:
        """The error that was caught belongs to `part`. Raises it where nothing is kept, or after many others."""
        self._found.append((part, self.caught))
        if self.kept is None or len(self._found) == _MOST:
            self.finish()

    def finish(self) -> None:
        """Raise what was noted, if anything: the error of the first part, in one line that names it.

        An error of this package keeps its class; any other becomes a ModelError, caused by it.
        """
        if not self._found:
            return
        (part, error), others = self._found[0], len(self._found) - 1
        own = isinstance(error, AepError)
        said = " ".join(str(error).split())
        line = f"{self.name} fails on {part}: {said if own else f'{type(error).__name__}: {said}'}"
        line += f" (and on {others} more)" if others else ""
        if self.kept is not None:
            line += f"; what it did not fail on is kept in {self.kept}, and the same call goes on with the rest"
        raise (type(error) if own else ModelError)(line) from error
