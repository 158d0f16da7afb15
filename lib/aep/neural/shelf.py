"""Models by name, loaded when they are asked for, with at most so many in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import ParameterError
from .language import NeuralLanguage
from .loading import embedded, load

__all__ = ["Shelf"]


class Shelf(Mapping):
    """Name -> `NeuralLanguage`, in the order given; at most `held` networks are in memory at once.

    A folder goes by its own name, a hub id without its revision, as `NeuralLanguage.name` says it.
    A network that has to make room is loaded again when it is asked for again, so a list of models that do not fit
    together is gone through one by one. `options` are those of `load` (dtype, device).

    Raises
    ------
    ParameterError : no name, a name twice, or `held` below 1
    ModelError, DeviceError : when a model is asked for that cannot be loaded
    KeyError : for a name that is not on the list
    """

    def __init__(self, names: Sequence[str], *, held: int = 8, **options):
        labels = [_label(str(name)) for name in names]
        self._places, self._held, self._options = dict(zip(labels, map(str, names), strict=True)), held, options
        twice = [label for label in labels if labels.count(label) > 1]
        if not labels or twice:
            raise ParameterError(f"model {twice[0]!r} is named twice" if twice else "at least one model is needed")
        if held < 1:
            raise ParameterError(f"held={held!r}: at least 1 network is held in memory")
        self._loaded: dict[str, NeuralLanguage] = {}

    def __getitem__(self, name: str) -> NeuralLanguage:
        if name not in self._loaded:
            place = self._places[name]
            while len(self._loaded) >= self._held:  # first out, before the next one comes in
                del self._loaded[next(iter(self._loaded))]
            self._loaded[name] = load(place, **self._options)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _label(name: str) -> str:
    folder = Path(name).expanduser()
    if name in embedded():
        return name
    return folder.resolve().name if folder.is_dir() else name.partition("@")[0]
