"""Adaptors agree with the warpers of transformers token by token, keep ratios, and treat ties as `aep.adaptors` says."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as warpers

import aep
import oracles_columns
from aep import adaptors, information
from aep.adaptors import ancestral, epsilon, eta, locally_typical, min_p, nucleus, parse, temperature, top_k
from aep.errors import AdaptorError

WARPERS = {  # in the order in which transformers applies them
    "temperature": warpers.TemperatureLogitsWarper,
    "top_k": warpers.TopKLogitsWarper,
    "nucleus": warpers.TopPLogitsWarper,
    "min_p": warpers.MinPLogitsWarper,
    "locally_typical": warpers.TypicalLogitsWarper,
    "epsilon": warpers.EpsilonLogitsWarper,
    "eta": warpers.EtaLogitsWarper,
}
SINGLE = [
    ("temperature", 0.5),
    ("temperature", 1.5),
    ("top_k", 1),
    ("top_k", 3),
    ("top_k", 17),
    ("top_k", 500),
    ("nucleus", 0.05),
    ("nucleus", 0.6),
    ("nucleus", 0.95),
    ("min_p", 0.02),
    ("min_p", 0.3),
    ("min_p", 1.0),
    ("locally_typical", 0.2),
    ("locally_typical", 0.9),
    ("epsilon", 0.001),
    ("epsilon", 0.05),
    ("epsilon", 0.9),
    ("eta", 0.0009),
    ("eta", 0.1),
    ("eta", 0.9),
]
COMPOSED = [
    (("temperature", 0.8), ("top_k", 5)),
    (("temperature", 1.5), ("nucleus", 0.9)),
    (("top_k", 5), ("nucleus", 0.7)),
    (("temperature", 0.7), ("top_k", 8), ("nucleus", 0.8), ("min_p", 0.1)),
    (("nucleus", 0.9), ("locally_typical", 0.9)),
    (("temperature", 1.25), ("min_p", 0.05), ("epsilon", 0.02), ("eta", 0.1)),
    tuple((kind, dict(SINGLE)[kind]) for kind in WARPERS),
]


def build(steps):
    adaptor = ancestral()
    for kind, value in steps:
        adaptor = adaptor | getattr(adaptors, kind)(value)
    return adaptor


def random_rows(seed: int, rows: int, vocab: int, *, masked: float = 0.0) -> np.ndarray:
    """Rows without ties, from nearly uniform to nearly a point mass; some entries -inf."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, vocab)) * np.geomspace(0.1, 8, rows)[:, None]
    cut = rng.random(logits.shape) < masked
    cut[:, rng.integers(vocab)] = False
    return information.log_normalise(np.where(cut, -np.inf, logits))


def warped(log_p: np.ndarray, steps) -> np.ndarray:
    """What `generate` would draw from: the processors of transformers in its order, then a softmax."""
    scores = torch.as_tensor(log_p)
    for kind, value in steps:
        scores = WARPERS[kind](value)(None, scores)
    return torch.log_softmax(scores, dim=-1).numpy()


@pytest.mark.parametrize("steps", [*((s,) for s in SINGLE), *COMPOSED], ids=lambda s: str(build(s)))
def test_log_q_equals_the_warpers_of_transformers_token_by_token(steps):
    for rows, vocab, masked in ((300, 40, 0.0), (300, 40, 0.3), (100, 3, 0.3), (30, 500, 0.3)):
        log_p = random_rows(21, rows, vocab, masked=masked)
        expected = warped(log_p, steps)
        found = build(steps)(log_p)
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
        np.testing.assert_allclose(found, expected, atol=1e-10)
        on_torch = build(steps)(torch.as_tensor(log_p))
        assert isinstance(on_torch, torch.Tensor)
        np.testing.assert_allclose(on_torch.numpy(), found, atol=1e-12)


def test_a_wrong_order_of_the_warpers_would_be_seen():
    """Negative control of the comparison above: top-k after top-p keeps other tokens than top-k before it."""
    log_p = random_rows(22, 400, 40)
    steps = (("top_k", 5), ("nucleus", 0.7))
    assert np.any(np.isneginf(build(steps)(log_p)) != np.isneginf(warped(log_p, steps[::-1])))


@settings(max_examples=50)
@given(st.permutations([temperature(0.8), top_k(9), nucleus(0.9), min_p(0.05), locally_typical(0.9), eta(0.1)]))
def test_the_order_of_writing_does_not_matter(parts):
    adaptor = parts[0]
    for part in parts[1:]:
        adaptor = adaptor | part
    assert str(adaptor) == "temperature(0.8)|top_k(9)|nucleus(0.9)|min_p(0.05)|locally_typical(0.9)|eta(0.1)"


# ----------------------------------------------------------------------------------------------------------- ties


def kept(adaptor, p, module=np.array):
    with np.errstate(divide="ignore"):
        log_p = information.log_normalise(module(np.log(p)))
    return np.flatnonzero(np.isfinite(np.asarray(adaptor(log_p)))).tolist()


MODULES = pytest.mark.parametrize("module", [np.array, torch.tensor], ids=["numpy", "torch"])


@MODULES
def test_top_k_keeps_every_tie_of_the_kth_and_so_does_transformers(module):
    p = [0.1, 0.3, 0.1, 0.3, 0.1, 0.1]
    assert kept(top_k(1), p, module) == [1, 3]
    assert kept(top_k(2), p, module) == [1, 3]
    assert kept(top_k(3), p, module) == [0, 1, 2, 3, 4, 5]
    assert np.isfinite(warped(np.log([p]), [("top_k", 3)])).all()


@MODULES
def test_nucleus_keeps_the_lowest_ids_of_tied_tokens(module):
    p = [0.125, 0.25, 0.125, 0.25, 0.125, 0.125]
    assert kept(nucleus(0.2), p, module) == [1]
    assert kept(nucleus(0.3), p, module) == [1, 3]
    assert kept(nucleus(0.6), p, module) == [0, 1, 3]
    assert kept(nucleus(0.7), p, module) == [0, 1, 2, 3]
    assert kept(nucleus(1), p, module) == [0, 1, 2, 3, 4, 5]
    assert kept(nucleus(0.3), [0.25] * 4, module) == [0, 1]
    assert kept(nucleus(0.5), [0.5, 0.25, 0.25], module) == [0]  # a mass that is reached exactly


@MODULES
def test_locally_typical_keeps_every_tie_of_the_last_whatever_the_order_of_ids(module):
    assert kept(locally_typical(0.3), [0.25] * 4, module) == [0, 1, 2, 3]
    p = [0.175, 0.3, 0.175, 0.175, 0.175]  # entropy 1.58: the rare ones are .16 nats away, the frequent one .38
    for place in range(5):
        rolled = np.roll(p, place)
        assert kept(locally_typical(0.2), rolled, module) == np.flatnonzero(rolled < 0.2).tolist()
    assert np.isfinite(warped(np.log([p]), [("locally_typical", 0.2)])).sum() == 4


@MODULES
def test_the_reversal_language_keeps_three_tokens_where_second_place_is_tied(module):
    assert kept(top_k(2), [0.40, 0.35, 0.25], module) == [0, 1]
    assert kept(top_k(2), [0.40, 0.30, 0.30], module) == [0, 1, 2]
    assert kept(nucleus(0.7), [0.40, 0.30, 0.30], module) == [0, 1]


@MODULES
def test_threshold_adaptors_always_keep_the_greedy_token_and_its_ties(module):
    p = [0.3, 0.1, 0.3, 0.3]
    for adaptor in (epsilon(0.9), min_p(1.0)):
        assert kept(adaptor, p, module) == [0, 2, 3]
    assert kept(eta(0.99), [1.0, *[0.0] * 3], module) == [0]


# ----------------------------------------------------------------------------------------------------- identities

ANY = st.sampled_from(SINGLE).map(lambda s: (s,)) | st.sampled_from(COMPOSED)


@settings(max_examples=60)
@given(ANY, st.integers(0, 2**16))
def test_ratios_are_kept_on_the_support_and_log_z_is_the_mass_of_the_weights(steps, seed):
    log_p = random_rows(seed, 4, 12, masked=0.2)
    adaptor = build(steps)
    adapted, weights = adaptor.transform(log_p), adaptor.log_weights(log_p)
    np.testing.assert_allclose(np.exp(adapted.log_q).sum(axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(adapted.log_normaliser, np.log(np.exp(weights).sum(axis=-1)), atol=1e-9)
    np.testing.assert_array_equal(adaptor.log_normaliser(log_p), adapted.log_normaliser)
    tau = dict(steps).get("temperature", 1.0)
    for row in range(4):
        support = np.flatnonzero(np.isfinite(adapted.log_q[row]))
        assert np.all(np.isfinite(log_p[row, support]))
        for v, w in itertools.pairwise(support):
            ratio = adapted.log_q[row, v] - adapted.log_q[row, w]
            assert ratio == pytest.approx((log_p[row, v] - log_p[row, w]) / tau, abs=1e-9)


@given(st.floats(0.05, 20), st.integers(0, 2**16))
def test_the_log_normaliser_of_a_temperature_is_the_log_partition_at_its_inverse(tau, seed):
    log_p = random_rows(seed, 3, 10, masked=0.2)
    expected = information.log_partition(log_p, 1 / tau)
    np.testing.assert_allclose(temperature(tau).log_normaliser(log_p), expected, atol=1e-10)
    oracle = [oracles_columns.temperature(np.exp(row), tau) for row in log_p]
    np.testing.assert_allclose(np.exp(temperature(tau)(log_p)), oracle, atol=1e-10)


@given(st.floats(0.01, 1), st.integers(0, 2**16))
def test_nucleus_is_the_fewest_tokens_that_reach_the_mass(mass, seed):
    log_p = random_rows(seed, 3, 10)
    oracle = [oracles_columns.nucleus(np.exp(row), mass) for row in log_p]
    np.testing.assert_allclose(np.exp(nucleus(mass)(log_p)), oracle, atol=1e-10)
    assert np.all(nucleus(mass).log_normaliser(log_p) >= math.log(mass) - 1e-12)


def test_ancestral_and_neutral_parameters_change_nothing():
    log_p = random_rows(23, 50, 20)
    for adaptor in (ancestral(), temperature(1), top_k(20), nucleus(1), ancestral() | temperature(1.0)):
        adapted = adaptor.transform(log_p)
        np.testing.assert_allclose(adapted.log_q, log_p, atol=1e-12)
        np.testing.assert_allclose(adapted.log_normaliser, 0, atol=1e-12)
    assert ancestral().is_ancestral
    assert not temperature(1).is_ancestral
    assert ancestral() | top_k(3) == top_k(3)


# -------------------------------------------------------------------------------------------- strings and errors

VALUES = {
    "temperature": st.floats(1e-3, 1e3),
    "top_k": st.integers(1, 10**6),
    **dict.fromkeys(("nucleus", "min_p", "locally_typical"), st.floats(1e-6, 1)),
    **dict.fromkeys(("epsilon", "eta"), st.floats(1e-9, 0.999)),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_a_string_and_its_adaptor_are_inverse(steps):
    adaptor = build(steps.items())
    assert parse(str(adaptor)) == adaptor
    assert parse(" | ".join(f" {kind}( {value!r} )" for kind, value in steps.items()) or "ancestral()") == adaptor


def test_strings_are_as_documented():
    assert str(aep.top_k(50) | aep.temperature(0.8)) == "temperature(0.8)|top_k(50)"
    assert str(parse("temperature(.8)|top_k(50.)")) == "temperature(0.8)|top_k(50)"
    assert str(ancestral()) == "ancestral()"
    assert adaptors._single("top_k", np.int64(4)) == top_k(4)
    assert nucleus(np.float64(0.5)) == nucleus(0.5)
    assert repr(adaptors._single("top_k", np.int64(4)).steps) == "(('top_k', 4),)"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("temperature", 0.0, r"temperature\(0\.0\): the parameter must be a number above 0"),
        ("temperature", -1.0, "a number above 0"),
        ("temperature", math.inf, "a number above 0"),
        ("temperature", math.nan, "a number above 0"),
        ("top_k", 0, r"top_k\(0.*\): the parameter must be an integer of at least 1"),
        ("top_k", 2.5, r"top_k\(2\.5\)"),
        ("top_k", math.inf, r"top_k\(inf\): the parameter must be an integer"),
        ("top_k", math.nan, r"top_k\(nan\)"),
        ("nucleus", 0.0, r"nucleus\(0\.0\): the parameter must be a number in \(0, 1\]"),
        ("nucleus", 1.01, r"nucleus\(1\.01\)"),
        ("min_p", -0.1, r"\(0, 1\]"),
        ("locally_typical", 2.0, r"\(0, 1\]"),
        ("epsilon", 1.0, r"a number in \(0, 1\)"),
        ("eta", 0.0, r"a number in \(0, 1\)"),
    ],
)
def test_a_parameter_outside_its_range_is_refused_with_the_range(kind, value, message):
    with pytest.raises(AdaptorError, match=message):
        parse(f"{kind}({value})")
    with pytest.raises(AdaptorError, match=message):
        adaptors._single(kind, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature(.8)", "unknown adaptor 'temprature': did you mean 'temperature'"),
        ("topk(3)", "did you mean 'top_k'"),
        ("top_p(.9)", "unknown adaptor 'top_p'.*nucleus"),
        ("temperature(warm)", r"temperature\(warm\): the parameter must be a number above 0"),
        ("temperature(.8)top_k(3)", "not of the form"),
        ("temperature", "'temperature' is not of the form name"),
        ("", "'' is not of the form"),
        ("ancestral(1)", "takes no parameter"),
        ("top_k(3)|top_k(4)", "top_k is given twice, as 3 and as 4"),
    ],
)
def test_a_string_that_is_no_adaptor_is_refused_with_the_nearest_names(text, message):
    with pytest.raises(AdaptorError, match=message):
        parse(text)
    assert parse("top_k(3)|top_k(3)") == top_k(3)
