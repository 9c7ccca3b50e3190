"""The session loads only what describes itself truly, and steps as the graph says."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from served import HORIZON, metadata, model_bytes, proto

from models.errors import IntegrityError, ModelError
from models.observation import LEVELS, Observation, StateTensor
from pipeline import session as module
from pipeline.metadata import KEY
from pipeline.session import Session


def observe(price: list[float], *, elapsed: float = 1.0, series: list[int] | None = None) -> Observation:
    """Build an observation of one price a series."""
    batch = len(price)
    return Observation(
        price=np.array(price, dtype=np.float64).reshape(batch, 1),
        mask=np.ones((batch, 1), dtype=bool),
        series=np.array(series or [0] * batch, dtype=np.int64),
        past=np.empty((batch, 0), np.float32),
        future=np.empty((batch, HORIZON, 0), np.float32),
        elapsed=np.full(batch, elapsed, np.float32),
    )


@pytest.fixture(scope="module")
def session() -> Session:
    """Open the small model."""
    return Session(model_bytes())


def test_a_step_gives_what_the_graph_computes(session: Session) -> None:
    """Forecast and state after two steps equal the same arithmetic in numpy."""
    state = session.initial(2)
    elapsed = 2.0
    _, state = session.step(observe([100.0, 3.0], elapsed=elapsed), state)
    forecast, state = session.step(observe([101.0, 4.0], elapsed=elapsed, series=[0, 2]), state)
    trace = np.zeros((2, 2))
    for price in ([100.0, 3.0], [101.0, 4.0]):
        trace = np.log(1 + (trace / 2 + np.stack([price, [elapsed, elapsed]], 1)) ** 2)
    np.testing.assert_allclose(state["trace"], trace, rtol=1e-6)
    np.testing.assert_array_equal(state["count"], [2, 2])
    table = (0.01 * np.linspace(-2, 2, 11) * np.arange(1, HORIZON + 1)[:, None]).astype(np.float32)
    shift = 1e-4 * (trace.sum(1) + np.array([0, 2]))
    expected = np.array([[101.0], [4.0]])[:, :, None] * np.exp(shift[:, None, None] + table)
    np.testing.assert_allclose(forecast.quantile[:, :, 0], expected, rtol=1e-6)
    assert forecast.quantile.shape == (2, HORIZON, 1, len(LEVELS))
    assert forecast.quantile.dtype == np.float64


def test_degrees_of_freedom_follow_the_series(session: Session) -> None:
    """Each row has the degrees of freedom of its parameter row; one number serves all rows."""
    forecast, _ = session.step(observe([1.0] * 3, series=[1, 2, 0]), session.initial(3))
    np.testing.assert_array_equal(forecast.df, np.array([np.inf, np.nan, 5.0], np.float32))
    single = Session(model_bytes(metadata(df=(4.0,))))
    forecast, _ = single.step(observe([1.0] * 3, series=[1, 2, 0]), single.initial(3))
    np.testing.assert_array_equal(forecast.df, np.full(3, 4.0, np.float32))


def test_the_initial_state_is_what_the_metadata_says(session: Session) -> None:
    """Names, shapes, number types and values come from the file."""
    state = session.initial(3)
    assert {k: (x.shape, str(x.dtype)) for k, x in state.items()} == {
        "price": ((3, 1), "float64"),
        "trace": ((3, 2), "float32"),
        "count": ((3,), "int64"),
    }
    assert np.isnan(state["price"]).all()
    assert not state["trace"].any()


def test_series_that_the_fit_never_saw_have_row_zero(session: Session) -> None:
    """Known names have their row plus one, all others the pooled row."""
    np.testing.assert_array_equal(session.rows(["BBB", "other", "AAA"]), [2, 0, 1])
    assert session.rows([]).dtype == np.int64


def test_poison_leaves_the_state_bit_for_bit(session: Session) -> None:
    """NaN, infinity and prices outside the domain change nothing in the state, nor in the neighbour's."""
    _, state = session.step(observe([100.0, 50.0]), session.initial(2))
    for poison in (np.nan, np.inf, -np.inf, 1e30, 0.0, -1.0):
        _, after = session.step(observe([poison, 51.0]), state)
        _, alone = session.step(observe([100.0, 51.0]), state)
        for name in state:
            assert after[name][0].tobytes() == state[name][0].tobytes(), (poison, name)
            assert after[name][1].tobytes() == alone[name][1].tobytes(), (poison, name)


def test_a_step_does_not_change_its_state(session: Session) -> None:
    """The state given to a step is a value."""
    _, state = session.step(observe([100.0]), session.initial(1))
    before = {k: x.tobytes() for k, x in state.items()}
    session.step(observe([101.0]), state)
    assert before == {k: x.tobytes() for k, x in state.items()}


def test_an_empty_batch_is_an_error_and_not_the_end_of_the_process(session: Session) -> None:
    """The runtime would abort on an empty batch; the guard raises instead."""
    with pytest.raises(ModelError, match="an empty batch"):
        session.step(observe([]), session.initial(0))


def test_rows_that_do_not_match_are_refused(session: Session) -> None:
    """A state of another length is not broadcast, and wrong number types come back as ModelError."""
    with pytest.raises(ModelError, match="one row a series"):
        session.step(observe([1.0, 2.0]), session.initial(1))
    state = session.initial(1) | {"trace": np.zeros((1, 2))}
    with pytest.raises(ModelError, match="the runtime refused"):
        session.step(observe([1.0]), state)
    incomplete = session.initial(1)
    del incomplete["trace"]
    with pytest.raises(ModelError, match="the runtime refused"):
        session.step(observe([1.0]), incomplete)


def test_a_file_is_opened_only_with_its_digest(tmp_path: Path) -> None:
    """The pinned digest is compared with the bytes that are served, and both are named when they differ."""
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes())
    digest = hashlib.sha256(model_bytes()).hexdigest()
    assert Session.load(path, digest).sha256 == digest
    path.write_bytes(model_bytes(metadata(name="other")))
    with pytest.raises(IntegrityError) as caught:
        Session.load(path, digest)
    assert digest in str(caught.value)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in str(caught.value)


def test_a_file_replaced_on_disk_does_not_change_a_session(tmp_path: Path) -> None:
    """The session holds the bytes that it read."""
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes())
    session = Session.load(path)
    first, _ = session.step(observe([5.0]), session.initial(1))
    path.write_bytes(b"")
    second, _ = session.step(observe([5.0]), session.initial(1))
    assert first.quantile.tobytes() == second.quantile.tobytes()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a model", pickle.dumps({"a": 1}), bytes(range(256)), model_bytes()[:-100], model_bytes()[:200]],
    ids=["empty", "text", "pickle", "noise", "cut at the end", "cut early"],
)
def test_bad_files_are_model_errors(data: bytes, tmp_path: Path) -> None:
    """Whatever the bytes are, opening them raises ModelError and names the file."""
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        Session.load(path)


def test_missing_and_large_files_are_model_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a file says so; a file above the bound is not handed to the runtime."""
    with pytest.raises(ModelError, match="No such file"):
        Session.load(tmp_path / "none.onnx")
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    (tmp_path / "m.onnx").write_bytes(model_bytes())
    with pytest.raises(ModelError, match="more than 100 bytes"):
        Session.load(tmp_path / "m.onnx")


def test_weights_outside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with external data is not opened, although the data lie beside it."""
    monkeypatch.chdir(tmp_path)
    model = proto()
    onnx.save(model, "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    with pytest.raises(ModelError, match="in another file"):
        Session.load(tmp_path / "m.onnx")


def test_a_file_without_metadata_is_refused() -> None:
    """A graph that does not describe itself is not served."""
    model = proto()
    del model.metadata_props[:]
    with pytest.raises(ModelError, match=f"no `{KEY}` entry"):
        Session(model.SerializeToString())


_WIDE = (*metadata().state[:1], StateTensor("trace", (3,), "float32", 0.0, "hidden", ""), metadata().state[2])
_DOUBLE = (*metadata().state[:1], StateTensor("trace", (2,), "float64", 0.0, "hidden", ""), metadata().state[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("price", "mask", "series")}, "inputs are"),
        ({"inputs": ("price", "mask", "series", "elapsed", "past"), "past": ("volume",)}, "inputs are"),
        ({"state": metadata().state[:2]}, "inputs are"),
        ({"state": _WIDE}, r"state.trace is float32 \['B', 2\]"),
        ({"state": _DOUBLE}, "state.trace is float32"),
        ({"block": 24}, "price is float64"),
        ({"horizon": 3}, "quantile is float64"),
        ({"levels": (0.1, 0.5, 0.9)}, "quantile levels"),
    ],
)
def test_a_graph_that_is_not_as_described_is_refused(changes: dict, message: str) -> None:
    """Names, number types and shapes of the graph must be those of the metadata."""
    with pytest.raises(ModelError, match=message):
        Session(model_bytes(metadata(**changes)))


def test_a_graph_with_a_fixed_batch_is_refused() -> None:
    """The batch axis must be free: a step serves any number of series."""
    model = proto()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelError, match="any number of rows"):
        Session(model.SerializeToString())


def test_self_test_passes_where_rows_are_independent(session: Session) -> None:
    """In batches of whole grains a row has the same bits, whatever travels with it."""
    for batch in (1, 16, 17, 1000):
        session.self_test(batch)


def test_self_test_finds_rows_that_depend_on_the_batch() -> None:
    """A graph that adds the batch's size to its state fails the self-test."""
    model = proto()
    add = next(n for n in model.graph.node if n.output[0] == "moved")
    add.output[0] = "alone"
    shared = [
        onnx.helper.make_node("ReduceSum", ["mask_32"], ["crowd"], keepdims=1),
        onnx.helper.make_node("Mul", ["crowd", "tiny"], ["nudge"]),
        onnx.helper.make_node("Add", ["alone", "nudge"], ["moved"]),
    ]
    cast = onnx.helper.make_node("Cast", ["mask"], ["mask_32"], to=onnx.TensorProto.FLOAT)
    at = list(model.graph.node).index(add)
    nodes = [*model.graph.node[: at + 1], cast, *shared, *model.graph.node[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(ModelError, match="different bits"):
        Session(model.SerializeToString()).self_test(8)


def test_serving_needs_no_heavy_library() -> None:
    """Importing the serving rooms loads numpy and onnxruntime and none of the libraries of training."""
    heavy = ("torch", "polars", "prefect", "mlflow", "onnx", "pandas", "statsmodels", "scipy", "matplotlib")
    code = f"import sys, pipeline.stream, pipeline.champions; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
