"""The study: each experiment at a tiny size shows its law; results are kept, and the document tells them."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from conftest import Workspace
from panels import market
from torch import nn

from flows.cli import app
from models.errors import ConfigError
from models.transforms import LogReturn
from pipeline import steps
from pipeline.figures import save
from pipeline.fitting import KINDS
from pipeline.study import (
    arms,
    cells,
    clipping,
    cost,
    document,
    gradients,
    kinds,
    layers,
    memory,
    packing,
    runs,
    shapes,
    sine,
    tasks,
    temperature,
)
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.experiments import EXPERIMENTS, chosen
from pipeline.tracking import Tracker

pytestmark = [
    # mlflow 3.17 maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
    ),
    # mlflow 3.17 warns of its own type hints when mlflow.pyfunc is imported
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

HERE = Conditions()


def drawn(finding: Finding, folder: Path) -> bytes:
    """Draw the figure of a finding as PNG."""
    assert finding.figure is not None
    return save(finding.figure(), folder / "figure.png").read_bytes()


# ------------------------------------------------------------------------------------------------- layers and tasks


@pytest.mark.parametrize("kind", layers.KINDS)
def test_a_reader_gives_the_same_in_one_piece_and_in_two(kind: str) -> None:
    """The state that a part leaves is where the next one goes on."""
    torch.manual_seed(0)
    network, x = layers.Reader(kind, 3, 5), torch.randn(2, 9, 3)
    whole, _ = network.run(x)
    first, state = network.run(x[:, :4])
    rest, _ = network.run(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)


def test_a_scaled_recurrence_has_the_radius_asked_for() -> None:
    """The largest modulus of the eigenvalues is the radius."""
    torch.manual_seed(0)
    recurrent = layers.layer("tanh", 2, 16)
    layers.scale_recurrence(recurrent, 1.3)
    values = np.linalg.eigvals(recurrent.get_parameter("weight_hh_l0").detach().numpy())
    assert np.abs(values).max() == pytest.approx(1.3, rel=1e-5)


def test_kinds_begin_as_their_authors_say() -> None:
    """The relu network begins at the identity, and the forget gate of the lstm is open by one."""
    torch.testing.assert_close(layers.layer("relu", 2, 4).get_parameter("weight_hh_l0").detach(), torch.eye(4))
    lstm = layers.layer("lstm", 2, 4)
    forget = lstm.get_parameter("bias_ih_l0") + lstm.get_parameter("bias_hh_l0")
    torch.testing.assert_close(forget[4:8].detach(), torch.ones(4))


def test_the_adding_task_is_solved_by_adding_what_is_marked() -> None:
    """Two marks a row, one in each half; the memoryless loss is the variance of the sum."""
    x, y = tasks.batch("adding", 20, 4000, torch.Generator().manual_seed(0))
    assert (x[:, :10, 1].sum(1) == 1).all()
    assert (x[:, 10:, 1].sum(1) == 1).all()
    torch.testing.assert_close((x[..., 0] * x[..., 1]).sum(1), y)
    assert tasks.loss("adding", torch.ones(4000, 1, 1), y) == pytest.approx(tasks.MEMORYLESS["adding"], rel=0.05)


def test_the_copying_task_asks_for_what_was_read_first() -> None:
    """Symbols, blanks, the signal; the gap is the length, and the memoryless loss is that of uniform logits."""
    x, y = tasks.batch("copying", 7, 5, torch.Generator().manual_seed(0))
    read = x.argmax(2)
    assert x.shape == (5, 10 + 7 + 10, tasks.INPUTS["copying"])
    assert (read[:, :10] == y).all()
    assert (read[:, 16] == tasks.SIGNAL).all()
    assert (read[:, 10:16] == tasks.BLANK).all()
    uniform = torch.zeros(5, 27, tasks.OUTPUTS["copying"])
    assert tasks.loss("copying", uniform, y).item() == pytest.approx(tasks.MEMORYLESS["copying"])


def test_an_unknown_task_is_refused() -> None:
    """The nearest name is told."""
    with pytest.raises(ConfigError, match="did you mean 'adding'"):
        tasks.batch("ading", 5, 1, torch.Generator())


def test_updates_end_at_a_loss_that_is_no_number() -> None:
    """The update that saw it is given, and no other after it."""
    network = nn.Linear(1, 1)
    values = iter([1.0, float("nan"), 1.0])
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    seen = layers.updates(network, optimiser, lambda: network(torch.ones(1, 1)).sum() * next(values), layers.unclipped)
    assert [update.finite for update in seen] == [True, False]


# ------------------------------------------------------------------------------------------------------ experiments


def test_the_reach_of_a_gradient_is_the_product_of_jacobians() -> None:
    """At distance one it equals the closed form of a tanh step, the readout behind it."""
    torch.manual_seed(0)
    network = layers.Reader("tanh", 2, 3).double()
    measured = gradients.reach(network.float(), 4, 1, seed=0)
    x, y = tasks.batch("adding", 4, 1, torch.Generator().manual_seed(0))
    states = [network.run(x[:, : t + 1])[1][0][0, 0] for t in range(4)]
    last = 2 * (network.readout(states[3]) - y) * network.readout.weight[0]
    before = (last * (1 - states[3] ** 2)) @ network.layer.get_parameter("weight_hh_l0")
    assert measured[:2] == pytest.approx([last.norm().item(), before.norm().item()], rel=1e-5)


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_the_gradient_of_a_contracting_network_vanishes(kind: str) -> None:
    """Fifty steps back, spectral radius a half leaves less than a millionth of what radius one leaves."""
    left = [gradients.reach(gradients._with_radius(kind, radius, 16, 0), 51, 4, seed=1) for radius in (0.5, 1.0)]
    assert left[0][50] < 1e-6 * left[1][50]


def test_the_gradient_of_an_expanding_network_explodes() -> None:
    """A relu network of spectral radius 1.5 multiplies the gradient many times over."""
    line = gradients.reach(gradients._with_radius("relu", 1.5, 16, 0), 51, 4, seed=1)
    assert line[50] > 1e3 * line[0]


def test_the_gradients_of_all_kinds_are_told(tmp_path: Path) -> None:
    """A row for each kind before and after training, and for each radius; drawn as well."""
    sizes = gradients.Sizes(length=31, hidden=16, rows=3, updates=2, radii=(0.5, 1.5))
    finding = gradients.run(sizes, HERE)
    assert len(finding.rows) == 2 * len(layers.KINDS) + 2 * 2
    assert "it vanishes below one and explodes above" in finding.answer
    assert drawn(finding, tmp_path)[:4] == b"\x89PNG"


def test_a_gap_too_long_for_the_plain_network_is_no_gap_for_the_gru(tmp_path: Path) -> None:
    """Within the same updates the gru falls below half of the memoryless loss on adding, tanh does not."""
    sizes = memory.Sizes(lengths=(20,), updates=300)
    gru, tanh = (memory.share_of_memoryless("adding", kind, 20, sizes, 0) for kind in ("gru", "tanh"))
    assert gru < memory.SOLVED < tanh
    finding = memory.run(memory.Sizes(lengths=(4, 6), updates=3, hidden=4, rows=4), HERE)
    assert len(finding.rows) == 8
    assert drawn(finding, tmp_path)


def test_without_clipping_an_exploding_network_diverges_and_with_it_does_not(tmp_path: Path) -> None:
    """The same weights and batches: no number any more without, a finite loss with every kind of clipping."""
    finding = clipping.run(clipping.Sizes(length=40, updates=60, seeds=1, hidden=16, rows=8, radius=1.2), HERE)
    diverged = {row["clipping"]: row["diverged"] for row in finding.rows}
    assert diverged == {"off": 1, "norm 1": 0, "norm 5": 0, "value 0.5": 0}
    assert drawn(finding, tmp_path)


def test_truncated_backpropagation_keeps_the_same_memory_at_any_length(tmp_path: Path) -> None:
    """Kept bytes grow in proportion to the length in full, and not at all in chunks."""
    finding = cost.run(cost.Sizes(lengths=(64, 512), chunk=16, hidden=8, rows=4, repeats=1), HERE)
    assert finding.numbers["slope.memory.full"] == pytest.approx(1.0, abs=0.1)
    assert finding.numbers["slope.memory.truncated"] == pytest.approx(0.0, abs=1e-9)
    assert drawn(finding, tmp_path)


def test_a_power_law_has_its_exponent_as_slope() -> None:
    """On logarithmic axes."""
    assert cost.slope([1, 10, 100], [3.0, 3e2, 3e4]) == pytest.approx(2.0)


@pytest.mark.parametrize("padding", packing.PADDING)
def test_packing_equals_padding(padding: float) -> None:
    """Loss and gradients agree to the rounding of float64, and the batch holds the share of padding asked for."""
    sizes = packing.Sizes(length=60, rows=24, hidden=6)
    assert packing.difference(padding, sizes, 0) < packing.ROUNDING
    steps_of_rows = packing.lengths(padding, sizes)
    assert steps_of_rows.max() == 60
    assert 1 - steps_of_rows.float().mean().item() / 60 == pytest.approx(padding, abs=0.04)


def test_packing_tells_a_row_for_each_share(tmp_path: Path) -> None:
    """With both times and their ratio."""
    finding = packing.run(packing.Sizes(length=20, rows=6, hidden=4, repeats=1), HERE)
    assert [row["padding"] for row in finding.rows] == ["0%", "25%", "50%", "75%"]
    assert drawn(finding, tmp_path)


def test_a_carried_state_comes_nearer_to_the_noise_floor(tmp_path: Path) -> None:
    """Nothing beats the noise, and the carried state ends below the windows."""
    finding = sine.run(sine.Sizes(rows=32, hidden=12, epochs=15), HERE)
    ratio = {(row["state in training"], row["state when served"]): float(row["MSE over noise"]) for row in finding.rows}
    assert 0.95 < ratio["carried", "carried"] < ratio["reset", "reset"]
    assert drawn(finding, tmp_path)


def test_the_shapes_read_and_give_what_they_are_called() -> None:
    """One or many on each side; and every command is one that there is."""
    finding = shapes.run_shapes(shapes.Sizes(length=30, ahead=5), HERE)
    assert [(row["reads"], row["gives"]) for row in finding.rows] == [(1, 5), (30, 1), (30, 30), (30, 5)]
    verbs = vars(typer.main.get_command(app))["commands"]
    assert all(str(row["command"]).strip("`").split()[1] in verbs for row in finding.rows)


def test_the_right_way_leaves_no_trace_where_the_other_does() -> None:
    """Padding, the future and another series do not show the right way, and a detached state has a short past."""
    finding = shapes.run_questions(shapes.Sizes(), HERE)
    *others, detach = finding.rows
    assert max(float(row["so"]) for row in others) < 1e-6
    assert min(float(row["otherwise"]) for row in others) > 1e-3
    assert float(detach["otherwise"]) > 5 * float(detach["so"])
    assert finding.answer.startswith("All ")


# -------------------------------------------------------------------------------------------------------- on prices


@pytest.fixture(scope="module")
def prices() -> Any:
    """Give a small simulated market as it comes from the store."""
    panel, parts = market(400, 300)
    return steps.Data(panel=panel, split=parts, transform=LogReturn(), sha256="a" * 64)


def test_arms_are_tested_against_the_first(prices: Any, tmp_path: Path) -> None:
    """Equal settings save nothing, exactly; an arm whose rate lets it learn nothing has a higher validation loss."""
    small = {"network.hidden": 4, "training.lanes": 6}
    ways = [
        arms.Arm(label="usual", settings=small),
        arms.Arm(label="same", settings=small),
        arms.Arm(label="still", settings=small | {"training.learning_rate": 1e-9}),
    ]
    conditions = Conditions(data=prices)
    finding = arms.compared(ways, arms.Sizes(epochs=6, levels=0), conditions, setting="rate")
    usual, same, still = finding.rows
    assert (usual["CRPS saved"], usual["p"], same["CRPS saved"], same["p"]) == (0, 1, 0, 1)
    assert still["CRPS saved"] != 0
    assert float(still["validation loss"]) > float(usual["validation loss"])
    assert "not told apart: same (+0.00 %)" in finding.answer
    assert drawn(finding, tmp_path)


def test_less_data_leaves_the_latest_part_of_the_training_span(prices: Any) -> None:
    """What is older is a hole, what is later is as it was, and the whole is the panel itself."""
    until = prices.split.train_end_time
    begun = prices.panel.time[prices.panel.time < until].min()
    part = arms.latest(prices.panel, until, 0.25)
    kept = part.mask.any(-1)
    assert prices.panel.time[kept].min() >= until - 0.25 * (until - begun)
    later = prices.panel.time >= until
    np.testing.assert_array_equal(part.price[later], prices.panel.price[later])
    assert arms.latest(prices.panel, until, 1.0) is prices.panel


def test_levels_are_spread_with_the_first_and_the_last() -> None:
    """Three of six arms are the first, one in between and the last; 0 means all."""
    some = [arms.Arm(label=str(k)) for k in range(6)]
    assert [arm.label for arm in arms.Sizes(levels=3).of(some)] == ["0", "2", "5"]
    assert arms.Sizes(levels=0).of(some) == some


def test_equal_weights_are_equal_weights(prices: Any) -> None:
    """The wider gru has the parameters of the lstm within five percent, the equally wide one a good part fewer."""
    lstm, same_width, wide, _ = cells.arms()[:4]
    counts = [
        sum(p.numel() for p in arms.fitted(arm, prices, 1, 0)[0].parameters()) for arm in (lstm, same_width, wide)
    ]
    assert counts[1] < 0.85 * counts[0]
    assert counts[2] == pytest.approx(counts[0], rel=0.05)


@pytest.mark.parametrize(
    "name", [e.name for e in EXPERIMENTS.values() if e.on_prices and isinstance(e.sizes["quick"], arms.Sizes)]
)
def test_every_experiment_on_prices_names_settings_that_there_are(name: str, prices: Any) -> None:
    """Its first and last arm fit on a small market within an epoch."""
    experiment = EXPERIMENTS[name]
    finding = experiment.run(arms.Sizes(epochs=1, levels=2), Conditions(data=prices))
    assert len(finding.rows) == 2
    assert np.isfinite([float(row["CRPS saved"]) for row in finding.rows]).all()


def test_normal_moves_have_no_tails_and_no_memory() -> None:
    """Of normal moves kurtosis and memory are 0, the spread is 1, and equally full bins have the most entropy."""
    x = np.random.default_rng(3).normal(size=(200, 200))
    found = temperature.measured(x, np.quantile(x, [0.25, 0.5, 0.75]))
    assert found["entropy"] == pytest.approx(np.log(4), abs=1e-6)
    assert found["spread"] == pytest.approx(1, abs=0.02)
    assert found["kurtosis"] == pytest.approx(0, abs=0.1)
    assert found["memory"] == pytest.approx(0, abs=0.02)


def test_paths_are_bolder_at_a_higher_temperature(prices: Any, tmp_path: Path) -> None:
    """On density and spread the moves spread more with each temperature, and at 1 all meanings are the same paths."""
    finding = temperature.run(temperature.Sizes(epochs=3, paths=4, steps=40), Conditions(data=prices))
    spread = {on: [float(r["spread"]) for r in finding.rows if r["paths"] == on] for on in temperature.ACTS_ON}
    assert finding.rows[0]["paths"] == "real"
    for on in ("density", "spread"):
        assert np.diff(spread[on]).min() > 0
    assert len({by_temperature[2] for by_temperature in spread.values()}) == 1
    assert "with T on the density" in finding.answer
    assert drawn(finding, tmp_path)


def test_every_kind_has_a_row(prices: Any) -> None:
    """All kinds are listed with what they are for; each has its numbers, or says what prices it needs instead."""
    assert set(kinds.USES) == set(KINDS)
    names = ("last_value", "week_ago", "garch", "garch_diurnal", "gru", "dayahead")
    finding = kinds.run(kinds.Sizes(epochs=1, kinds=names), Conditions(data=prices))
    rows = {str(row["kind"]): row for row in finding.rows}
    needs = {name: row["needs instead"] for name, row in rows.items() if row["needs instead"]}
    assert needs.keys() == {"garch_diurnal", "dayahead"}
    assert needs["garch_diurnal"] == "prices within the day"
    assert str(needs["dayahead"]).startswith("blocks of 2 prices or more")
    assert all(np.isfinite(float(rows[name]["CRPS"])) != (name in needs) for name in names)
    assert (rows["garch"]["of reference"], rows["garch"]["p"]) == (1, 1)
    assert float(rows["week_ago"]["of reference"]) > 1.5
    assert float(rows["week_ago"]["MAE of last value"]) > 1.5
    assert "week_ago" in finding.answer.split("worse: ")[1]
    assert finding.answer.endswith("Not for these prices: garch_diurnal, dayahead.")
    assert int(rows["gru"]["state (bytes)"]) > int(rows["last_value"]["state (bytes)"])


def test_without_garch_the_last_value_is_the_reference(prices: Any) -> None:
    """The ratio of the last value is 1 then, and the answer names it."""
    finding = kinds.run(kinds.Sizes(kinds=("last_value", "ar")), Conditions(data=prices))
    assert finding.rows[0]["of reference"] == 1
    assert finding.answer.startswith("Against last_value")


# ---------------------------------------------------------------------------------------------- running and telling


def test_names_choose_in_the_order_of_the_document() -> None:
    """None means all, and an unknown name is refused with the nearest."""
    assert [e.name for e in chosen(["packing", "gradients"])] == ["gradients", "packing"]
    assert len(chosen([])) == len(EXPERIMENTS)
    with pytest.raises(ConfigError, match="did you mean 'packing'"):
        chosen(["packign"])


def test_every_experiment_says_what_it_asks() -> None:
    """A question that ends as one, prose, and both sizes."""
    for experiment in EXPERIMENTS.values():
        assert experiment.question.endswith("?")
        assert len(experiment.about) > 80
        assert set(experiment.sizes) == {"quick", "full"}


@pytest.fixture
def counted() -> tuple[Experiment, list[int]]:
    """Give an experiment that counts its runs."""
    calls: list[int] = []

    def run(sizes: shapes.Sizes, conditions: Conditions) -> Finding:
        calls.append(conditions.seed)
        return shapes.run_shapes(sizes, conditions)

    return replace(shapes.SHAPES, run=run), calls


def test_what_was_found_is_not_run_again(counted: tuple[Experiment, list[int]], copied: Any, tmp_path: Path) -> None:
    """The second run reads the file; another seed, other sizes or --again run anew."""
    experiment, calls = counted
    plan = runs.Plan(folder=tmp_path / "study")
    first = runs.run([experiment], plan, copied)
    assert runs.run([experiment], plan, copied) == first
    assert calls == [0]
    runs.run([experiment], replace(plan, seed=3), copied)
    longer = replace(experiment, sizes={"quick": shapes.Sizes(length=61), "full": shapes.Sizes()})
    runs.run([longer], replace(plan, seed=3), copied)
    runs.run([longer], replace(plan, seed=3, again=True), copied)
    assert calls == [0, 3, 3, 3]


def test_each_experiment_is_a_nested_run(copied: Any, tmp_path: Path) -> None:
    """One parent named study; a child has the sizes as parameters, the numbers as metrics, the table and figure."""
    from mlflow import MlflowClient

    small = replace(packing.EXPERIMENT, sizes={"quick": packing.Sizes(length=8, rows=4, hidden=2, repeats=1)})
    runs.run([small], runs.Plan(folder=tmp_path / "study"), copied)
    tracker = Tracker(copied.tracking, copied.folder)
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name(copied.tracking.experiment)
    assert experiment is not None
    child = next(run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "packing")
    parent = client.get_run(child.data.tags["mlflow.parentRunId"])
    assert str(parent.info.run_name).startswith("study ")
    assert child.data.params["length"] == "8"
    assert "ratio.50" in child.data.metrics
    files = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert files == {"answer.md", "figures", "result.json"}


def test_the_code_of_an_experiment_is_all_that_it_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A change in a module below it gives another digest; one in a module that it does not import gives the same."""
    before = {e.name: runs.code(e.run) for e in (memory.EXPERIMENT, packing.EXPERIMENT)}
    changed = tmp_path / "tasks.py"
    changed.write_bytes(Path(str(tasks.__file__)).read_bytes() + b"\n# changed\n")
    monkeypatch.setattr(tasks, "__file__", str(changed))
    assert runs.code(memory.EXPERIMENT.run) != before["memory"]
    assert runs.code(packing.EXPERIMENT.run) == before["packing"]


def test_the_document_tells_every_result(tmp_path: Path) -> None:
    """A link, the question, the prose, the table, the figure and the answer of each experiment that has a result."""
    result = runs.Result(
        name="packing",
        scale="quick",
        key="k",
        rows=[{"padding": "0%", "time": 1.23456}, {"padding": "a|b", "time": None}],
        answer="Packing agrees.",
        numbers={},
        figure="packing.png",
        seconds=2.0,
        made_on="2026-01-01",
        machine="a machine",
    )
    path = document.write(EXPERIMENTS.values(), {"packing": result}, tmp_path / "study")
    said = path.read_text()
    assert path == tmp_path / "study.md"
    assert "| 0% | 1.235 |" in said
    assert "| a\\|b | – |" in said
    assert "![" in said
    assert "(study/packing.png)" in said
    assert packing.EXPERIMENT.about in said
    assert said.count("Packing agrees.") == 2
    assert "## Gradients" not in said


def test_examples_of_the_study_hold() -> None:
    """The doctests of the document, of the widths and of what an error wants."""
    for module in (document, cells, kinds):
        done = doctest.testmod(module)
        assert (done.failed, done.attempted > 0) == (0, True)


def test_an_experiment_on_prices_takes_those_of_the_store(workspace: Workspace, tmp_path: Path) -> None:
    """The prices of the settings reach the experiment, under the digest of the store."""
    seen: list[Any] = []

    def run(sizes: shapes.Sizes, conditions: Conditions) -> Finding:
        seen.append(conditions.data)
        return shapes.run_shapes(sizes, conditions)

    asked = SimpleNamespace(folder=tmp_path)
    runs.run([replace(shapes.SHAPES, run=run, on_prices=True)], runs.Plan(folder=asked.folder), workspace.config)
    assert seen[0].sha256 == steps.load(workspace.config).sha256
