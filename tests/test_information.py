"""Identities of every information quantity, on NumPy and on torch, and agreement with SciPy."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import oracles_columns
from aep import information as info
from aep.errors import DistributionError

ORDERS = [0, 0.25, 0.5, 0.75, 0.875, 0.99, 1, 1.01, 1.125, 1.25, 1.5, 2, 8, math.inf]


@st.composite
def laws(draw, size: int | None = None, zeros: bool = True):
    """log_p (vocab,), normalised to rounding, spread over many orders of magnitude, some entries -inf."""
    n = size or draw(st.integers(1, 12))
    logits = draw(arrays(np.float64, n, elements=st.floats(-40, 0)))
    cut = draw(arrays(np.bool_, n)) if zeros else np.zeros(n, bool)
    cut[draw(st.integers(0, n - 1))] = False
    return info.log_normalise(np.where(cut, -np.inf, logits))


def pairs(zeros: bool = True):
    return st.integers(1, 10).flatmap(lambda n: st.tuples(laws(n, zeros), laws(n, zeros)))


@given(laws())
def test_entropy_is_between_zero_and_the_logarithm_of_the_vocabulary(log_p):
    assert -1e-15 <= info.entropy(log_p) <= math.log(len(log_p)) + 1e-12
    assert info.varentropy(log_p) >= 0


@given(laws())
def test_cross_entropy_with_itself_is_entropy(log_p):
    assert info.cross_entropy(log_p, log_p) == info.entropy(log_p)
    assert info.cross_varentropy(log_p, log_p) == info.varentropy(log_p)
    assert info.kl(log_p, log_p) == 0


@given(pairs())
def test_divergence_is_not_negative_and_splits_the_cross_entropy(pair):
    p, q = pair
    divergence = info.kl(p, q)
    assert divergence >= -1e-12
    cut = np.any((np.exp(p) > 0) & np.isneginf(q))
    assert np.isposinf(divergence) == cut
    if not cut:
        assert math.isclose(info.cross_entropy(p, q), info.entropy(p) + divergence, rel_tol=1e-10, abs_tol=1e-10)


@given(laws())
def test_renyi_entropy_does_not_increase_with_its_order(log_p):
    values = np.array([info.renyi_entropy(log_p, order) for order in ORDERS])
    assert np.all(np.diff(values) <= 1e-9 + 1e-9 * np.abs(values[1:]))
    assert values[0] == pytest.approx(math.log(np.isfinite(log_p).sum()), abs=1e-12)


@given(laws(), st.floats(0.01, 4), st.floats(0.01, 4), st.floats(0, 1))
def test_log_partition_is_convex_and_zero_at_one(log_p, low, high, share):
    middle = share * low + (1 - share) * high
    chord = share * info.log_partition(log_p, low) + (1 - share) * info.log_partition(log_p, high)
    assert info.log_partition(log_p, middle) <= chord + 1e-10
    assert abs(info.log_partition(log_p, 1.0)) < 1e-12


@given(laws())
def test_exponential_tilts_of_every_stored_order_are_distributions(log_p):
    for theta, value in info.log_partition_grid(log_p).items():
        s = 1 - theta
        assert info.expectation(log_p, np.exp(-s * np.maximum(log_p, -700) - value)) == pytest.approx(1, abs=1e-10)
        assert value == pytest.approx(info.log_partition(log_p, theta), abs=1e-10)
    assert set(info.log_partition_grid(log_p)) == set(info.THETAS)


@given(laws(), st.integers(0, 11))
def test_every_column_is_what_plain_python_computes(log_p, index):
    token = np.array(index % len(log_p))
    expected = oracles_columns.row(np.exp(log_p), int(token))
    found = {
        "surprisal": info.surprisal(log_p, token),
        "entropy": info.entropy(log_p),
        "varentropy": info.varentropy(log_p),
        "rank": info.rank(log_p, token),
        "mass_above": info.mass_above(log_p, token),
    }
    for name, value in found.items():
        # exp underflows below 1e-308, where plain Python sees a zero
        assert float(value) == pytest.approx(expected[name], rel=1e-9, abs=1e-11), name
    greedy = int(info.greedy(log_p))
    assert log_p[greedy] == log_p.max()
    assert np.all(log_p[:greedy] < log_p.max())


@given(pairs(zeros=False))
def test_scipy_agrees(pair):
    p, q = (np.exp(x) for x in pair)
    assert info.entropy(pair[0]) == pytest.approx(stats.entropy(p), rel=1e-9, abs=1e-12)
    assert info.kl(*pair) == pytest.approx(stats.entropy(p, q), rel=1e-9, abs=1e-11)


@given(laws(8), st.integers(0, 7))
def test_a_greedy_token_has_rank_zero_and_nothing_above_it(log_p, index):
    token = info.greedy(log_p)
    assert info.rank(log_p, token) == 0
    assert info.mass_above(log_p, token) == 0
    assert info.surprisal(log_p, token) == info.renyi_entropy(log_p, math.inf)
    above = info.mass_above(log_p, np.array(index))
    assert 0 <= above <= 1 + 1e-12
    assert (info.rank(log_p, np.array(index)) == 0) == (log_p[index] == log_p.max())


def columns(log_p, log_q, token):
    return {
        "surprisal": info.surprisal(log_p, token),
        "entropy": info.entropy(log_p),
        "varentropy": info.varentropy(log_p),
        "cross_entropy": info.cross_entropy(log_p, log_q),
        "cross_varentropy": info.cross_varentropy(log_p, log_q),
        "kl": info.kl(log_p, log_q),
        "rank": info.rank(log_p, token),
        "greedy": info.greedy(log_p),
        "mass_above": info.mass_above(log_p, token),
        "min-entropy": info.renyi_entropy(log_p, math.inf),
        "support": info.log_partition(log_p, 0),
        **{f"grid {theta}": value for theta, value in info.log_partition_grid(log_p).items()},
        **{f"order {theta}": info.renyi_entropy(log_p, theta) for theta in (0.25, 2.0)},
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_numpy_and_torch_agree_with_masked_entries_and_ties(dtype, tolerance):
    rng = np.random.default_rng(11)
    logits = 3 * rng.normal(size=(200, 40))
    logits[:50] = np.round(logits[:50])  # ties
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    logits[:, 7] = 0.0
    log_p = info.log_normalise(logits)
    log_q = info.log_normalise(np.where(np.isneginf(logits), -np.inf, rng.normal(size=logits.shape)))
    log_p32, log_q32 = (torch.as_tensor(x).to(dtype) for x in (log_p, log_q))
    token = rng.integers(0, 40, size=200)
    oracle = columns(log_p32.double().numpy(), log_q32.double().numpy(), token)
    for name, value in columns(log_p32, log_q32, torch.as_tensor(token)).items():
        assert isinstance(value, torch.Tensor), name
        if name in ("rank", "greedy"):
            np.testing.assert_array_equal(value.numpy(), oracle[name], err_msg=name)
        else:
            assert value.dtype == dtype, name
            np.testing.assert_allclose(value.numpy(), oracle[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_partition_grid_in_single_precision_is_accurate_to_a_millionth_per_nat():
    rng = np.random.default_rng(12)
    log_p = info.log_normalise(4 * rng.normal(size=(50, 2048)))
    single = info.log_partition_grid(torch.as_tensor(log_p).float())
    for theta, value in info.log_partition_grid(log_p).items():
        scale = np.maximum(1.0, np.abs(value))
        assert np.max(np.abs(single[theta].double().numpy() - value) / scale) < 1e-6 * 3


def test_log_partition_of_any_order_runs_over_the_support_alone():
    log_p = np.log(np.array([0.5, 0.5, 1.0])) + np.array([0.0, 0.0, -np.inf])
    for theta in (-1.0, 0, 0.3, 2):
        assert info.log_partition(log_p, theta) == pytest.approx(math.log(2 * 0.5**theta), abs=1e-12)
    assert np.isnan(info.log_partition(np.array([np.nan, 0.0]), 0.5))


def test_a_point_mass_and_a_uniform_law_have_their_closed_forms():
    point = np.array([-np.inf, 0.0, -np.inf])
    assert info.entropy(point) == info.varentropy(point) == 0
    assert all(value == 0 for value in info.log_partition_grid(point).values())
    assert np.isposinf(info.surprisal(point, np.array(0)))
    assert info.rank(point, np.array(0)) == 1
    uniform = np.full(7, -math.log(7))
    assert info.entropy(uniform) == pytest.approx(math.log(7))
    assert info.varentropy(uniform) < 1e-28
    assert info.kl(point, np.full(3, -math.log(3))) == pytest.approx(math.log(3))
    assert np.isposinf(info.kl(np.full(3, -math.log(3)), point))


def test_a_zero_under_the_scorer_makes_the_cross_entropy_infinite_and_its_variance_undefined():
    p, q = np.log(np.array([0.5, 0.5])), np.array([0.0, -np.inf])
    assert np.isposinf(info.cross_entropy(p, q))
    assert np.isnan(info.cross_varentropy(p, q))
    assert info.cross_entropy(q, p) == pytest.approx(math.log(2))


def test_varentropy_does_not_cancel_for_rare_large_surprisals():
    rare = 1e-12
    log_p = np.log(np.array([1 - rare, rare]))
    exact = rare * (1 - rare) * (math.log1p(-rare) - math.log(rare)) ** 2
    assert info.varentropy(log_p) == pytest.approx(exact, rel=1e-3)


@settings(max_examples=30)
@given(laws(), st.floats(1e-3, 1))
def test_rows_that_do_not_sum_to_one_are_refused_by_row_and_sum(log_p, excess):
    info.check_distribution(log_p)
    assume(excess > 1e-6)
    rows = np.stack([log_p, log_p + math.log1p(excess)])
    with pytest.raises(DistributionError, match=rf"row 1 of log_p sums to {1 + excess:.4g}"[:-1]):
        info.check_distribution(rows)


@pytest.mark.parametrize("module", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.5, 0.5], [0.5, math.nan]], r"entry 1 of row 1 is nan, which is negative or NaN"),
        ([[1.5, -0.5]], r"entry 1 of row 0 is -0\.5"),
        ([[0.5, 0.4]], r"row 0 of weights sums to 0\.9, not to 1"),
        ([[math.inf, 0.5]], r"row 0 of weights sums to inf"),
        ([[0.0, 0.0]], r"row 0 of weights sums to 0"),
    ],
)
def test_what_is_not_a_probability_is_refused_with_its_value(module, values, message):
    with pytest.raises(DistributionError, match=message):
        info.check_probabilities(
            module(values, dtype=torch.float64 if module is torch.tensor else np.float64), what="weights"
        )


def test_single_precision_probabilities_are_measured_by_their_own_rounding():
    p = np.random.default_rng(13).dirichlet(np.ones(500), size=20).astype(np.float32)
    np.testing.assert_allclose(np.exp(info.check_probabilities(p)), p, rtol=1e-5)
    with pytest.raises(DistributionError, match=r"sums to 1\.0"):
        info.check_probabilities(p * np.float32(1.001))


@pytest.mark.parametrize("module", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused_by_row(module, bad):
    with pytest.raises(DistributionError, match="logits of row 1 hold NaN or"):
        info.log_normalise(module([[0.0, 1.0], [0.0, bad]]))
    with pytest.raises(DistributionError, match="row 0"):
        info.log_normalise(module([[-math.inf, -math.inf]]))


def test_importing_information_imports_neither_torch_nor_matplotlib():
    code = "import sys, aep.information; sys.exit(bool({'torch', 'matplotlib', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
