"""Generated prices come again as they say, and the experiment on them tells who finds it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.study.decoder import Drawn, run_echo
from pipeline.study.echo import SIZE, echo
from pipeline.study.experiment import Conditions


def test_moves_copy_the_ones_before_and_no_others() -> None:
    """The autocorrelation of moves is the root of the share at the lag, 0 at other ones; their size is constant."""
    data = echo(20_000, series=2, lag=7, share=0.64)
    moves = np.diff(np.log(data.price[..., 0]), axis=1)
    assert moves.std() == pytest.approx(SIZE, rel=0.02)
    for back, expected in ((1, 0.0), (6, 0.0), (7, 0.8), (14, 0.64)):
        found = [np.corrcoef(r[back:], r[:-back])[0, 1] for r in moves]
        assert np.mean(found) == pytest.approx(expected, abs=0.03), back


def test_the_experiment_tests_every_decoder_against_the_one_without_attention() -> None:
    """At a tiny size there is a row each, and the answer names the first as what the others stand against."""
    finding = run_echo(Drawn(epochs=1, seeds=1, levels=0, length=150), Conditions())
    labels = [row["attention"] for row in finding.rows]
    assert labels == ["no attention", "gru, one linear output", "dot", "additive"]
    assert finding.rows[0]["CRPS saved"] == 0
    assert "Against attention no attention" in finding.answer
