"""Exact languages: NumPy float64, closed forms beside the next-token laws. `protocol` says what a language is."""

from .finite import FiniteLanguage, Toy, toy, zipf
from .grammar import Grammar, PositionEntropy, embedded_grammars
from .hidden_markov import HiddenMarkov, RateBounds
from .infinite import InfiniteEntropy, Lengths
from .markov import Expected, MarkovChain, reversal
from .mixture import Mixture
from .protocol import ExactLanguage, Language
from .template import Template

__all__ = [
    "ExactLanguage",
    "Expected",
    "FiniteLanguage",
    "Grammar",
    "HiddenMarkov",
    "InfiniteEntropy",
    "Language",
    "Lengths",
    "MarkovChain",
    "Mixture",
    "PositionEntropy",
    "RateBounds",
    "Template",
    "Toy",
    "embedded_grammars",
    "reversal",
    "toy",
    "zipf",
]
