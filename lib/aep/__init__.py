"""aep: the asymptotic equipartition property of language models.

Names are imported on first use, so that ``import aep.information`` needs neither torch nor matplotlib.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "ancestral": "adaptors",
    "temperature": "adaptors",
    "top_k": "adaptors",
    "nucleus": "adaptors",
    "eta": "adaptors",
    "epsilon": "adaptors",
    "locally_typical": "adaptors",
    "min_p": "adaptors",
    "Language": "languages.protocol",
    "Texts": "records",
    "Records": "records",
    "sample": "sampling",
    "score": "scoring",
    "models": "neural.loading",
    "load": "neural.loading",
    "per_byte": "neural.per_byte",
    "begin": "outputs",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        value = getattr(import_module(f"aep.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'aep' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
