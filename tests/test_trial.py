"""A trial finds what a model does wrong in its first few hundred steps, and lets every kind of forecaster pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from served import metadata, model_bytes, proto
from spoiled import grafted
from test_export import PROVENANCE, of_kind

from models.errors import ModelError
from pipeline import export as gate
from pipeline.export import export
from pipeline.session import Session
from pipeline.trial import FIRST_STEPS, WIDTH, Terms, trial


@pytest.mark.parametrize("kind", ["ar", "gru", "covariates", "block_of_hours", "calibrated_ensemble", "dayahead"])
def test_real_models_pass(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes through the parity gate passes where its covariates and blocks are there."""
    monkeypatch.setattr(gate, "STEPS", 20)
    monkeypatch.setattr(gate, "LOOK_AT", (1, 20))
    forecaster = of_kind(kind)
    fitted_on = replace(PROVENANCE, series=tuple(f"S{k}" for k in range(len(forecaster.core.df) - 1)))
    session = export(forecaster, fitted_on, tmp_path / "m.onnx")
    m = session.metadata
    assert trial(session, Terms(past=m.past, future=m.future, block=m.block)) > 0
    if named := [name for name in (*m.past, *m.future) if not name.startswith("@")]:
        with pytest.raises(ModelError, match=f"needs {named[0]}"):
            trial(session, Terms(block=m.block))


@pytest.mark.parametrize("domain", [(1e-15, 1e15), (2.0, 3.0), (-5.0, None), (None, 1.0), (2e4, 3e4), (None, None)])
def test_prices_lie_in_the_domain(domain: tuple[float | None, float | None]) -> None:
    """A model of any domain is shown prices inside it, and poison outside of it."""
    lower, upper = domain
    changed = proto(metadata(transform={"kind": "log", "lower": lower, "upper": upper}))
    bounds = {"lower": -1.7e308 if lower is None else lower, "upper": 1.7e308 if upper is None else upper}
    for constant in changed.graph.initializer:
        if constant.name in bounds:
            constant.CopyFrom(numpy_helper.from_array(np.array(bounds[constant.name]), constant.name))
    assert trial(Session(changed.SerializeToString()), Terms()) > 0


def test_bounds_that_the_graph_does_not_keep_are_found() -> None:
    """Where the metadata say a narrower domain than the graph keeps, poison moves the state."""
    loose = metadata(transform={"kind": "log", "lower": 1e-15, "upper": 1e6})
    with pytest.raises(ModelError, match="changed the state price"):
        trial(Session(model_bytes(loose)), Terms())


def test_every_row_of_parameters_is_stepped() -> None:
    """A number that is none is found in the last of many rows."""
    many = WIDTH + 2
    model = proto(metadata(series=tuple(f"S{k}" for k in range(many)), df=(5.0,)))
    drift = next(x for x in model.graph.initializer if x.name == "drift")
    values = np.zeros((1 + many, 1), np.float32)
    drift.CopyFrom(numpy_helper.from_array(values, "drift"))
    assert trial(Session(model.SerializeToString()), Terms()) > 0
    values[-1] = np.inf
    drift.CopyFrom(numpy_helper.from_array(values, "drift"))
    with pytest.raises(ModelError, match=f"not finite at step . for series S{many - 1}"):
        trial(Session(model.SerializeToString()), Terms())


def counting(limit: int) -> bytes:
    """Build a model whose location is no number once a series has shown more than so many prices."""
    nodes = [
        helper.make_node("Greater", ["next.count", "limit"], ["over"]),
        helper.make_node("Reshape", ["over", "three"], ["over_3"]),
        helper.make_node("Where", ["over_3", "no_number", "loc_before"], ["loc"]),
    ]
    none = np.array(np.nan, np.float32)
    return grafted("loc", nodes, limit=np.array(limit), three=np.array([-1, 1, 1]), no_number=none)


def test_a_model_that_fails_late_is_found() -> None:
    """A forecast that is no number after two hundred prices is found; one after a thousand is out of sight."""
    assert trial(Session(counting(1000)), Terms()) > 0
    with pytest.raises(ModelError, match=r"loc is not finite at step 2\d\d for"):
        trial(Session(counting(200)), Terms())
    with pytest.raises(ModelError, match=rf"loc is not finite at step [0-{FIRST_STEPS - 1}] for"):
        trial(Session(counting(1)), Terms())


def test_a_hole_before_the_first_price_must_not_count() -> None:
    """A model that counts moments instead of prices is refused."""
    nodes = [
        helper.make_node("Not", ["mask"], ["hole"]),
        helper.make_node("Squeeze", ["hole", "last_axis"], ["hole_1"]),
        helper.make_node("Or", ["valid1_before", "hole_1"], ["valid1"]),
    ]
    with pytest.raises(ModelError, match="before the first one, changed the state count"):
        trial(Session(grafted("valid1", nodes)), Terms())


def test_the_self_test_is_that_of_the_batch() -> None:
    """A graph whose rows depend on how many travel together is refused where more than one do, and only there."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["mask_32"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask_32"], ["crowd"], keepdims=1),
        helper.make_node("Mul", ["crowd", "tiny"], ["nudge"]),
        helper.make_node("Add", ["moved_before", "nudge"], ["moved"]),
    ]
    session = Session(grafted("moved", nodes))
    assert trial(session, Terms(batch=1)) > 0
    with pytest.raises(ModelError, match="different bits"):
        trial(session, Terms(batch=2))
