"""Training carries the state as serving does: flat in memory, exact at its seams, blind to the future."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panels import DAY, clustered_moves, garbage_from, market, panel_of
from scipy import stats
from torch import Tensor

from models.checkpoint import load_tensors
from models.class_head import LabellingConfig
from models.core import initial_state
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster
from models.network import NetworkConfig
from models.observation import State
from models.transforms import AsinhDifference, LogReturn
from pipeline import training as module
from pipeline.backtest import walk_forward
from pipeline.labels import direction
from pipeline.moves import observations
from pipeline.training import EpochRecord, Training, fit_network
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split, SplitConfig
from pipeline.windows import split as make_split

PANEL, SPLIT = market(320, 250, 280)
CONFIG = TrainingConfig(lanes=6, chunk=16, epochs=4, device="cpu")
STILL = replace(CONFIG, learning_rate=1e-30, weight_decay=0.0)
"""Settings under which the weights stay as they are."""

MOST_GROWTH_KIB = 8192
"""A loss that kept its history takes some 25,000 over 900 chunks; without, below 1000 is noise."""

Weights = dict[str, Tensor]


def begin(
    panel: Panel = PANEL,
    split: Split = SPLIT,
    config: TrainingConfig = CONFIG,
    *,
    horizon: int = 1,
    checkpoint: Path | None = None,
    kind: str = "lstm",
    **network: Any,
) -> Training:
    """Begin the fit of a small network."""
    shape = NetworkConfig(**({"hidden": 6} | network))
    return Training(
        kind, panel, split, LogReturn(), network=shape, config=config, horizon=horizon, checkpoint=checkpoint
    )


def epochs(training: Training, count: int) -> None:
    """Train for so many epochs, without the end."""
    for _ in zip(range(count), training, strict=False):
        pass


def weights(trained: Training | Forecaster) -> Weights:
    """Copy every tensor of the model."""
    forecaster = trained.model if isinstance(trained, Training) else trained
    return {k: v.detach().clone() for k, v in forecaster.state_dict().items()}


def differ(a: Weights, b: Weights) -> list[str]:
    """Name the tensors that differ in any bit."""
    assert a.keys() == b.keys()
    return [k for k in a if a[k].numpy().tobytes() != b[k].numpy().tobytes()]


def persistent() -> tuple[Panel, Split]:
    """Make a panel of moves each of which is 0.8 of the one before and a normal shock of 1 %."""
    rng, moves = np.random.default_rng(3), []
    for n in (400, 300, 350):
        r = rng.normal(scale=0.01, size=n)
        for t in range(1, n):
            r[t] += 0.8 * r[t - 1]
        moves.append(r)
    prices = panel_of(moves, holes=0.02)
    return prices, make_split(prices, SplitConfig())


@pytest.mark.parametrize(
    "network",
    [{}, {"kind": "gru", "layers": 2, "dropout": 0.2}, {"kind": "rnn"}, {"kind": "transformer", "hidden": 8}],
    ids=str,
)
def test_the_loss_falls_by_what_there_is_to_learn(network: dict[str, Any]) -> None:
    """Knowing the last move is worth 0.51 nats; most of it is learned, and validation has it too."""
    records = list(begin(*persistent(), replace(CONFIG, epochs=20, learning_rate=0.02), **network))
    assert records[-1].train_loss < records[0].train_loss - 0.15
    assert min(r.validation_loss for r in records) < records[0].validation_loss - 0.1
    assert [r.epoch for r in records] == list(range(1, len(records) + 1))
    assert records[-1].learning_rate < 0.1 * records[0].learning_rate == pytest.approx(0.002)


def test_quantiles_of_many_steps_are_trained_too() -> None:
    """The pinball loss over three steps falls."""
    records = list(begin(config=replace(CONFIG, epochs=6), head="quantile", horizon=3))
    assert records[-1].train_loss < records[0].train_loss


def used_kib() -> int:
    """Tell the memory of this process, in KiB."""
    gc.collect()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def thousand_chunks(cut: Callable[[State], State], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train over 1000 chunks of one step, cutting the graph so, and compare the memory along the way."""
    prices, split = market(1600, holes=0.0)
    used: list[int] = []

    def watched(hidden: State) -> State:
        hidden = cut(hidden)
        used.append(used_kib() if len(used) in (99, 999) else 0)
        assert all(x.grad_fn is None for x in hidden.values()), "the state still has its history"
        return hidden

    monkeypatch.setattr(module, "detached", watched)
    next(iter(begin(prices, split, replace(CONFIG, lanes=1, chunk=1), kind="rnn", hidden=2)))
    assert len(used) >= 1000
    assert used[999] - used[99] < MOST_GROWTH_KIB


def test_memory_is_flat_over_a_thousand_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """900 chunks take no more memory than the 100 before them left, and the state carries no history."""
    thousand_chunks(module.detached, monkeypatch)


def test_the_same_check_fails_without_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the state keeps its history, the check above fails."""
    with pytest.raises(AssertionError, match="still has its history"):
        thousand_chunks(lambda hidden: hidden, monkeypatch)


def test_training_itself_fails_without_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second chunk would have to go back through the first: torch refuses."""
    monkeypatch.setattr(module, "detached", lambda hidden: hidden)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        next(iter(begin()))


def test_clipping_bounds_the_norm_of_every_step() -> None:
    """No step of the optimiser sees a gradient longer than the limit, though the raw ones are."""
    norms: list[float] = []
    training = begin(config=replace(CONFIG, clip=0.01))

    def measure(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    training.optimiser.register_step_pre_hook(measure)
    record = next(iter(training))
    assert record.gradient_norm > 0.02
    assert max(norms) <= 0.01 * (1 + 1e-4)
    assert max(norms) > 0.0099


def test_early_stopping_takes_the_best_epoch() -> None:
    """Training stops `patience` epochs after its best one, and the model has the weights of that epoch."""
    training = begin(config=replace(CONFIG, epochs=60, patience=3, learning_rate=0.05, seed=2))
    kept = [(record, weights(training)) for record in training]
    best = min(range(len(kept)), key=lambda k: kept[k][0].validation_loss)
    assert 0 < best == len(kept) - 4, [r.validation_loss for r, _ in kept]
    assert kept[best][0].best
    fixed_at_the_end = ["core.head.df", "core.head.standard"]
    assert set(differ(weights(training), kept[best][1])) == set(fixed_at_the_end)
    assert differ(weights(training), kept[-1][1])
    head = training.core.head
    assert head.df.item() == pytest.approx(2.1 + head.log_df.exp().item(), rel=1e-6)


def test_validation_goes_on_from_the_carried_state() -> None:
    """With the states at the end of training zeroed the validation loss is another."""
    training = begin(config=replace(CONFIG, learning_rate=0.02))
    for _ in training:
        pass
    carried = training._validate().item()
    training.ended = {k: torch.zeros_like(x) for k, x in training.ended.items()}
    assert abs(training._validate().item() - carried) > 1e-5


def test_the_validation_loss_is_that_of_a_walk_forward() -> None:
    """Over the validation origins, training sees the very loss that the backtest's forecasts have."""
    training = begin(config=replace(STILL, lanes=3, epochs=1))
    (record,) = training
    f, core = training.model, training.core
    origins = SPLIT.origins(PANEL, "validation") & (PANEL.time >= SPLIT.train_end_time)
    rows = walk_forward(f, PANEL, origins)
    o = observations(PANEL, horizon=1)
    ticks, _ = f.ticks(o, initial_state(f.state_tensors(), 3, core.df)["price"])
    _, _, scale = core.features(ticks, initial_state(core.state_tensors(), 3, core.df))
    unit = scale[..., 0].numpy()[origins]
    loss = -stats.t.logpdf(rows.outcome, rows.df, rows.loc, rows.scale) - np.log(unit)
    assert len(rows) == len(unit) > 50
    assert record.validation_loss == pytest.approx(loss.mean(), rel=1e-5)


def test_lanes_meet_without_a_seam() -> None:
    """After as many epochs as a series has lanes, the states are those of one pass over the whole series."""
    many, whole = begin(config=replace(STILL, lanes=9)), begin(config=replace(STILL, lanes=3))
    pieces = np.bincount(many.layout.series)
    assert pieces.min() > 1
    epochs(many, int(pieces.max()))
    epochs(whole, 1)
    last = np.cumsum(pieces) - 1
    for name, end in whole.ended.items():
        np.testing.assert_allclose(many.ended[name][last], end, rtol=1e-5, atol=1e-7)
    assert many._validate().item() == pytest.approx(whole._validate().item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer", "seq2seq"])
def test_validation_in_pieces_is_validation_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pieces are in which a lane is run, its state goes on, and the loss is that of the whole."""
    training = begin(kind=kind, hidden=8, horizon=2)
    epochs(training, 1)
    assert training.validation.inputs.shape[1] > 4 * 9
    losses = []
    for length in (1, 9, 4096):
        monkeypatch.setattr(module, "PIECE", length)
        losses.append(training._validate().item())
    assert losses == pytest.approx([losses[-1]] * 3, rel=1e-6)


def test_what_reads_both_ways_is_validated_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bidirectional classifier, which carries nothing on, reads its lanes in one piece."""
    shape = NetworkConfig(hidden=6, labelling=LabellingConfig(bidirectional=True))
    labels = direction(PANEL, LogReturn(), 1)
    training = Training("gru", PANEL, SPLIT, LogReturn(), network=shape, config=CONFIG, labels=labels)
    at_once = training._validate().item()
    monkeypatch.setattr(module, "PIECE", 9)
    assert training._validate().item() == at_once


def test_the_chunk_does_not_change_the_states() -> None:
    """Chunks of one length or another lead to the same states."""
    ended = []
    for chunk in (7, 64):
        training = begin(config=replace(STILL, chunk=chunk))
        epochs(training, 1)
        ended.append(training.ended)
    for name in ended[0]:
        np.testing.assert_allclose(ended[0][name], ended[1][name], rtol=1e-5, atol=1e-7)


def first_states(training: Training, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """Train one epoch; give the length of each chunk that is trained, and the state with which it begins."""
    given, loss = [], training._loss

    def watched(lane: Any, state: State) -> Any:
        if torch.is_grad_enabled():
            given.append((lane.inputs.shape[1], state["h0"].clone()))
        return loss(lane, state)

    monkeypatch.setattr(training, "_loss", watched)
    next(iter(training))
    return given


def test_a_reset_state_is_zero_at_each_chunk_and_served_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """With resets every chunk begins at zero; the epoch ends in the state of lanes that were carried throughout."""
    reset, carried = (begin(config=replace(STILL, state=s, epochs=1)) for s in ("reset", "carried"))
    begun = first_states(reset, monkeypatch)
    assert len(begun) > 3
    assert not any(state.any() for _, state in begun)
    assert all(state.any() for _, state in first_states(carried, monkeypatch)[1:])
    for name, end in carried.ended.items():
        np.testing.assert_allclose(reset.ended[name], end, rtol=1e-5, atol=1e-7)


def test_burning_in_over_all_that_came_before_is_carrying(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burn-in as long as the longest lane begins each chunk where carrying does."""
    lanes_of_series = replace(STILL, lanes=3, epochs=1)
    burnt = begin(config=replace(lanes_of_series, state="reset", burn_in=400))
    carried = begin(config=lanes_of_series)
    pairs = zip(first_states(burnt, monkeypatch), first_states(carried, monkeypatch), strict=True)
    for (_, a), (_, b) in list(pairs)[1:]:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_chunks_grow_from_the_first_length_to_the_last() -> None:
    """The curriculum begins at `first_chunk`, grows by a constant factor, and stays at `chunk` from half way on."""
    config = replace(CONFIG, chunk=64, first_chunk=4, epochs=8)
    assert [config.chunk_of(k) for k in range(8)] == [4, 8, 16, 32, 64, 64, 64, 64]
    assert [replace(CONFIG, epochs=3).chunk_of(k) for k in range(3)] == [16, 16, 16]
    ended = []
    for first in (0, 3):
        training = begin(config=replace(STILL, first_chunk=first, epochs=2))
        epochs(training, 1)
        ended.append(training.ended)
    np.testing.assert_allclose(ended[0]["h0"], ended[1]["h0"], rtol=1e-5, atol=1e-7)


def test_old_targets_count_less() -> None:
    """A target one half-life older has half the weight; on average a target weighs 1."""
    weighted, plain = begin(config=replace(CONFIG, half_life="30d", lanes=3)), begin(config=replace(CONFIG, lanes=3))
    there = plain.train.weight > 0
    assert torch.equal(weighted.train.weight > 0, there)
    assert weighted.train.weight[there].mean().item() == pytest.approx(1.0, rel=1e-5)
    moments = [np.flatnonzero(PANEL.mask[0])[20], np.flatnonzero(PANEL.mask[0])[20] + 30]
    places = [int(PANEL.mask[0, : m + 1].sum()) - 2 for m in moments]  # the first price is no move
    lane = int(np.flatnonzero(weighted.layout.series == 0)[0])
    old, young = (weighted.train.weight[lane, k, 0, 0].item() for k in places)
    assert young / old == pytest.approx(2.0, rel=1e-3)
    assert next(iter(weighted)).targets == next(iter(plain)).targets


@pytest.mark.parametrize(("clip_by", "bound"), [("value", 1e-4), ("off", float("inf"))])
def test_clipping_by_value_bounds_each_element(clip_by: str, bound: float) -> None:
    """By value no element of a gradient exceeds the limit, though the norm does; off, nothing is bounded."""
    largest: list[float] = []
    training = begin(config=replace(CONFIG, clip=1e-4, clip_by=clip_by))

    def measure(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        largest.append(max(g.abs().max().item() for g in grads))

    training.optimiser.register_step_pre_hook(measure)
    assert next(iter(training)).gradient_norm > 0.02
    assert max(largest) <= bound * (1 + 1e-6)
    assert max(largest) >= 1e-4 * (1 - 1e-6)


def test_packed_ragged_lanes_are_masked_padded_ones() -> None:
    """Loss and gradients of ragged lanes, packed, are those of the same lanes padded with the padding's loss masked."""
    training = begin(config=replace(CONFIG, lanes=5), kind="gru")
    lane = training.train
    assert lane.lengths is not None
    results = []
    for lengths in (lane.lengths, None):
        training.core.zero_grad()
        state = training._fresh(len(lane.steps))
        loss, _ = training.core.loss(lane.inputs, lane.ahead, lane.series, lane.targets, state, lengths)
        total = (loss * lane.weight).sum()
        total.backward()
        gradients = [p.grad.clone() for p in training.core.parameters() if p.grad is not None]
        results.append((total.item(), gradients))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for packed, padded in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(packed, padded, rtol=1e-4, atol=1e-4)


def test_the_row_of_series_never_seen_is_learned() -> None:
    """Row 0 of the embedding is trained on the share of lanes whose series is hidden, and every series has its row."""
    training = begin(config=replace(CONFIG, lanes=30), embedding=3)
    before = training.core.embedding.weight.detach().clone()
    assert before.shape == (4, 3)
    next(iter(training))
    assert (training.core.embedding.weight != before).all()


@pytest.mark.parametrize("horizon", [1, 3])
def test_every_train_origin_is_a_target_once(horizon: int) -> None:
    """The loss counts each train origin that has moved once, for each step, and no other."""
    training = begin(horizon=horizon)
    origins = SPLIT.origins(PANEL, "train", horizon)
    price = np.where(PANEL.mask, PANEL.price, np.nan)[..., 0]
    expected = 0
    for n, first in enumerate(PANEL.published.argmax(1)):
        for t in np.flatnonzero(origins[n]):
            expected += int(t > first) * int(np.isfinite(price[n, t + 1 : t + 1 + horizon]).sum())
    assert int(training.train.weight.sum()) == expected
    assert next(iter(training)).targets == expected


def test_a_series_that_ended_before_validation_disturbs_no_other() -> None:
    """With one series delisted in train, the others are validated each in one piece, from their own states."""
    rng = np.random.default_rng(8)
    prices = panel_of([clustered_moves(rng, n) for n in (300, 60, 220)])
    split = Split(train_end_time=200 * DAY, validation_end_time=260 * DAY)
    training = begin(prices, split, replace(CONFIG, lanes=3))
    assert training.layout.series.tolist() == [0, 1, 2]
    assert training.validation.steps.tolist() == [60, 21]
    assert training.continued.tolist() == [0, 2]


def test_a_series_that_begins_in_validation_starts_from_nothing() -> None:
    """A series without a train observation has no lane, and its validation begins at the zero state."""
    rng = np.random.default_rng(8)
    prices = panel_of([clustered_moves(rng, 300), clustered_moves(rng, 90)], late=205)
    split = Split(train_end_time=200 * DAY, validation_end_time=260 * DAY)
    training = begin(prices, split, replace(CONFIG, lanes=2, epochs=1))
    assert set(training.layout.series.tolist()) == {0}
    assert training.continued.tolist()[-1] == -1
    (record,) = training
    assert np.isfinite(record.validation_loss)


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    """Two fits are equal in every bit, dropout included, whatever else uses the generator; another seed is not."""
    network = {"layers": 2, "dropout": 0.3}
    first = weights(fit_network(begin(**network)))
    torch.manual_seed(77)
    again = fit_network(begin(**network), lambda _: torch.manual_seed(5) and None)
    assert not differ(first, weights(again))
    assert differ(first, weights(fit_network(begin(config=replace(CONFIG, seed=1), **network))))


def test_training_leaves_the_callers_generator_alone() -> None:
    """The random numbers after a fit are those that would have come without it."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit_network(begin(config=replace(CONFIG, epochs=1), layers=2, dropout=0.3))
    assert torch.equal(torch.rand(3), expected)


def test_garbage_after_the_validation_leaves_the_weights_bit_for_bit() -> None:
    """Prices at and after the validation end reach nothing; one moment earlier they do."""
    clean = weights(fit_network(begin()))
    after = garbage_from(PANEL, SPLIT.validation_end_time)
    assert (after.price[PANEL.mask] != PANEL.price[PANEL.mask]).sum() > 100
    assert not differ(clean, weights(fit_network(begin(after))))
    before = garbage_from(PANEL, SPLIT.validation_end_time - 3 * DAY)
    assert begin(before)._validate() != begin()._validate()


def test_garbage_in_validation_leaves_the_gradients_alone() -> None:
    """Prices at and after the train end choose the epoch, and change no weight of a given epoch."""
    clean, dirty = begin(), begin(garbage_from(PANEL, SPLIT.train_end_time))
    for training in (clean, dirty):
        epochs(training, 2)
    assert not differ(weights(clean), weights(dirty))


def test_prices_outside_the_domain_are_trained_around() -> None:
    """A poisoned price is as a hole: it is neither an input nor a target."""
    price = PANEL.price.copy()
    rows = np.argwhere(PANEL.mask & (PANEL.time < SPLIT.train_end_time)[..., None])[20:200:30]
    price[tuple(rows.T)] = np.resize([1e30, -1.0, 0.0], len(rows))
    mask = PANEL.mask.copy()
    mask[tuple(rows.T)] = False
    config = replace(CONFIG, epochs=1)
    poisoned = fit_network(begin(replace(PANEL, price=price), config=config))
    holes = fit_network(begin(replace(PANEL, mask=mask), config=config))
    assert all(torch.isfinite(x).all() for x in weights(poisoned).values())
    assert not differ(weights(poisoned), weights(holes))


def test_a_loss_that_is_no_number_is_refused() -> None:
    """A learning rate that blows up raises FitError that names model, loss and epoch, and what to do."""
    with pytest.raises(FitError, match=r"training lstm: the loss is .* in epoch \d.*Lower learning_rate"):
        fit_network(begin(config=replace(CONFIG, learning_rate=1e25, clip=1e25)))


@pytest.mark.parametrize(("horizon", "counts"), [(60, r"\d+ and 0"), (300, "0 and 0")])
def test_a_horizon_without_origins_is_named(horizon: int, counts: str) -> None:
    """Where no origin has all its targets in one part, the number of steps and their setting are said."""
    with pytest.raises(FitError, match=rf"{horizon} steps ahead \(fit\.horizon\).*got {counts} targets"):
        begin(horizon=horizon)


def test_a_half_life_under_which_nothing_counts_is_named() -> None:
    """Weights that all come out as zero are the fault of the half-life, and not of the splits."""
    with pytest.raises(FitError, match=r"half_life = '1s' is too short: the youngest of \d+ origins lies \d+ days"):
        begin(config=replace(CONFIG, half_life="1s"))


def test_prices_that_never_vary_are_refused() -> None:
    """A panel of constant prices raises FitError before any training."""
    still = replace(PANEL, price=np.where(PANEL.mask, 100.0, np.nan))
    with pytest.raises(FitError, match="expected prices that vary before the end of train, got 3 series"):
        begin(still)


def test_one_constant_series_does_not_stop_the_others() -> None:
    """Among series that move, one that stands still is trained on without a number that is not finite."""
    price = PANEL.price.copy()
    price[1:] = np.where(PANEL.mask[1:], 100.0, np.nan)
    trained = fit_network(begin(replace(PANEL, price=price)))
    assert all(torch.isfinite(x).all() for x in weights(trained).values())


def test_negative_prices_are_trained_on_the_asinh_scale() -> None:
    """A panel around zero trains with the asinh transform."""
    price = (PANEL.price - 100.0) * 3
    rows = torch.tensor([0.0] * 4), torch.tensor([20.0] * 4)
    training = Training(
        "gru",
        replace(PANEL, price=price),
        SPLIT,
        AsinhDifference(*rows),
        network=NetworkConfig(hidden=6),
        config=CONFIG,
    )
    records = list(training)
    assert records[-1].train_loss < records[0].train_loss


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for it is no mistake")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    """Asking for cuda without a GPU raises ConfigError that names the other choices; auto takes the CPU."""
    with pytest.raises(ConfigError, match=r"'cuda' was asked for.*Use 'auto' or 'cpu'"):
        begin(config=replace(CONFIG, device="cuda"))
    assert begin(config=replace(CONFIG, device="auto")).device.type == "cpu"


@pytest.mark.parametrize(
    "settings",
    [
        {"lanes": 0},
        {"chunk": 0},
        {"epochs": 0},
        {"patience": 0},
        {"threads": 0},
        {"learning_rate": 0.0},
        {"clip": 0.0},
        {"weight_decay": -1.0},
        {"learning_rate": float("nan")},
        {"burn_in": 5},
        {"burn_in": -1, "state": "reset"},
        {"first_chunk": 33},
        {"half_life": "soon"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    """Each setting is named with its range."""
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TrainingConfig(**settings)


LONG = replace(CONFIG, epochs=30, patience=30)


def train_with_checkpoint(path: str) -> None:
    """Train and say each epoch; run in a process of its own."""
    for record in begin(config=LONG, checkpoint=Path(path), layers=2, dropout=0.2):
        print(record.epoch, flush=True)  # noqa: T201


def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """A process killed in the middle of training and resumed ends with the weights of one that was not."""
    path = tmp_path / "progress.safetensors"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"from test_training import train_with_checkpoint; train_with_checkpoint({str(path)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "4":
                os.kill(child.pid, signal.SIGKILL)
                break
    done = load_tensors(path)[1]["epoch"]
    assert 4 <= done < LONG.epochs
    resumed = begin(config=LONG, checkpoint=path, layers=2, dropout=0.2)
    records = list(resumed)
    assert records[0].epoch == done + 1
    whole = begin(config=LONG, layers=2, dropout=0.2)
    uninterrupted = list(whole)
    assert not differ(weights(resumed), weights(whole))

    def told(record: EpochRecord) -> EpochRecord:
        return replace(record, seconds=0.0)

    assert [told(r) for r in records] == [told(r) for r in uninterrupted[done:]]


def test_a_finished_fit_resumes_to_its_own_weights(tmp_path: Path) -> None:
    """Going on from the file of a fit that ended trains no more and gives the same model."""
    path = tmp_path / "progress.safetensors"
    first = fit_network(begin(checkpoint=path))
    told: list[EpochRecord] = []
    again = fit_network(begin(checkpoint=path), told.append)
    assert told == []
    assert not differ(weights(first), weights(again))


def test_the_point_kind_comes_down_to_the_noise_of_a_sine() -> None:
    """On moves that are a sine under noise its squared error is that of the noise; a forecast of no move has thrice."""
    rng, time = np.random.default_rng(4), np.arange(400)
    waves = [0.01 * np.sin(2 * np.pi * (time / 19 + rng.random())) for _ in range(16)]
    prices = panel_of([wave + 0.005 * rng.normal(size=400) for wave in waves])
    parts = make_split(prices, SplitConfig())
    config = TrainingConfig(lanes=16, chunk=16, epochs=40, learning_rate=1e-2, device="cpu")
    shape = NetworkConfig(hidden=12, memories=(100,))
    fitted = fit_network(Training("point", prices, parts, LogReturn(), network=shape, config=config))
    rows = walk_forward(fitted, prices, parts.origins(prices, "test", 1))
    error, still = ((rows.outcome - rows.loc) ** 2).mean(), (rows.outcome**2).mean()
    assert error < 1.1 * 0.005**2
    assert still > 2.5 * 0.005**2
    assert np.sqrt(error) == pytest.approx(rows.scale.mean(), rel=0.1)


def test_bins_are_those_of_the_train_targets_and_stay_at_a_warm_start() -> None:
    """Garbage from validation on changes no edge, other train prices do, and who begins at a fit keeps its edges."""
    shape = {"network": NetworkConfig(hidden=4, bins=5), "config": TrainingConfig(lanes=4, epochs=1, device="cpu")}
    prices, parts = market(300, 250)

    def edges(panel: Panel, **given: Any) -> torch.Tensor:
        training = Training("categorical", panel, parts, LogReturn(), **shape, **given)
        return training.core.state_dict()["head.bins.edges"]

    clean = edges(prices)
    assert torch.equal(clean, edges(garbage_from(prices, parts.train_end_time)))
    other, _ = market(300, 250, seed=1)
    assert not torch.equal(clean, edges(other))
    start = fit_network(Training("categorical", prices, parts, LogReturn(), **shape))
    assert torch.equal(clean, edges(other, start=start))
