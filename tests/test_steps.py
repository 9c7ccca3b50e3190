"""A retrain from files to files: what it leaves, that it can be repeated and resumed, and what it refuses."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from conftest import FIRST_DAY, HOLE, NAMES, Workspace, simulated_rows, write_csv
from mlflow import MlflowClient
from scipy import stats

from flows.retrain import retrain
from models.checkpoint import load_tensors
from models.errors import ConfigError, DataError, IntegrityError, PolicyError
from models.observation import LEVELS
from models.transforms import AsinhDifference, LogReturn
from pipeline import archive, champions, drive, judging, promotion, steps
from pipeline.backtest import BacktestConfig
from pipeline.lines import cut
from pipeline.lineup import Lineup
from pipeline.outputs import PipeOutput
from pipeline.prices import PriceStore
from pipeline.session import Session
from pipeline.stream import Stream
from pipeline.tracking import Tracker

STATECAST = str(Path(sys.executable).with_name("statecast"))


def mlflow_runs(config: Any) -> tuple[MlflowClient, Any, dict[str, Any]]:
    """Give MLflow's own client, the parent run of the last comparison, and the run of each model."""
    client = MlflowClient(tracking_uri=f"sqlite:///{config.folder / 'mlflow.db'}")
    runs = orjson.loads((config.folder / "runs.json").read_bytes())
    return client, client.get_run(runs["parent"]), {name: client.get_run(k) for name, k in runs["models"].items()}


def artifacts(client: MlflowClient, run: Any, folder: str | None = None) -> set[str]:
    """List the files of a run, folders included."""
    found = client.list_artifacts(run.info.run_id, folder)
    return {f.path for f in found} | {p for f in found if f.is_dir for p in artifacts(client, run, f.path)}


def tensors(config: Any, name: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a fitted model."""
    return load_tensors(config.folder / "models" / f"{name}.safetensors")[0]


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two models are equal to the last bit, NaN included."""
    return a.keys() == b.keys() and all(a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a)


# -------------------------------------------------------------------------------------------------- what is left


def test_a_retrain_leaves_every_file(workspace: Workspace) -> None:
    """Each step's result lies where the next step, and a reader, looks for it; nothing in progress is left."""
    folder, models = workspace.folder, workspace.config.models
    champion = workspace.result.promoted
    expected = ["ingest.json", "comparison.json", "runs.json", "mlflow.db", "prices/prices/manifest.json"]
    expected += [f"models/{name}.safetensors" for name in models] + [f"forecasts/{name}/walk.json" for name in models]
    expected += ["figures/comparison/skill.png", "champions/champion.json", f"champions/{champion.file.name}"]
    assert [name for name in expected if not (folder / name).is_file()] == []
    assert all(path.is_file() for path in workspace.result.compared.figures)
    assert workspace.result.compared.page.read_text().startswith("<!doctype html>")
    assert list((folder / "progress").iterdir()) == []


def test_every_model_has_a_run_under_the_retrain(workspace: Workspace) -> None:
    """MLflow holds a finished parent and a finished child a model, with the same names of scores."""
    _, parent, children = mlflow_runs(workspace.config)
    assert list(children) == list(workspace.config.models)
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    names = {name: set(run.data.metrics) - {"train_loss", "validation_loss"} for name, run in children.items()}
    assert len(set(map(frozenset, names.values()))) == 1
    assert {"crps", "rmae", "crps.AAA", "coverage_95.CCC"} <= names["gru"]


def test_a_run_says_what_it_was_made_from(workspace: Workspace) -> None:
    """The parent has every setting, the digest and the range of the prices, and the commit of the code."""
    _, parent, _ = mlflow_runs(workspace.config)
    store = PriceStore(workspace.folder / "prices")
    assert parent.data.params["fit.network.hidden"] == "4"
    assert parent.data.params["fit.training.epochs"] == "3"
    tags = parent.data.tags
    assert tags["data_sha256"] == store.digest()
    assert (tags["data_start"], tags["data_end"]) == ("2020-01-01T00:00:00Z", "2021-11-30T00:00:00Z")
    assert tags["commit"] == steps.commit()
    assert tags["decision"] == workspace.result.compared.decision.reason


def test_a_network_has_its_curve_and_the_others_their_parameters(workspace: Workspace) -> None:
    """The curve has a point an epoch; coefficients lie as JSON with a row a series, and offsets beside them."""
    client, parent, children = mlflow_runs(workspace.config)
    curve = client.get_metric_history(children["gru"].info.run_id, "validation_loss")
    assert [point.step for point in curve] == [1, 2, 3]
    assert "figures/loss.png" in artifacts(client, children["gru"])
    assert {"comparison.json", "config.json", "figures/skill.png"} <= artifacts(client, parent)
    told = orjson.loads(
        Path(
            client.download_artifacts(children["ar"].info.run_id, "parameters.json", str(workspace.folder))
        ).read_bytes()
    )
    assert told["rows"] == ["pooled", *NAMES]
    assert {len(table) for table in told["parameters"].values()} == {1 + len(NAMES)}
    assert np.array(told["calibration"]["start"]).shape == (1, 1, len(LEVELS))
    for name, run in children.items():
        assert f"model/{name}.safetensors" in artifacts(client, run)


def test_the_champions_file_is_the_registered_one(workspace: Workspace) -> None:
    """Registry and champions folder hold the same bytes; champion and challenger are two versions."""
    tracker = Tracker(workspace.config.tracking, workspace.folder)
    champion, challenger = tracker.current("champion"), tracker.current("challenger")
    served = champions.current(workspace.folder / "champions", "champion")
    assert champion is not None
    assert challenger is not None
    assert champion.number != challenger.number
    assert champion.sha256 == served.sha256 == workspace.result.promoted.sha256
    path, _ = tracker.download("champion")
    assert path.read_bytes() == workspace.result.promoted.file.read_bytes()


@pytest.mark.parametrize("role", ["model", "challenger"])
def test_a_stream_forecasts_what_the_backtest_did(workspace: Workspace, role: str) -> None:
    """Training = backtest = stream: ticks from the first price on, the hole left out, give the same quantiles."""
    name = getattr(workspace.result.compared.decision, role)
    expected = archive.load(workspace.folder / "forecasts" / name)
    lineup = Lineup(serving=(workspace.folder / "exports" / f"{name}.onnx").read_bytes())
    lines = ["series,time,price", *(",".join(row) for row in sorted(simulated_rows(), key=lambda row: row[1]))]
    out = io.BytesIO()
    report = drive.run(Stream(lineup, out=PipeOutput(out)), cut("\n".join(lines).encode()))
    assert report.holes == 1
    came = {
        (r["series"], r["origin_time"][:10]): r["quantiles"][0] for r in map(orjson.loads, out.getvalue().splitlines())
    }
    days = expected.origin_time.astype("datetime64[us]").astype("datetime64[D]")
    streamed = np.array([came[expected.names[s], str(day)] for s, day in zip(expected.series, days, strict=True)])
    assert len(expected) == 420
    np.testing.assert_allclose(streamed, expected.quantile, rtol=2e-6)


# ------------------------------------------------------------------------------------------ again, and after a kill


def test_the_same_prices_again_change_nothing_that_serves(workspace: Workspace, copied: Any, watched: Any) -> None:
    """A retrain on the same prices adds no row and no figure, and the recipe that serves keeps its place, fitted anew.

    Another one after it finds nothing to do.
    """
    digest = PriceStore(copied.folder / "prices").digest()
    again = retrain(copied, watched)
    assert PriceStore(copied.folder / "prices").digest() == digest
    assert orjson.loads((copied.folder / "ingest.json").read_bytes())["added"] == 0
    assert (again.promoted.changed, again.promoted.model, again.promoted.version) == (True, "gru", 2)
    assert all(same_bits(tensors(copied, n), tensors(workspace.config, n)) for n in copied.models)
    assert {p.name for p in (copied.folder / "figures" / "comparison").iterdir()} == {
        p.name for p in again.compared.figures
    }
    crps = again.compared.decision.numbers
    assert crps["crps_incumbent"] == pytest.approx(crps["crps_gru"], rel=1e-6)
    before = {path.name: path.read_bytes() for path in (copied.folder / "champions").iterdir()}
    assert retrain(copied, watched).compared is None
    assert {path.name: path.read_bytes() for path in (copied.folder / "champions").iterdir()} == before


def test_a_killed_fit_goes_on_to_the_same_weights(copied: Any, workspace: Workspace) -> None:
    """SIGKILL in the middle, then the same verb: the weights, and a curve without a gap, of a fit never stopped."""
    longer = {"fit.training.epochs": 40, "fit.training.patience": 40}
    training = replace(copied.fit.training, epochs=40, patience=40)
    config = replace(copied, fit=replace(copied.fit, training=training))
    command = [STATECAST, "train", "gru", "-c", workspace.settings, "-f", copied.folder]
    command += [part for name, value in longer.items() for part in ("-s", f"{name}={value}")]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    while process.poll() is None and not epochs_done(copied.folder):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = epochs_done(copied.folder)
    assert 0 < done < 40
    resumed: list[int] = []
    steps.train(config, "gru", lambda record: resumed.append(record.epoch))
    assert done < resumed[0] + 1 <= done + 2
    facts = load_tensors(copied.folder / "models" / "gru.safetensors")[1]["about"]
    killed = tensors(config, "gru")
    fitted_anew(config, "gru")
    assert same_bits(killed, tensors(config, "gru"))
    epochs = [record["epoch"] for record in facts["records"]]
    assert epochs[-1] == 40
    assert len(epochs) >= 39  # a kill between the weights and the record of one epoch loses that record


def epochs_done(folder: Path) -> int:
    """Count the epochs whose record is on disk."""
    curves = list((folder / "progress").glob("gru-*.json"))
    return len(orjson.loads(curves[0].read_bytes())) if curves else 0


def fitted_anew(config: Any, name: str) -> None:
    """Fit a model of the same settings on the same prices once more."""
    steps.model_path(config, name).unlink()
    steps.train(config, name)


def fits(config: Any) -> dict[str, int]:
    """Give the moments at which models and forecasts were written."""
    written = [*config.folder.glob("models/*"), *config.folder.glob("forecasts/*/walk.json")]
    return {str(path): path.stat().st_mtime_ns for path in written}


def test_what_is_there_already_is_not_made_again(copied: Any, watched: Any) -> None:
    """The same retrain again fits nothing, walks nothing, and adds neither a run nor a version to MLflow."""
    tracker = Tracker(copied.tracking, copied.folder)
    first, before = retrain(copied, watched), fits(copied)
    versions = tracker.versions()
    (copied.folder / "prequential" / "state.json").unlink()  # as if it had died before its end
    again = retrain(copied, watched)
    assert fits(copied) == before
    assert again.run == first.run
    assert len(again.compared.rows) == len(first.compared.rows)
    assert tracker.versions() == versions


def test_a_fit_of_other_settings_or_code_is_made_again(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is taken as it is only where settings, prices and the version of the code are those of its fit."""
    before = fits(copied)
    steps.train(copied, "ar")
    assert fits(copied) == before
    monkeypatch.setattr(steps, "commit", lambda: "another")
    steps.train(copied, "ar")
    after = fits(copied)
    assert after != before
    steps.train(replace(copied, transform="asinh"), "ar")
    assert fits(copied) != after


def test_a_recording_that_was_killed_is_replaced(copied: Any) -> None:
    """What a kill leaves of a run in MLflow goes when the next recording begins; a whole one is not made twice."""
    client, parent, _ = mlflow_runs(copied)
    before = {run.info.run_id for run in client.search_runs([parent.info.experiment_id])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "_record_fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judging.record(copied)
    run = judging.record(copied)
    assert judging.record(copied) == run
    new = [run for run in client.search_runs([parent.info.experiment_id]) if run.info.run_id not in before]
    assert {r.info.run_id for r in new if "mlflow.parentRunId" not in r.data.tags} == {run}
    assert [r.data.tags["mlflow.parentRunId"] for r in new if r.info.run_id != run] == [run] * len(copied.models)


def interrupted(*_: Any) -> None:
    """End a step in its middle."""
    raise KeyboardInterrupt


def test_the_same_promotion_again_publishes_nothing(copied: Any) -> None:
    """A model that serves by the same file is not published again, nor registered."""
    first = promotion.promote(copied, "garch")
    again = promotion.promote(copied, "garch")
    assert (first.changed, again.changed) == (True, False)
    assert (again.version, again.sha256) == (first.version, first.sha256)
    assert "serves already" in again.reason
    versions = Tracker(copied.tracking, copied.folder).versions()
    assert len({(v.run_id, v.sha256) for v in versions}) == len(versions)


def test_garbage_in_the_future_leaves_every_model_bit_identical(workspace: Workspace, tmp_path: Path) -> None:
    """Prices of the test split replaced by others: fitted models are the same to the last bit."""
    cut = steps.load(workspace.config).split.validation_end_time
    rng = np.random.default_rng(3)
    rows = [
        (name, day, repr(float(rng.lognormal(5, 2))) if np.datetime64(day, "us").astype(int) >= cut else price)
        for name, day, price in simulated_rows()
    ]
    changed = sum(a != b for a, b in zip(rows, simulated_rows(), strict=True))
    csv = write_csv(tmp_path / "prices.csv", rows)
    config = replace(workspace.config, folder=tmp_path, ingest=replace(workspace.config.ingest, paths=(str(csv),)))
    steps.ingest(config)
    assert changed == 420
    for name in config.models:
        steps.train(config, name)
        assert same_bits(tensors(config, name), tensors(workspace.config, name)), name


# ------------------------------------------------------------------------------------------------------- who serves


def test_a_model_is_promoted_by_name_and_taken_back(workspace: Workspace, copied: Any) -> None:
    """The named model serves whatever the decision was; a rollback brings the former file under a new version."""
    named = promotion.promote(copied, "garch")
    assert (named.model, named.version, named.changed) == ("garch", 2, True)
    assert Session.load(named.file, named.sha256).metadata.name == "garch"
    current = Tracker(copied.tracking, copied.folder).current("champion")
    assert current is not None
    assert current.sha256 == named.sha256
    back = promotion.rollback(copied)
    assert (back.model, back.version, back.sha256) == ("gru", 3, workspace.result.promoted.sha256)


def test_only_what_was_judged_is_promoted(copied: Any) -> None:
    """A model that was trained after the comparison, or was not in it, is refused with the verb to run."""
    fitted_anew(copied, "gru")
    with pytest.raises(
        IntegrityError, match=r"gru was trained again .* `statecast backtest gru` and `statecast compare`"
    ):
        promotion.promote(copied)
    with pytest.raises(ConfigError, match=r"unknown compared model 'lstm'.*Known: ar, garch, gru, last_value"):
        promotion.promote(copied, "lstm")


def test_forecasts_go_with_their_model(copied: Any) -> None:
    """A model fitted anew cannot be compared by the forecasts of the one before it."""
    fitted_anew(copied, "ar")
    with pytest.raises(DataError, match=r"forecasts/ar: .*Run `statecast backtest` first"):
        judging.compare(copied)


def test_a_comparison_leaves_the_pictures_of_others_alone(copied: Any) -> None:
    """What `data plot` and `inspect` have drawn stays; figures of the comparison before go."""
    drawn, old = copied.folder / "figures/AAA.png", copied.folder / "figures/comparison/old.png"
    for path in (drawn, old):
        path.write_bytes(b"picture")
    judging.compare(copied)
    assert drawn.exists()
    assert not old.exists()


def test_a_moment_is_told_to_the_microsecond() -> None:
    """A cut inside a second stays inside it: what lies after it is told from what lies before."""
    assert steps.iso(1_704_067_200_000_000) == "2024-01-01T00:00:00Z"
    assert steps.iso(1_704_067_200_000_001) == "2024-01-01T00:00:00.000001Z"


def test_forecasts_of_other_settings_are_not_compared(copied: Any) -> None:
    """Another split or refit rule than that of the walk is refused; settings that it does not depend on are not."""
    other = replace(copied, split=replace(copied.split, test=0.3))
    with pytest.raises(DataError, match="other settings of split"):
        judging.compare(other)
    with pytest.raises(DataError, match="backtest than now"):
        judging.compare(replace(copied, backtest=BacktestConfig(gap=1)))
    judging.compare(replace(copied, models=("last_value", "ar")))


def test_new_prices_ask_for_a_new_walk_and_no_new_fit(copied: Any, tmp_path: Path) -> None:
    """Forecasts of other prices than those of now are refused; walked on, the models as they stand are compared."""
    days = [str(FIRST_DAY + 700 + k) for k in range(5)]
    new = write_csv(tmp_path / "new.csv", [(name, day, "100.0") for name in NAMES for day in days])
    config = replace(copied, ingest=replace(copied.ingest, paths=(str(new),)))
    written = steps.ingest(config).written
    assert written is not None
    assert written.added == 15
    with pytest.raises(
        DataError, match=r"forecasts of last_value were made with other prices.*`statecast backtest last_value` again"
    ):
        judging.compare(config)
    counts = {len(steps.backtest(config, name)) for name in config.models}
    assert counts == {435}
    assert judging.compare(config).decision.numbers.keys() >= {"crps_incumbent", "crps_gru"}


def test_a_champion_is_judged_fairly_on_another_scale(copied: Any) -> None:
    """After a change to the asinh scale a champion in log returns beats the AR as it did before."""
    config = replace(copied, models=("last_value", "ar"), transform="asinh")
    for name in config.models:
        steps.train(config, name)
        steps.backtest(config, name)
    numbers = judging.compare(config).decision.numbers
    before = orjson.loads((copied.folder.parent / "data" / "comparison.json").read_bytes())
    assert before["decision"]["model"] == judging.INCUMBENT
    assert 0.9 < numbers["crps_incumbent"] / numbers["crps_ar"] < 0.99


@pytest.mark.parametrize("transform", [LogReturn(), AsinhDifference(torch.full((4,), 90.0), torch.full((4,), 20.0))])
def test_a_density_restated_keeps_its_median_and_quartile_range(workspace: Workspace, transform: Any) -> None:
    """On any scale the restated density has the median of the price quantiles, and their quartile range."""
    forecasts = archive.load(workspace.folder / "forecasts" / "gru")
    restated = judging.on_scale(forecasts, transform)
    rows, origin = torch.tensor(forecasts.series) + 1, torch.tensor(forecasts.origin)[:, None]
    low, median, high = (
        transform.difference(torch.tensor(forecasts.quantile[:, [LEVELS.index(q)]]), origin, rows).numpy()[:, 0]
        for q in (0.25, 0.5, 0.75)
    )
    np.testing.assert_array_equal(restated.loc, median)
    width = restated.scale * (stats.t.ppf(0.75, forecasts.df) - stats.t.ppf(0.25, forecasts.df))
    np.testing.assert_allclose(width, high - low, rtol=1e-12)


# --------------------------------------------------------------------------------------------------- what is refused


def test_a_price_of_zero_is_named_by_series_and_time(workspace: Workspace, tmp_path: Path) -> None:
    """The log transform refuses it, and says which one it is and what can be done; each of these works."""
    rows = simulated_rows()
    rows[HOLE] = (*rows[HOLE][:2], "0.0")
    csv = write_csv(tmp_path / "prices.csv", rows)
    ingest = replace(
        workspace.config.ingest, paths=(str(csv),), policy=replace(workspace.config.ingest.policy, non_positive="keep")
    )
    config = replace(workspace.config, folder=tmp_path, ingest=ingest)
    steps.ingest(config)
    said = r"got 1 .* first AAA at 2021-02-04T00:00:00Z = 0.0.*'asinh'.*\['AAA'\].*ingest\.policy\.non_positive"
    with pytest.raises(PolicyError, match=said):
        steps.train(config, "last_value")
    dropped = replace(ingest, policy=replace(ingest.policy, non_positive="drop"))
    anew = replace(config, folder=tmp_path / "new", ingest=dropped)
    steps.ingest(anew)
    for advised in (replace(config, transform="asinh"), replace(config, leave_out=("AAA",)), anew):
        steps.train(advised, "last_value")


def test_a_series_that_came_after_the_fit_is_refused(copied: Any, tmp_path: Path) -> None:
    """A model walks only over the series that it was fitted on; the message has both lists and the verb."""
    rows = [("NEW", day, price) for name, day, price in simulated_rows() if name == "BBB"]
    config = replace(copied, ingest=replace(copied.ingest, paths=(str(write_csv(tmp_path / "new.csv", rows)),)))
    steps.ingest(config)
    with pytest.raises(DataError, match=r"'CCC'\], but store and settings .*'NEW'\]. Run `statecast train gru` again"):
        steps.backtest(config, "gru")


@pytest.mark.parametrize(
    ("gone", "step", "says"),
    [
        ("prices/prices/manifest.json", lambda c: steps.train(c, "ar"), "Ingest prices into it first"),
        ("models/ar.safetensors", lambda c: steps.backtest(c, "ar"), "ar is not trained.*`statecast train ar`"),
        ("forecasts/ar/fold=0000/part-00000.parquet", judging.compare, "Run `statecast backtest` first"),
        ("comparison.json", judging.record, "`statecast compare` leaves"),
        ("comparison.json", promotion.promote, "`statecast compare` leaves"),
        ("runs.json", promotion.promote, "`statecast compare` leaves"),
    ],
)
def test_a_missing_step_is_named_by_its_verb(copied: Any, gone: str, step: Any, says: str) -> None:
    """What an earlier step should have left is asked for by the command that makes it."""
    (copied.folder / gone).unlink()
    with pytest.raises((DataError, ConfigError), match=says):
        step(copied)


def test_a_mistyped_model_is_met_with_the_nearest_name(copied: Any) -> None:
    """The name is told apart from one that is not trained yet."""
    with pytest.raises(ConfigError, match="did you mean 'garch'"):
        steps.backtest(copied, "grach")
    with pytest.raises(ConfigError, match="lstm is not trained; there are: ar, garch, gru, last_value"):
        steps.backtest(copied, "lstm")


def test_fitted_models_know_their_data(workspace: Workspace) -> None:
    """Each model file carries the digest of its prices, the split and the settings of its fit."""
    data = steps.load(workspace.config)
    for name in workspace.config.models:
        about = steps.load_model(workspace.config, name)[1]
        assert about["data_sha256"] == data.sha256
        assert about["split"] == asdict(data.split)
        assert about["config"]["training"]["epochs"] == 3


def test_parts_share_the_series_out(copied: Any) -> None:
    """Every series is in one part, whatever else is in it, and a part that gets none says so."""
    assert steps.load(replace(copied, part=(0, 3))).panel.names == ("BBB", "CCC")
    assert steps.load(replace(copied, part=(1, 3))).panel.names == ("AAA",)
    assert steps.load(replace(copied, part=(0, 3), series=("C*",))).panel.names == ("CCC",)
    with pytest.raises(ConfigError, match="part: none of 3 series falls into part 2 of 3"):
        steps.load(replace(copied, part=(2, 3)))


def test_scores_of_many_series_are_no_metrics(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of series a run has the pooled scores as metrics, and those of each series in a file."""
    monkeypatch.setattr(judging, "SCORED", len(NAMES) - 1)
    judging.record(copied)
    _, parent, children = mlflow_runs(copied)
    assert {"crps", "rmae"} <= set(children["ar"].data.metrics)
    assert not [name for name in children["ar"].data.metrics if name.endswith(NAMES)]
    assert parent.data.metrics["crps"] > 0
