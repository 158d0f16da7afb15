"""Names of models and schemes of a study are refused in one line before any text is drawn."""

import pytest

from aep.analysis.trio_parameters import Models, check_models, check_schemes
from aep.errors import ParameterError

RLHF, DPO = ["tales", "tales-rloo"], ["tales", "tales-dpo"]


def test_the_models_of_two_trios():
    found = check_models(RLHF, DPO, "tales-rloo-2", ["tales-rule"])
    assert found == Models("tales", "tales-rloo", "tales", "tales-dpo", "tales-rloo-2")
    assert found.different == ["tales", "tales-rloo", "tales-dpo", "tales-rloo-2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["tales"], DPO), "rlhf_models='tales'"),
        ((RLHF, [*DPO, "x"]), "dpo_models='tales,tales-dpo,x'"),
        ((RLHF, RLHF), "tales-rloo, tales-rloo"),
        ((RLHF, DPO, "tales-rloo"), "each may stand in one place"),
        ((RLHF, DPO, "", ["a", "b", "c"]), "reward_names='a,b,c'"),
    ],
)
def test_models_that_will_not_do_are_refused(arguments, said):
    with pytest.raises(ParameterError, match=said):
        check_models(*arguments)


@pytest.mark.parametrize(
    ("names", "said"),
    [("top_k(30),top_k(50)", "ancestral"), ("ancestral(),top_k(30)", "two other"), ("ancestral(),topk(3)", "scheme")],
)
def test_schemes_that_will_not_do_are_refused(names, said):
    with pytest.raises(ParameterError, match=said):
        check_schemes(dpo_schemes=names)


def test_all_schemes_will_do():
    check_schemes(dpo_schemes="all", global_schemes="ancestral(), temperature(.5)|top_k(50), top_k(50)")
