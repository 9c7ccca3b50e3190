"""Generated prices come again as they say, and the experiment on them tells who finds it."""

from __future__ import annotations

import numpy as np
import pytest
from test_contract import recurrent

from models.decoder import DecoderConfig
from models.errors import ModelError
from models.forecaster import Forecaster
from models.transforms import LogReturn
from pipeline.attention import attention
from pipeline.figures import attention_map
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


def test_where_a_decoder_looks_can_be_drawn() -> None:
    """Weights of each place add up to 1, the figure has a cell each, and a model without attention is refused."""
    data = echo(120, series=2, lag=3)
    core = recurrent("seq2seq", horizon=2, decoder=DecoderConfig(window=6))
    weights = attention(Forecaster("seq2seq", LogReturn(), core).eval(), data)
    assert weights.shape == (2, 2, 6)
    np.testing.assert_allclose(weights.sum(2), 1, rtol=1e-6)
    figure = attention_map(weights[0], model="seq2seq", series="echo0")
    assert figure.axes[0].collections[0].get_array().size == 2 * 6  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="expected a seq2seq model with attention"):
        attention(Forecaster("gru", LogReturn(), recurrent("gru")).eval(), data)
