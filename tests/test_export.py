"""An exported file reproduces its model over a long carry, says everything about itself, or is not written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_contract import KINDS, recurrent

from models.errors import ParityError
from models.forecaster import Forecaster
from models.graph import trace
from models.observation import LEVELS
from models.transforms import AsinhDifference, LogReturn
from pipeline import export as module
from pipeline.export import STEPS, Provenance, export
from pipeline.session import Session

REAL = ("ar", "stacked")
"""Kinds that go through the gate at its full length; the others over a tenth of it."""

PROVENANCE = Provenance(
    series=("AAA", "BBB", "CCC"),
    grid="1d",
    cutoff_time="2024-01-31T00:00:00Z",
    data_sha256="5" * 64,
    commit="abc",
    config={"horizon": 1},
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the gate."""
    monkeypatch.setattr(module, "STEPS", 200)
    monkeypatch.setattr(module, "LOOK_AT", (1, 2, 50, 200))


def of_kind(kind: str) -> Forecaster:
    """Make a forecaster of one kind on the log transform, with as many names as it reads covariates."""
    core = KINDS[kind]()
    more = tuple(f"x{k}" for k in range(core.past + core.future))
    names = ("volume", "@hour", *more)[: core.past], ("load", "@weekday_sin", "sun", *more)[: core.future]
    return Forecaster(kind, LogReturn(), core, *names).eval()


def traced_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.GraphProto], None]) -> None:
    """Let something be changed in every graph between tracing and the gate."""

    def changed(forecaster: Forecaster) -> onnx.ModelProto:
        proto = trace(forecaster)
        change(proto.graph)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    monkeypatch.setattr(module, "trace", changed)


def refused(forecaster: Forecaster, path: Path, message: str) -> None:
    """Expect the gate to refuse the forecaster with a message, and to leave the folder as it was."""
    path.write_bytes(b"the file that serves")
    with pytest.raises(ParityError, match=message):
        export(forecaster, PROVENANCE, path)
    assert path.read_bytes() == b"the file that serves"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in REAL])
@pytest.mark.usefixtures("short")
def test_every_kind_passes_the_gate(kind: str, tmp_path: Path) -> None:
    """The file of each kind reproduces it, and what was measured stands in its metadata."""
    forecaster = of_kind(kind)
    rows = len(forecaster.core.df)
    fitted_on = replace(PROVENANCE, series=tuple(f"S{k}" for k in range(rows - 1)))
    session = export(forecaster, fitted_on, tmp_path / "model.onnx")
    errors = session.metadata.parity["errors"]
    assert errors.keys() == {"quantile", "loc", "scale"} | {f"state.{s.name}" for s in forecaster.state_tensors()}
    assert all(0 <= e["runtime"] < 1e-3 for e in errors.values()), errors


@pytest.mark.parametrize("kind", REAL)
def test_the_gate_holds_over_two_thousand_steps(kind: str, tmp_path: Path) -> None:
    """At its full length an AR and a stacked network pass, and the metadata say how long it was."""
    session = export(of_kind(kind), PROVENANCE, tmp_path / "model.onnx")
    assert session.metadata.parity["steps"] == STEPS == 2000
    assert session.metadata.parity["batches"] == [1, 64]
    assert session.metadata.parity["errors"]["loc"]["runtime"] > 0


@pytest.mark.usefixtures("short")
def test_prices_that_may_be_negative_pass_the_gate(tmp_path: Path) -> None:
    """A network on the asinh transform, a row a series, is reproduced."""
    transform = AsinhDifference(torch.tensor([50.0, 40.0, -3.0, 60.0]), torch.tensor([20.0, 12.0, 8.0, 25.0]))
    session = export(Forecaster("asinh", transform, recurrent("gru")), PROVENANCE, tmp_path / "model.onnx")
    assert session.metadata.transform == transform.describe()
    assert "series" in session.metadata.inputs


@pytest.mark.usefixtures("short")
def test_the_file_says_everything_about_itself(tmp_path: Path) -> None:
    """Metadata hold what the model is, where it comes from and what is carried; the session is that of the file."""
    forecaster, path = of_kind("covariates"), tmp_path / "folder" / "model.onnx"
    session = export(forecaster, PROVENANCE, path)
    assert session.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    m = Session.load(path).metadata
    assert m == session.metadata
    assert {k: getattr(m, k) for k in vars(PROVENANCE)} == vars(PROVENANCE)
    assert (m.name, m.kind, m.block, m.horizon, m.levels) == ("covariates", "gru", 1, 2, LEVELS)
    assert m.inputs == ("price", "mask", "past", "future", "elapsed")
    assert (m.past, m.future) == (("volume", "@hour"), ("load", "@weekday_sin", "sun"))
    assert str(m.state) == str(forecaster.state_tensors())
    assert m.df == pytest.approx(forecaster.core.df.tolist())
    assert m.transform == {"kind": "log", "lower": 1e-15, "upper": 1e15}


@pytest.mark.usefixtures("short")
def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    """An export repeats itself byte for byte and does not change the model."""
    forecaster = of_kind("gru").train()
    before = {k: v.clone() for k, v in forecaster.state_dict().items()}
    digests = {export(forecaster, PROVENANCE, tmp_path / f"{k}.onnx").sha256 for k in range(2)}
    assert len(digests) == 1
    assert forecaster.training
    assert all(torch.equal(v, before[k]) for k, v in forecaster.state_dict().items())


@pytest.mark.parametrize("kind", ["ar", "garch", "gru", "quantile_head"])
@pytest.mark.usefixtures("short")
def test_a_number_that_is_slightly_wrong_fails_the_gate(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest table of the graph changed by one in ten thousand is refused, and tensor and element are named."""

    def perturb(graph: onnx.GraphProto) -> None:
        floats = [i for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
        largest = max(floats, key=lambda i: numpy_helper.to_array(i).size)
        values = numpy_helper.to_array(largest) * np.float32(1 + 1e-4)
        largest.CopyFrom(numpy_helper.from_array(values, largest.name))

    traced_with(monkeypatch, perturb)
    where = r"(quantile|loc|scale|state\.\w+) after step \d+ at batch \d+, element \[\d+(, \d+)*\] is off by"
    refused(of_kind(kind), tmp_path / "model.onnx", f"export of {kind}: {where}")


@pytest.mark.parametrize(("cell", "gates"), [("gru", [1, 0, 2]), ("lstm", [0, 1, 3, 2])])
@pytest.mark.usefixtures("short")
def test_gates_in_another_order_fail_the_gate(
    cell: str, gates: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gates of the input weights swapped are refused."""

    def swap(graph: onnx.GraphProto) -> None:
        node = next(n for n in graph.node if n.op_type == cell.upper())
        stored = next(i for i in graph.initializer if i.name == node.input[1])
        parts = np.split(numpy_helper.to_array(stored), len(gates), axis=1)
        stored.CopyFrom(numpy_helper.from_array(np.concatenate([parts[g] for g in gates], axis=1), stored.name))

    traced_with(monkeypatch, swap)
    refused(of_kind(cell), tmp_path / "model.onnx", "expected at most .* The graph does not reproduce the model")


def without_where(output: str) -> Callable[[onnx.GraphProto], None]:
    """Let an output take the new value always, as if its hold for poison and holes were missing."""

    def remove(graph: onnx.GraphProto) -> None:
        node = next(n for n in graph.node if output in n.output)
        assert node.op_type == "Where"
        new = next(i for i in node.input[1:] if not i.startswith("state."))
        node.CopyFrom(onnx.helper.make_node("Identity", [new], [output]))

    return remove


@pytest.mark.parametrize("output", ["next.price", "next.h0"])
@pytest.mark.usefixtures("short")
def test_a_state_that_is_not_held_fails_the_gate(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that lets poison or a hole change the state is refused."""
    traced_with(monkeypatch, without_where(output))
    refused(of_kind("gru"), tmp_path / "model.onnx", r"export of gru: .* after step \d+ at batch \d+, element")


def test_the_scenario_is_as_hard_as_a_stream() -> None:
    """Among the observations of the gate are moves, holes, every kind of poison, and rows of unseen series."""
    forecaster = of_kind("ar")
    o = module.scenario(forecaster, 64)
    assert o.price.shape == (64, STEPS, 1)
    assert 0.03 < (~o.mask).double().mean() < 0.07
    admitted = forecaster.transform.admits(o.price)
    assert 0.01 < (~admitted).double().mean() < 0.03
    assert {str(p) for p in o.price[~admitted].tolist()} == {str(p) for p in module.POISON}
    assert set(o.series.tolist()) == {0, 1, 2, 3}
    clean = torch.where(admitted & o.mask, o.price, float("nan"))
    assert (clean.log().diff(dim=1).nan_to_num(0.0).abs() > 1e-4).double().mean() > 0.8


def test_the_scenario_shows_a_calendar_as_it_is() -> None:
    """Features of the calendar take every value that they have and no other; those ahead are of later moments."""
    o = module.scenario(of_kind("covariates"), 64)
    hour, weekday = o.past[..., 1], o.future[..., 1]
    assert set(hour[~hour.isnan()].tolist()) == set(range(24))
    assert len(weekday[~weekday.isnan()].unique()) == 7
    now, later = (o.future[:, 1:, 0, 1], o.future[:, :-1, 1, 1])
    assert torch.equal(now[~(now + later).isnan()], later[~(now + later).isnan()])


def test_the_scenario_spoils_what_stands_beside_the_price() -> None:
    """A share of the covariates and elapsed times is NaN, the rest is not."""
    o = module.scenario(of_kind("covariates"), 64)
    for beside in (o.past, o.future, o.elapsed):
        assert 0.005 < beside.isnan().double().mean() < 0.02
