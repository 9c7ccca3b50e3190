"""The decoder unrolls the horizon as its equations say, looks back where it should, and is served as it was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import recurrent
from torch import Tensor

from models import checkpoint
from models.attention import Attention
from models.checks import prices
from models.core import initial_state
from models.decoder import Decoder, DecoderConfig, columns_of_prices
from models.encoder import Encoder
from models.errors import ConfigError
from models.forecaster import Forecaster
from models.heads import HeadKind, StudentTHead
from models.network import Network, NetworkConfig
from models.observation import LEVELS
from models.recurrent import Recurrent
from models.transforms import LogReturn
from pipeline import export as gate
from pipeline.export import Provenance, export
from pipeline.study.echo import echo
from pipeline.training import Training
from pipeline.training_config import TrainingConfig
from pipeline.windows import SplitConfig, split

HIDDEN, WINDOW, BATCH = 6, 5, 4
HOURS = [f"{name}.{m:02}" for name in ("load", "wind") for m in range(24)]


def decoder(head: HeadKind = "t", *, horizon: int = 3, block: int = 1, future: int = 0, **settings: Any) -> Decoder:
    """Make a decoder with random weights in float64, ready to be trained."""
    torch.manual_seed(5)
    config = DecoderConfig(window=WINDOW, **settings)
    made = Decoder(HIDDEN, config, head, horizon=horizon, block=block, future=future).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def inputs(made: Decoder, kept: int = WINDOW) -> Tensor:
    """Draw what an encoder puts out, with so many outputs in its window, and what is known ahead."""
    torch.manual_seed(6)
    window = torch.randn(BATCH, WINDOW * HIDDEN + 1).double() if made.attention else torch.empty(BATCH, 0)
    if made.attention:
        window[:, -1] = kept
    return torch.cat([torch.randn(BATCH, HIDDEN), window, torch.randn(BATCH, made.horizon * made.future)], 1).double()


def truth(made: Decoder) -> Tensor:
    """Draw a target for each place."""
    return torch.randn(BATCH, made.places, generator=torch.Generator().manual_seed(7)).double()


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_the_decoder_follows_its_equations(kind: Any) -> None:
    """Steps, attention, cell and sums agree with a plain loop over rows, places and slots."""
    made = decoder(horizon=2, block=2, future=1, attention=kind)
    given = inputs(made, kept=3)
    out, attention = made.unrolled(given), made.attention
    assert isinstance(attention, Attention)
    assert isinstance(made.emission, StudentTHead)
    cell, place = made.cell, made.place
    for row in range(BATCH):
        h = given[row, :HIDDEN]
        memory = given[row, HIDDEN : HIDDEN * (1 + WINDOW)].reshape(WINDOW, HIDDEN)
        ahead = given[row, -2:]
        move = made.start(h)
        middle, square = [torch.zeros(1)] * 2, [torch.zeros(1)] * 2
        for n in range(4):
            asked, scores = attention.query(h), []
            for k in range(3):
                key = attention.key(memory[k]) + attention.age[k]
                energy = torch.tanh(asked + key) @ attention.energy if kind == "additive" else asked @ key / HIDDEN**0.5
                scores.append(energy.reshape(1))
            weights = torch.cat(scores).softmax(0)
            x = torch.cat([move, ahead[n // 2 : n // 2 + 1], weights @ memory[:3]])
            q, u, new = (cell.weight_ih @ x + cell.bias_ih + place[n]).chunk(3)
            a, b, c = (cell.weight_hh @ h + cell.bias_hh).chunk(3)
            update = torch.sigmoid(u + b)
            h = (1 - update) * torch.tanh(new + torch.sigmoid(q + a) * c) + update * h
            move, log_gap = made.emission.output(torch.cat([h, x])).split(1)
            middle[n % 2], square[n % 2] = middle[n % 2] + move, square[n % 2] + torch.exp(2 * log_gap)
            torch.testing.assert_close(out.weights[n][row, 0, :3], weights)
            torch.testing.assert_close(out.middle[n][row], middle[n % 2])
            torch.testing.assert_close(out.square[n][row], square[n % 2])


@pytest.mark.parametrize("head", ["t", "quantile"])
def test_forecasts_widen_with_the_step(head: HeadKind) -> None:
    """Each step adds variance to all that is said of the ones before, whatever the weights are."""
    out = decoder(head, horizon=6)
    square = torch.stack(out.unrolled(inputs(out)).square, 1)
    assert (square.diff(dim=1) > 0).all()


def test_slots_that_are_empty_have_no_weight() -> None:
    """Before the window is full only what is in it counts, and its weights add up to 1."""
    made = decoder()
    for kept in (1, 3, WINDOW):
        weights = torch.cat(made.unrolled(inputs(made, kept)).weights, 1)
        assert (weights[..., :kept] > 0).all()
        assert (weights[..., kept:] == 0).all()
        torch.testing.assert_close(weights.sum(2), torch.ones(BATCH, made.places).double())


@pytest.mark.parametrize("head", ["t", "quantile"])
def test_with_the_truth_shown_each_step_is_judged_by_itself(head: HeadKind) -> None:
    """Where the truth is what the decoder would have said, it says the same, but spreads by each increment alone."""
    made = decoder(head, teacher_forcing=1.0)
    alone = made.unrolled(inputs(made))
    shown = made.unrolled(inputs(made), torch.cat(alone.middle, 1))
    torch.testing.assert_close(torch.cat(shown.middle), torch.cat(alone.middle))
    torch.testing.assert_close(torch.stack(shown.square).cumsum(0), torch.stack(alone.square))


def test_what_is_shown_reaches_later_places_only() -> None:
    """The truth of a place changes nothing that is said of it or before it."""
    made, target = decoder(horizon=5, teacher_forcing=1.0), truth(decoder(horizon=5))
    before = made.unrolled(inputs(made), target)
    target[:, 2] = 9.0
    after = made.unrolled(inputs(made), target)
    same = [torch.equal(a, b) for a, b in zip(before.middle, after.middle, strict=True)]
    assert same == [True, True, True, False, False]


def test_a_missing_target_is_never_shown() -> None:
    """Targets of exactly 0 leave the decoder to itself, also at probability 1."""
    made = decoder(teacher_forcing=1.0)
    shown = made.unrolled(inputs(made), torch.zeros(BATCH, made.places).double())
    alone = made.unrolled(inputs(made))
    torch.testing.assert_close(torch.cat(shown.middle), torch.cat(alone.middle))
    torch.testing.assert_close(torch.cat(shown.square), torch.cat(alone.square))


@pytest.mark.parametrize("head", ["t", "quantile"])
def test_the_loss_is_that_of_the_forecast_that_is_served(head: HeadKind) -> None:
    """In evaluation nothing is shown: the loss is that of the parts that make the forecast."""
    made, target = decoder(head, teacher_forcing=1.0).eval(), truth(decoder())
    made.freeze()
    d = made.distribution(inputs(made), torch.ones(BATCH, 1).double(), torch.zeros(BATCH, dtype=torch.int64))
    y = target.reshape(BATCH, 3, 1)
    if head == "t":
        law = torch.distributions.StudentT(made.df.double(), d.loc[..., 0], d.scale[..., 0])
        expected, tolerance = -law.log_prob(y), 1e-6
    else:
        levels = torch.tensor(LEVELS).double()
        error = y[..., None] - d.quantile
        expected, tolerance = torch.maximum(levels * error, (levels - 1) * error).mean(-1), 1e-12
    torch.testing.assert_close(made.loss(inputs(made), y), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("schedule", "half", "last"), [("constant", 1, 1), ("linear", 0.5, 0), ("inverse_sigmoid", 0.5, 0)]
)
def test_forcing_goes_by_its_schedule(schedule: Any, half: float, last: float) -> None:
    """It begins near its probability, is at half of it half-way where it falls, and ends near 0 or stays."""
    config = DecoderConfig(teacher_forcing=0.8, schedule=schedule)
    assert config.forcing(0.0) == pytest.approx(0.8, abs=0.01)
    assert config.forcing(0.5) == pytest.approx(0.8 * half)
    assert config.forcing(1.0) == pytest.approx(0.8 * last, abs=0.01)


def test_the_share_that_is_shown_is_the_one_asked_for() -> None:
    """Of many places about the asked share goes on from the truth."""
    made = decoder(teacher_forcing=0.3)
    many = torch.ones(20_000, 1).double()
    torch.manual_seed(1)
    middle, square = made._shown(many, 0 * many, many)
    assert middle.mean() == pytest.approx(0.3, abs=0.015)
    assert torch.equal(middle == 1, square == 0)


def hours(ahead: Any) -> Decoder:
    """Make a decoder of 24 hours that read their own load and wind."""
    torch.manual_seed(3)
    config = DecoderConfig(window=WINDOW, ahead=ahead)
    shape = {"horizon": 1, "block": 24, "future": 48, "columns": columns_of_prices(HOURS, 24)}
    return Decoder(HIDDEN, config, "t", **shape).double()


@pytest.mark.parametrize(("ahead", "first"), [("plain", 7), ("bidirectional", 0)])
def test_an_hour_reads_its_own_columns(ahead: Any, first: int) -> None:
    """The wind of hour 7 reaches hours from 7 on; read in both directions it reaches the hours before as well."""
    made = hours(ahead)
    given = inputs(made)
    other = given.clone()
    other[:, HOURS.index("wind.07") - 48] += 1.0
    a, b = (made.unrolled(x).middle for x in (given, other))
    assert [n for n in range(24) if not torch.equal(a[n], b[n])] == list(range(first, 24))


def test_columns_that_stand_once_are_read_by_every_price() -> None:
    """Names without a price, and names of no full block, are read everywhere; without blocks all are."""
    assert columns_of_prices(["load.00", "@hour", "load.01"], 2) == [[0, 1], [1, 2]]
    assert columns_of_prices(["load.00", "@hour"], 2) == [[0, 1], [0, 1]]
    assert columns_of_prices(["load.00", "@hour"], 1) == [[0, 1]]


def test_the_window_holds_the_last_outputs_the_newest_first() -> None:
    """After a run the memory is that of `nn.GRU`'s outputs in reverse, for rows of any length."""
    torch.manual_seed(4)
    layers = Recurrent("gru", 3, HIDDEN, 2, 0.0)
    encoder, x = Encoder(layers, WINDOW), torch.randn(3, 9, 3)
    state = initial_state(encoder.state_tensors(), 3, x)
    lengths = torch.tensor([9, 2, 0])
    with torch.no_grad():
        outputs, _ = layers.layers(x)
        _, after = encoder.run(x, state, lengths)
    torch.testing.assert_close(after["memory"][0], outputs[0].flip(0)[:WINDOW])
    torch.testing.assert_close(after["memory"][1, :2], outputs[1, :2].flip(0))
    assert not after["memory"][1, 2:].any()
    assert not after["memory"][2].any()
    assert after["kept"][:, 0].tolist() == [WINDOW, 2, 0]


def test_attention_learns_what_has_to_be_looked_up() -> None:
    """Where moves copy those of 8 steps ago, attention forecasts far better than the hidden vector alone."""
    data = echo(700, series=4, lag=8, share=0.9)
    cut = split(data, SplitConfig())
    config = TrainingConfig(epochs=8, lanes=16, chunk=24, learning_rate=1e-2, device="cpu")
    best = {}
    for attention in ("none", "dot"):
        shape = NetworkConfig(hidden=16, decoder=DecoderConfig(attention=attention, window=10))
        training = Training("seq2seq", data, cut, LogReturn(), network=shape, config=config, horizon=3)
        best[attention] = min(record.validation_loss for record in training)
    assert best["dot"] < best["none"] - 0.2, best


def test_forcing_follows_the_epochs_and_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """The probability falls with the epochs, and a fit that was stopped ends in the same weights."""
    data = echo(200, series=2, lag=3)
    cut = split(data, SplitConfig())
    config = TrainingConfig(epochs=4, lanes=4, device="cpu")
    shape = NetworkConfig(hidden=4, decoder=DecoderConfig(window=3, teacher_forcing=1.0, schedule="linear"))

    def training(path: Path | None = None) -> Training:
        return Training("seq2seq", data, cut, LogReturn(), network=shape, config=config, horizon=2, checkpoint=path)

    whole, seen = training(), []
    for _ in whole:
        assert isinstance(whole.core.head, Decoder)
        seen.append(whole.core.head.forcing)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    stopped = iter(training(tmp_path / "fit"))
    next(stopped)
    next(stopped)
    again = training(tmp_path / "fit")
    list(again)
    for name, x in whole.core.state_dict().items():
        assert torch.equal(x, again.core.state_dict()[name]), name


@pytest.mark.parametrize("ahead", ["plain", "bidirectional"])
def test_a_day_of_hours_passes_the_gate_and_comes_back_from_its_file(
    ahead: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 hours with covariates of their own are exported through the gate, and saved and loaded bit for bit."""
    monkeypatch.setattr(gate, "STEPS", 60)
    monkeypatch.setattr(gate, "LOOK_AT", (1, 2, 60))
    shape = {"block": 24, "future": 48, "columns": columns_of_prices(HOURS, 24)}
    core = recurrent("seq2seq", decoder=DecoderConfig(window=4, ahead=ahead), **shape)
    forecaster = Forecaster("seq2seq", LogReturn(), core, (), tuple(HOURS)).eval()
    about = Provenance(
        series=("NP",), grid="1d", cutoff_time="2024-01-31T00:00:00Z", data_sha256="5" * 64, commit="abc", config={}
    )
    export(forecaster, about, tmp_path / "model.onnx")
    checkpoint.save(forecaster, tmp_path / "model.safetensors")
    again, _ = checkpoint.load(tmp_path / "model.safetensors")
    o = prices(forecaster, np.random.default_rng(1), time=5)
    with torch.no_grad():
        assert torch.equal(forecaster.forward(o)[0].quantile, again.forward(o)[0].quantile)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"window": 1}, "decoder.window: expected 2 to 1000, got 1"), ({"teacher_forcing": 1.5}, "expected 0 to 1")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """A window of one output and a probability above 1 are named with their range."""
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**settings)


def test_both_directions_of_nothing_are_refused() -> None:
    """A bidirectional reading where nothing is known ahead says which setting to change."""
    config = replace(NetworkConfig(), decoder=DecoderConfig(ahead="bidirectional"))
    with pytest.raises(ConfigError, match=r"decoder\.ahead: 'bidirectional' reads covariates known ahead"):
        Network("seq2seq", config, unit=0.01)
