"""A walk kept fold by fold: killed at any moment it goes on to the same table; its last fit is the one that serves."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Watched, simulated_rows, write_csv

from flows.retrain import first_round, plain
from models import checkpoint
from models.errors import DataError, FitError, IntegrityError
from pipeline import archive, champions, folds, judging, promotion, steps
from pipeline.backtest import BacktestConfig
from pipeline.config import Config
from pipeline.forecasts import Forecasts
from pipeline.refit import RefitConfig
from pipeline.settings import load
from pipeline.windows import Split

WALK = BacktestConfig(start="warm", refit=RefitConfig(when="every", every=30))
DRIFT = BacktestConfig(refit=RefitConfig(when="drift", window=60, least=20, coverage=0.02, distance=0.05))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Train two models on the simulated prices."""
    home = tmp_path_factory.mktemp("folds")
    csv = write_csv(home / "prices.csv", simulated_rows())
    tree = {
        "folder": str(home / "data"),
        "models": ["last_value", "ar", "rnn"],
        "ingest": {"paths": [str(csv)], "policy": {"null": "keep"}},
        "fit": {"network": {"hidden": 3, "layers": 1}, "training": {"epochs": 3, "lanes": 6, "device": "cpu"}},
    }
    config = replace(load(Config, tree), backtest=WALK)
    steps.ingest(config)
    for name in config.models:
        steps.train(config, name)
    return config


@pytest.fixture
def config(trained: Config, tmp_path: Path) -> Config:
    """Give a copy of the folder, to be changed at will."""
    shutil.copytree(trained.folder, tmp_path / "data")
    return replace(trained, folder=tmp_path / "data")


def bits(rows: Forecasts) -> dict[str, bytes]:
    """Give every array as bytes."""
    return {k: v.tobytes() for k, v in vars(rows).items() if isinstance(v, np.ndarray)}


def files(folder: Path, name: str) -> dict[str, bytes]:
    """Give what a walk has left of forecasts and of weights, without what differs from run to run: how long it took."""
    left = {str(p.relative_to(folder)): p.read_bytes() for p in folds.rows_of(folder, name).rglob("*.parquet")}
    for path in (folder / "folds" / name).glob("*.safetensors"):
        tensors, _ = checkpoint.load_tensors(path)
        left |= {f"{path.name} {k}": x.numpy().tobytes() for k, x in tensors.items()}
    return left


@pytest.mark.parametrize(("name", "walk"), [("ar", DRIFT), ("rnn", WALK)], ids=["ar-drift", "rnn-warm"])
def test_a_walk_killed_at_random_goes_on_to_the_same_table(
    trained: Config, config: Config, name: str, walk: Any
) -> None:
    """SIGKILL of a real process, again and again, in fits and between: bit for bit what a walk never stopped leaves."""
    config, whole = (replace(c, backtest=walk) for c in (config, trained))
    began = time.perf_counter()
    expected = steps.backtest(whole, name)
    took = time.perf_counter() - began
    refits = len(folds.account(whole.folder, name)["refits"])
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pipeline.steps"])
    rng, killed = np.random.default_rng(4), 0
    warm = processes.Process(target=time.sleep, args=(0,))
    warm.start()  # the server imports once, then forks at once
    warm.join()
    for _ in range(6):
        process = processes.Process(target=steps.backtest, args=(config, name))
        process.start()
        process.join(took * rng.uniform(0.05, 0.8))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    done = len(list(folds.rows_of(config.folder, name).glob("fold=*")))
    told: list[int] = []
    rows = steps.backtest(config, name, told.append)
    assert killed > 0
    assert 0 <= done <= refits + 1
    assert told == list(range(1, refits + 1))
    assert refits >= 3
    assert bits(rows) == bits(expected)
    assert files(config.folder, name) == files(whole.folder, name)
    assert not list((config.folder / "progress").iterdir())


def test_a_fit_that_was_killed_goes_on_from_its_epoch(config: Config) -> None:
    """Progress of a refit that is on disk is taken up: only the epochs that are missing are run."""
    longer = replace(config.fit, training=replace(config.fit.training, epochs=6, patience=6))
    config = replace(config, fit=longer)
    steps.backtest(config, "rnn")
    whole = files(config.folder, "rnn")
    with pytest.MonkeyPatch.context() as patch:
        epochs: list[int] = []
        begin = steps.fit

        def stopping(*args: Any, **how: Any) -> Any:
            def note(record: Any) -> None:
                epochs.append(record.epoch)
                how_told(record)
                if len(epochs) == 4:
                    raise KeyboardInterrupt

            how_told = how["on_epoch"]
            return begin(*args, **how | {"on_epoch": note})

        patch.setattr(steps, "fit", stopping)
        folds.forget(config.folder, "rnn")
        with pytest.raises(KeyboardInterrupt):
            steps.backtest(config, "rnn")
        (left,) = (config.folder / "progress").glob("rnn-fold-0001-*.safetensors")
        assert left.exists()
        steps.backtest(config, "rnn")
    assert epochs[:8] == [1, 2, 3, 4, 5, 6, 1, 2]
    assert files(config.folder, "rnn") == whole


def test_a_walk_over_something_else_begins_anew(config: Config, tmp_path: Path) -> None:
    """The same walk again changes no file; other settings, another model or other prices take nothing over."""

    def walked(config: Config) -> tuple[str, list[int]]:
        """Walk, and give the key and the moments at which the fits of the folds were written."""
        steps.backtest(config, "ar")
        written = [p.stat().st_mtime_ns for p in sorted((config.folder / "folds" / "ar").iterdir())]
        return folds.account(config.folder, "ar")["key"], written

    walks = [walked(config)]
    assert walked(config) == walks[0]
    walks.append(walked(replace(config, backtest=replace(WALK, embargo=5))))
    walks.append(walked(replace(config, fit=replace(config.fit, ar=replace(config.fit.ar, max_lags=3)))))
    steps.train(config, "ar")
    walks.append(walked(config))
    new = write_csv(tmp_path / "new.csv", [("AAA", "2021-12-01", "100.0")])
    steps.ingest(replace(config, ingest=replace(config.ingest, paths=(str(new),))))
    walks.append(walked(config))
    keys, written = zip(*walks, strict=True)
    assert len(set(keys)) == 5
    assert len({at for fits in written for at in fits}) == 5 * 4


def test_every_refit_is_told_with_its_moment_its_cost_and_its_reason(config: Config) -> None:
    """walk.json has a line a refit; the fits say what they saw; the total holds the first fit too."""
    steps.backtest(config, "ar")
    told = folds.account(config.folder, "ar")
    panel = steps.load(config).panel
    assert len(told["refits"]) == len(list((config.folder / "folds" / "ar").iterdir())) == 4
    for number, refit in enumerate(told["refits"], 1):
        about = checkpoint.load(config.folder / "folds" / "ar" / f"{number:04}.safetensors")[1]
        assert refit["why"].startswith("30 origin times after the last fit")
        assert refit["seconds"] == about["seconds"] > 0
        assert steps.iso(about["split"]["validation_end_time"]) == refit["time"].replace("+00:00", "Z")
        origins = Split(**about["split"]).origins(panel, "train")
        assert panel.time[origins].max() < about["split"]["train_end_time"]
    first = checkpoint.load(config.folder / "models" / "ar.safetensors")[1]["seconds"]
    assert told["seconds"] == pytest.approx(first + sum(r["seconds"] for r in told["refits"]))
    assert told["serving"] == "folds/ar/0004.safetensors"


def test_without_refits_the_trained_model_serves(config: Config) -> None:
    """With "never" there is one fold, and what is promoted is the trained model's own file."""
    config = replace(config, backtest=BacktestConfig())
    steps.backtest(config, "ar")
    assert folds.account(config.folder, "ar")["serving"] == "models/ar.safetensors"
    assert not (config.folder / "folds" / "ar").exists()
    path = config.folder / "models" / "ar.safetensors"
    assert steps.load_model(config, "ar")[1] == checkpoint.load(path)[1]


def test_a_warm_start_begins_where_the_fit_before_ended(config: Config) -> None:
    """A refit from scratch and a warm one end at other weights; the warm one keeps the unit of the first fit."""
    unit = {}
    for start in ("warm", "scratch"):
        steps.backtest(replace(config, backtest=replace(WALK, start=start)), "rnn")
        tensors, _ = checkpoint.load_tensors(config.folder / "folds" / "rnn" / "0001.safetensors")
        unit[start] = next(x for k, x in tensors.items() if k.endswith("inputs.unit"))
    first, _ = checkpoint.load_tensors(config.folder / "models" / "rnn.safetensors")
    of_first = next(x for k, x in first.items() if k.endswith("inputs.unit"))
    assert unit["warm"] == of_first
    assert unit["scratch"] != of_first


def test_an_unfinished_walk_is_not_compared(config: Config) -> None:
    """Forecasts of some folds only are refused, with the verb that goes on."""
    for name in config.models:
        steps.backtest(config, name)
    account = folds.rows_of(config.folder, "ar") / "walk.json"
    account.write_bytes(account.read_bytes().replace(b'"folds/ar/0004.safetensors"', b"null"))
    with pytest.raises(DataError, match=r"ar was not walked to the end. Run `statecast backtest ar`"):
        judging.compare(config)


def test_the_last_refit_is_what_is_promoted(config: Config) -> None:
    """A walk with refits tells them; the last fit of the best model is exported, and one that changed since is not."""
    watched, two = Watched(), replace(config, models=("last_value", "rnn"))
    first_round(two, watched, plain)
    judging.record(two)
    promoted = promotion.promote(two)
    assert [done for what, done in watched.told if what == "refitted"] == [1, 2, 3, 4] * 2
    name = promoted.model
    about = steps.load_model(config, name)[1]
    assert about["why"].startswith("30 origin times")
    serving = champions.load(config.folder / "champions", "champion").metadata
    assert serving.cutoff_time == steps.iso(about["split"]["validation_end_time"])
    steps.backtest(replace(config, backtest=replace(WALK, embargo=2)), name)
    with pytest.raises(IntegrityError, match=f"{name} was trained again or refitted"):
        promotion.promote(two, name)


def test_forecasts_of_a_drift_walk_depend_on_no_later_price(config: Config) -> None:
    """Rows lie on disk in folds whose origins follow each other without a gap."""
    rows = steps.backtest(replace(config, backtest=DRIFT), "ar")
    folder = folds.rows_of(config.folder, "ar")
    spans = []
    for number in range(len(folds.account(config.folder, "ar")["refits"]) + 1):
        times = np.concatenate([b.origin_time for b in archive.blocks(folder, number)])
        spans.append((times.min(), times.max()))
    assert all(a[1] < b[0] for a, b in pairwise(spans))
    assert sum(len(list(archive.blocks(folder, n))) for n in range(len(spans))) >= len(spans)
    assert len(rows) == 420


def test_a_refit_that_its_history_does_not_carry_says_which_and_what_to_do(config: Config) -> None:
    """A series with too few prices in the rolling history is named, with the moment of the refit and both remedies."""
    config = replace(config, backtest=replace(WALK, history="40d"))
    with pytest.raises(FitError, match=r"refit at 20..-.*: AAA: AR.*leave_out.*backtest\.history") as refused:
        steps.backtest(config, "ar")
    assert refused.value.row == 1
