"""What a study of trios and schemes asks of its parameters, checked before any text is drawn."""

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ParameterError
from .schemes import schemes

__all__ = ["Models", "check_models", "check_schemes"]


class Models(NamedTuple):
    """Names: the prior and the aligned model of either trio, and a second aligned model of the first ("" for none)."""

    prior: str
    aligned: str
    dpo_prior: str
    dpo_aligned: str
    second: str

    @property
    def different(self) -> list[str]:
        """Every model once, in order."""
        return list(dict.fromkeys(name for name in self if name))


def check_models(rlhf: Sequence[str], dpo: Sequence[str], second: str = "", rewards: Sequence[str] = ("",)) -> Models:
    """The names of the models of two trios.

    Raises ParameterError, naming the parameter, where a trio does not have a prior and an aligned model, where an aligned
    model stands in both (one would take the other's place in the tables), or for other than one or two rewards.
    """
    for name, pair in (("rlhf_models", rlhf), ("dpo_models", dpo)):
        if len(pair) != 2:
            raise ParameterError(f"{name}={','.join(pair)!r}: a prior and an aligned model are needed, two names")
    aligned = [rlhf[1], dpo[1], *filter(None, [second])]
    if len(set(aligned)) < len(aligned):
        raise ParameterError(f"aligned models {', '.join(aligned)}: each may stand in one place only")
    if len(rewards) not in (1, 2):
        raise ParameterError(f"reward_names={','.join(rewards)!r}: the reward of Eq. 1, and one reward model or none")
    return Models(*rlhf, *dpo, second)


def check_schemes(**names: str) -> None:
    """ParameterError for lists of schemes with a name that does not exist, without ancestral() or with fewer than three.

    Ancestral sampling is what the others are compared with, and a correlation over two schemes is ±1.
    """
    for parameter, given in names.items():
        found = schemes(given)
        if "ancestral()" not in found or len(found) < 3:
            raise ParameterError(f"{parameter}={given!r}: ancestral() and at least two other schemes are needed")
