"""Exact languages: NumPy float64, closed forms beside the next-token laws. `protocol` says what a language is."""

from .finite import FiniteLanguage, Toy, toy, zipf
from .hidden_markov import HiddenMarkov, RateBounds
from .infinite import InfiniteEntropy, Lengths
from .markov import Expected, MarkovChain, reversal
from .mixture import Mixture
from .protocol import ExactLanguage, Language

__all__ = [
    "ExactLanguage",
    "Expected",
    "FiniteLanguage",
    "HiddenMarkov",
    "InfiniteEntropy",
    "Language",
    "Lengths",
    "MarkovChain",
    "Mixture",
    "RateBounds",
    "Toy",
    "reversal",
    "toy",
    "zipf",
]
