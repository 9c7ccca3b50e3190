"""A saved forecaster comes back bit for bit, and what is no checkpoint is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import KINDS, recurrent

from models.checkpoint import load, load_tensors, save, save_tensors
from models.checks import prices
from models.errors import ModelError
from models.forecaster import Forecaster
from models.observation import Forecast
from models.transforms import AsinhDifference, LogReturn


def forecast_bytes(forecaster: Forecaster) -> dict[str, bytes]:
    """Forecast forty moments of three series; all that comes out."""
    with torch.no_grad():
        forecast, state = forecaster.forward(prices(forecaster, np.random.default_rng(1)))
    out = {f.name: getattr(forecast, f.name) for f in fields(Forecast)} | state
    return {k: v.contiguous().numpy().tobytes() for k, v in out.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Saved and loaded, a forecaster has the same name, kind, tensors and forecasts, and what was said beside it."""
    before = Forecaster(f"my {kind}", LogReturn(), KINDS[kind]()).eval()
    about = {"series": ["a", "b"], "seconds": 1.5}
    save(before, tmp_path / "folder" / "model.safetensors", about)
    after, said = load(tmp_path / "folder" / "model.safetensors")
    assert said == about
    assert (after.name, after.kind) == (before.name, before.kind)
    assert str(after.state_tensors()) == str(before.state_tensors())
    tensors = after.state_dict()
    assert tensors.keys() == before.state_dict().keys()
    for k, v in before.state_dict().items():
        assert v.numpy().tobytes() == tensors[k].numpy().tobytes(), k
    assert forecast_bytes(after) == forecast_bytes(before)
    assert not after.training


def test_names_of_covariates_come_back_in_their_order(tmp_path: Path) -> None:
    """They are kept with the fit; a file without them is refused."""
    core, path = KINDS["covariates"](), tmp_path / "model.safetensors"
    names = ("volume", "@hour"), ("wind", "@weekday", "load")
    save(Forecaster("gru", LogReturn(), core, *names), path)
    after, _ = load(path)
    assert (after.past_names, after.future_names) == names
    tensors, facts = load_tensors(path)
    save_tensors(path, tensors, {k: v for k, v in facts.items() if not k.endswith("_names")})
    with pytest.raises(ModelError, match=r"past_names.* Train it again"):
        load(path)


@pytest.mark.parametrize("names", [("volume",), ("volume", "load", "wind"), ("volume", "volume")])
def test_as_many_names_as_covariates_are_asked_for(names: tuple[str, ...]) -> None:
    """Too few, too many, or one name for two: the message has the count and the names."""
    with pytest.raises(ModelError, match=r"gru: its core reads 2 past covariates, but was given the names \['volume'"):
        Forecaster("gru", LogReturn(), KINDS["covariates"](), names)


def test_the_asinh_transform_comes_back_with_every_row(tmp_path: Path) -> None:
    """Center and unit of each series are in the file."""
    transform = AsinhDifference(torch.tensor([50.0, 1 / 3]), torch.tensor([20.0, 0.1]))
    before = Forecaster("asinh", transform, recurrent("gru")).eval()
    save(before, tmp_path / "model.safetensors")
    after, said = load(tmp_path / "model.safetensors")
    assert said == {}
    assert after.transform.describe() == transform.describe()
    assert forecast_bytes(after) == forecast_bytes(before)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a small forecaster."""
    save(Forecaster("gru", LogReturn(), recurrent("gru")), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ModelError, match=r"none\.safetensors: expected a safetensors file"):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    """A file cut anywhere, by one byte too, is damaged."""
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match="expected a safetensors file written by statecast"):
        load(saved)


def test_a_damaged_header_is_refused(saved: Path) -> None:
    """Bytes that are not those of a header are no checkpoint."""
    data = bytearray(saved.read_bytes())
    data[8:40] = b"\xff" * 32
    saved.write_bytes(data)
    with pytest.raises(ModelError, match="expected a safetensors file"):
        load(saved)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    """A pickle that would write a file when read is refused, and the file is not there."""

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="expected a safetensors file"):
        load(path)
    torch.save({"core.inputs.unit": Trap()}, path)
    with pytest.raises(ModelError, match="expected a safetensors file"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_safetensors_file_of_others_is_refused(tmp_path: Path) -> None:
    """Tensors without our text beside them are not ours."""
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="written by statecast"):
        load(tmp_path / "other.safetensors")


def changed(path: Path, **facts: object) -> Path:
    """Write the file again with some of its facts changed."""
    tensors, old = load_tensors(path)
    save_tensors(path, tensors, old | facts)
    return path


def test_another_format_is_refused(saved: Path) -> None:
    """The message says which format is read and which came."""
    with pytest.raises(ModelError, match="expected format 2, got 3"):
        load(changed(saved, format=3))


def test_an_unknown_core_is_refused_with_the_nearest(saved: Path) -> None:
    """The message lists the cores there are."""
    with pytest.raises(ModelError, match=r"unknown core 'Netwok': did you mean 'Network'\? Known: Auto"):
        load(changed(saved, core="Netwok"))


def test_tensors_that_are_not_those_of_the_core_are_refused(saved: Path) -> None:
    """A file whose tensors are missing or of another shape is refused by its path."""
    tensors, facts = load_tensors(saved)
    for wrong in (
        {k: v for k, v in tensors.items() if k != "core.inputs.unit"},
        tensors | {"core.head.output.bias": torch.zeros(7)},
    ):
        save_tensors(saved, wrong, facts)
        with pytest.raises(ModelError, match=r"model\.safetensors: its tensors are not those of a Network"):
            load(saved)


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    """Views of one tensor, transposed ones and scalars come back as they were, with the facts."""
    x = torch.arange(6.0).reshape(2, 3)
    tensors = {"x": x, "t": x.T, "row": x[1], "step": torch.tensor(3.0), "empty": torch.zeros(2, 0)}
    facts = {"epoch": 3, "loss": float("inf"), "names": ["é", "b"]}
    save_tensors(tmp_path / "t.safetensors", tensors, facts)
    back, said = load_tensors(tmp_path / "t.safetensors")
    assert said == facts
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], v) for k, v in tensors.items())


def _save_for_ever(path: Path) -> None:
    """Save 4 MB of one number after another until killed."""
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    for k in range(2, 1_000_000):
        save_tensors(path, {"x": torch.full((1_000_000,), float(k))}, {"k": k})


def test_a_kill_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    """However often a saving process is killed, the file is a whole one, the old or a newer."""
    path, rng = tmp_path / "x.safetensors", np.random.default_rng(3)
    save_tensors(path, {"x": torch.ones(1_000_000)}, {"k": 1})
    seen = set()
    for _ in range(12):
        child = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(path,))
        child.start()
        time.sleep(float(rng.uniform(0.01, 0.06)))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        tensors, facts = load_tensors(path)
        assert (tensors["x"] == facts["k"]).all()
        seen.add(facts["k"])
    assert len(seen) > 1, "no child saved anything"


def test_a_failed_save_leaves_the_old_file(saved: Path) -> None:
    """What cannot be written as JSON fails the save, and the file stays byte for byte."""
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save(Forecaster("gru", LogReturn(), recurrent("gru")), saved, {"path": saved})
    assert saved.read_bytes() == before


def test_the_facts_of_a_file_are_plain_json(saved: Path) -> None:
    """Nothing but JSON stands beside the tensors."""
    header = json.loads(saved.read_bytes()[8 : 8 + int.from_bytes(saved.read_bytes()[:8], "little")])
    facts = json.loads(header["__metadata__"]["statecast"])
    assert facts["core"] == "Network"
    assert facts["settings"]["config"]["hidden"] == 8
