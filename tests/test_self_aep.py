"""Tables of notebook 02 against their definitions, text by text."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import aep
from aep import plotting
from aep.analysis import self_aep
from aep.analysis.eprocess import first_rejection, log_e_process
from aep.analysis.typicality import Paths
from aep.languages import MarkovChain
from aep.plotting import self_aep as draw

CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
TOKENS = 120


def paths(seed: int, texts: int = 60) -> Paths:
    drawn = aep.sample(CHAIN, None, texts=texts, tokens=TOKENS, seed=seed, record=True, batch=texts)
    return Paths.of(aep.score(drawn, CHAIN))


@pytest.fixture(scope="module")
def found() -> Paths:
    return paths(4)


def test_rates_and_shares_are_counted_over_texts(found):
    row = self_aep.convergence(found, np.array([50]), 0.1).iloc[0]
    gap = [sum(a[:50] - h[:50]) / 50 for a, h in zip(found.surprisal, found.entropy, strict=True)]
    sigma = [np.sqrt(sum(v[:50])) / 50 for v in found.varentropy]
    assert row.texts == 60
    assert np.isclose(row.rms, np.sqrt(np.mean(np.square(gap))))
    assert np.isclose(row.predicted, np.sqrt(np.mean(np.square(sigma))))
    assert np.isclose(row.in_1_sigma, np.mean(np.abs(gap) <= np.array(sigma)))
    assert np.isclose(row.in_fixed, np.mean(np.abs(gap) <= 0.1))
    assert row.rms_low < row.rms < row.rms_high


def test_pooled_paths_are_the_texts_of_all_samples(found):
    other = paths(5)
    both = Paths.concatenate([found, other])
    assert both.surprisal.shape == (120, TOKENS)
    np.testing.assert_array_equal(both.varentropy[60:], other.varentropy)
    np.testing.assert_array_equal(both.log_partition[1.5][:60], found.log_partition[1.5])
    parts = [self_aep.convergence(p, np.array([TOKENS]), 0.1).in_2_sigma.item() for p in (found, other, both)]
    assert np.isclose(parts[2], (parts[0] + parts[1]) / 2)


def test_the_share_of_positions_rises_where_the_text_enters_the_band_and_falls_where_it_leaves():
    one = np.ones((2, 40))
    drift = np.zeros((2, 40))
    drift[0, 0], drift[0, 1] = 5.0, -5.0  # outside at the first position only
    drift[1, 20:] = 3.0  # leaves it for good
    grid: dict[float, np.ndarray] = {}
    shares = self_aep.rises(Paths(one + drift, one, one, grid), 10, 40)
    assert shares.estimate == 0.5
    assert self_aep.rises(Paths(one[:1] + drift[:1], one[:1], one[:1], grid), 10, 40).estimate == 1


def test_rejections_are_those_of_the_process_at_any_token_so_far(found):
    table = self_aep.rejections(found, np.array([20, TOKENS]), alpha=0.4, critical=1.0).set_index(["tokens", "method"])
    stop = first_rejection(log_e_process(found), 0.4)
    assert table.share[(TOKENS, "e-process")] == np.mean(stop <= TOKENS)
    drift, information = np.cumsum(found.surprisal - found.entropy, axis=1), np.cumsum(found.varentropy, axis=1)
    z = np.abs(drift / np.sqrt(information))
    assert table.share[(TOKENS, "z, peeked")] == np.mean((z[:, 29:] > 1).any(axis=1))
    assert table.share[(20, "z, at T")] == np.mean(z[:, 19] > 1)
    assert (20, "z, peeked") not in table.index  # it does not look yet


def test_controls_are_drawn_filled_where_they_are_rejected():
    rows = [("m", "own", 0.0, False), ("m", "another", 2.0, True), ("n", "own", 0.1, False)]
    table = pd.DataFrame(rows, columns=["model", "kind", "mean_z", "rejected"])
    table = table.assign(mean_z_low=table.mean_z - 0.1, mean_z_high=table.mean_z + 0.1, predicted_z=table.mean_z)
    figure, ax = plotting.figure()
    draw.plot_controls(ax, table, {"m": "#0072B2", "n": "#D55E00"})
    marks = {
        (line.get_color(), line.get_markerfacecolor()): len(line.get_xdata())
        for line in ax.lines
        if line.get_marker() == "o"
    }
    assert marks[("#0072B2", "#0072B2")] == 1 and marks[("#0072B2", "white")] == 1 and marks[("#D55E00", "white")] == 1
    plt.close(figure)
