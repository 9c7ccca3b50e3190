"""What a retrain does, step by step, from files to files: so each step can be run, repeated and resumed alone.

    ingest    the files named in the settings          -> price store
    train     price store                              -> models/<name>.safetensors
    backtest  price store, model                       -> forecasts/<name>/, folds/<name>/
    compare   forecasts of all models                  -> comparison.json, figures/
    record    all of these                             -> MLflow
    promote   comparison, models                       -> ONNX files, registry, champions folder

Comes in: `Config`. Goes out: files in its data folder, each written whole or not at all, and a small result to
print. Imported by the flows and the command line.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from scipy import stats

from models import checkpoint
from models.errors import ConfigError, DataError, IntegrityError, PolicyError, unknown
from models.forecaster import Forecaster
from models.observation import LEVELS
from models.transforms import Transform, fit_transform
from pipeline import archive, champions, figures, folds, metrics, settings
from pipeline.atomic import replacing
from pipeline.backtest import Fold, seen, walk_session_forward
from pipeline.compare import Decision, Row, champion, comparison_table
from pipeline.config import Config
from pipeline.covariates import with_covariates
from pipeline.downstream import Outdated, outdated
from pipeline.export import Provenance, export
from pipeline.fitting import MODELS, fit, naming_the_series
from pipeline.forecasts import Forecasts
from pipeline.ingest import RefusedError
from pipeline.ingest import ingest as read_prices
from pipeline.prices import PriceStore
from pipeline.prices import digest as digest_of
from pipeline.report import IngestReport
from pipeline.tracking import Tracker
from pipeline.training import EpochRecord, resolve_device
from pipeline.vintages import WriteResult
from pipeline.windows import Panel, Split, panel, split

INCUMBENT = "incumbent"
"""Name in the comparison of the champion that serves now, judged by its own file."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Prices in the store, ready for models, and how they are split."""

    panel: Panel
    split: Split
    transform: Transform
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What was read and found, what was written (None in a dry run), and what that makes out of date."""

    report: IngestReport
    written: WriteResult | None
    outdated: list[Outdated]


def ingest(config: Config, on_step: Callable[[str], None] = lambda _: None, *, dry: bool = False) -> Ingested:
    """Read the prices named in the settings through their policies, and add what is new to the store.

    The report goes to ingest.json, also where a policy refuses the prices.
    """
    account = config.folder / "ingest.json"
    try:
        report, written = read_prices(config.ingest, PriceStore(config.folder / "prices"), on_step, dry=dry)
    except RefusedError as refused:
        _write_json(account, {"refused": str(refused), "report": refused.report})
        raise
    if written is None:
        return Ingested(report=report, written=None, outdated=[])
    affected = outdated(config.folder, written.revised, config.champion, came=datetime.now(UTC))
    counts = {"added": written.added, "unchanged": written.unchanged, "revisions": written.revisions}
    _write_json(account, counts | {"outdated": affected, "report": report})
    return Ingested(report=report, written=written, outdated=affected)


def load(config: Config) -> Data:
    """Read the store, cut it into train, validation and test, and fit the transform on train.

    Raises
    ------
    ConfigError
        A covariate of the settings is not in the store.
    PolicyError
        The log transform meets a price that is not above zero.
    """
    store = PriceStore(config.folder / "prices")
    frame = store.read(_modelled(config, store), known_at=config.known_at_time)
    columns = (frame["series_id"].to_numpy(), frame["time"].to_physical().to_numpy(), frame["price"].to_numpy())
    prices = panel(*columns)
    _refuse_non_positive(prices, config)
    parts = split(prices, config.split)
    train = prices.before(parts.train_end_time)
    published = [price[mask] for price, mask in zip(train.price, train.mask, strict=True)]
    with naming_the_series(train.names):
        transform = fit_transform(config.transform, published)
    prices, sha256 = _covered(config, store, prices, parts.train_end_time, digest_of(frame))
    return Data(panel=prices, split=parts, transform=transform, sha256=sha256)


def _covered(config: Config, store: PriceStore, prices: Panel, until: int, sha256: str) -> tuple[Panel, str]:
    """Put the covariates of the settings beside the prices; the digest is then of both."""
    if not (config.past or config.ahead):
        return prices, sha256
    shape = {"past": config.past, "ahead": config.ahead, "horizon": config.fit.horizon}
    covered, beside = with_covariates(prices, store, **shape, until=until, known_at=config.known_at_time)
    return covered, hashlib.sha256(orjson.dumps([sha256, beside, config.past, config.ahead])).hexdigest()


def _modelled(config: Config, store: PriceStore) -> list[str]:
    """Name the series of the store that are not left out."""
    held = store.series()["series_id"].to_list()
    for name in config.leave_out:
        if name not in held:
            raise ConfigError(f"leave_out: {unknown('series', name, held)}")
    return [name for name in held if name not in config.leave_out]


def _refuse_non_positive(prices: Panel, config: Config) -> None:
    if config.transform != "log" or not (bad := prices.mask & ~(prices.price > 0)).any():
        return
    row, column = np.argwhere(bad)[0]
    raise PolicyError(
        f"log transform: expected prices above zero, got {int(bad.sum())} that are not, first {prices.names[row]} at "
        f"{iso(int(prices.time[row, column]))} = {prices.price[row, column]}. Set transform to 'asinh', or "
        "ingest.non_positive to 'drop'"
    )


def train(config: Config, name: str, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> float:
    """Fit one model and save it; give the seconds that it took.

    A network's fit in progress is kept after every epoch, and goes on from there if the process died. Forecasts
    of the model that was there before go with it.
    """
    data = load(config)
    progress = config.folder / "progress" / f"{name}-{_fit_key(config, data)}.safetensors"
    forecaster, about = _fit(config, data, name, data.split, data.transform, progress, on_epoch)
    folds.forget(config.folder, name)
    checkpoint.save(forecaster, _model_path(config, name), about)
    for path in progress.parent.glob(f"{name}-*"):
        path.unlink()
    return about["seconds"]


def _fit(
    config: Config,
    data: Data,
    name: str,
    parts: Split,
    transform: Transform,
    progress: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    start: Forecaster | None = None,
) -> tuple[Forecaster, dict[str, Any]]:
    """Fit one model, with its progress kept, and say all that is to be known of the fit."""
    curve = progress.with_suffix(".json")
    records = _read_json(curve, "train") if progress.exists() and curve.exists() else []

    def note(record: EpochRecord) -> None:
        records.append(asdict(record))
        _write_json(curve, records)
        on_epoch(record)

    started = time.perf_counter()
    how = {"checkpoint": progress, "on_epoch": note, "start": start}
    forecaster = fit(name, data.panel, parts, transform, config.fit, **how)
    return forecaster, {
        "series": data.panel.names,
        "data_sha256": data.sha256,
        "split": asdict(parts),
        "seconds": time.perf_counter() - started,
        "commit": commit(),
        "config": settings.to_dict(config.fit),
        "records": records,
    }


def _fit_key(config: Config, data: Data) -> str:
    """Name what a fit depends on: with any of it changed, a fit in progress is begun anew."""
    parts = (settings.digest(config.fit), settings.digest(config.split), data.sha256)
    return "-".join((config.transform, *(part[:8] for part in parts)))


def _model_path(config: Config, name: str) -> Path:
    return config.folder / "models" / f"{name}.safetensors"


def _serving_path(config: Config, name: str) -> Path:
    """Give the file of the fit that serves at the end of a model's walk; without a whole walk, the trained one."""
    serving = folds.account(config.folder, name).get("serving")
    return config.folder / serving if serving else _model_path(config, name)


def load_model(config: Config, name: str) -> tuple[Forecaster, dict[str, Any]]:
    """Read a trained model, as refitted last where it was walked forward with refits.

    Raises
    ------
    ConfigError
        There is no model of that name, or it was not trained; those that were are listed.
    """
    _trained(config, name)
    return checkpoint.load(_serving_path(config, name))


def _trained(config: Config, name: str) -> Path:
    """Give the file of a trained model, which must be there."""
    if name not in MODELS:
        raise ConfigError(unknown("model", name, MODELS))
    path = _model_path(config, name)
    if not path.exists():
        trained = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
        raise ConfigError(
            f"{path}: {name} is not trained; there are: {trained or 'none'}. Run `statecast train {name}`"
        )
    return path


def backtest(config: Config, name: str, on_fold: Callable[[int], None] = lambda _: None) -> Forecasts:
    """Walk a trained model over the test split that its fit has not seen, refit on the way, and keep the forecasts.

    Every fold is kept when it is done, with its fit: a walk that was killed goes on from there to the same table. With
    other prices, settings or another model it begins anew. `on_fold` is told the number of refits done.

    Raises
    ------
    DataError
        The series in the store are not those of the fit.
    """
    trained = _trained(config, name)
    forecaster, about = checkpoint.load(trained)
    data = load(config)
    if tuple(about["series"]) != data.panel.names:
        raise DataError(
            f"backtest of {name}: fitted on {list(about['series'])}, but the store holds {list(data.panel.names)}. "
            f"Run `statecast train {name}` again"
        )
    key = _walk_key(config, data, trained)

    def refit(fold: Fold, before: Forecaster, path: Path) -> None:
        _refit(config, data, name, fold, before, path, key)

    folds.KeptWalk(
        folder=config.folder,
        name=name,
        panel=data.panel,
        origins=Split(**about["split"]).origins(data.panel, "test"),
        first=forecaster,
        trained=trained,
        seconds=about["seconds"],
        refit=refit,
        on_fold=on_fold,
    ).run(key, config.backtest)
    return archive.load(folds.rows_of(config.folder, name))


def _walk_key(config: Config, data: Data, trained: Path) -> str:
    """Name what a walk depends on: with any of it changed, it begins anew."""
    depends = [settings.digest(part) for part in (config.backtest, config.split, config.fit)]
    return hashlib.sha256(" ".join([*depends, data.sha256, _sha256(trained)]).encode()).hexdigest()


def _refit(config: Config, data: Data, name: str, fold: Fold, before: Forecaster, path: Path, key: str) -> None:
    """Fit one model again for a fold of its walk, on the scale of the fit before, and save it."""
    assert fold.cut_time is not None
    panel, parts = seen(data.panel, fold.cut_time, config.backtest, config.split)
    progress = config.folder / "progress" / f"{name}-fold-{fold.number:04}-{key[:16]}.safetensors"
    start = before if config.backtest.start == "warm" else None
    data = replace(data, panel=panel)
    forecaster, about = _fit(config, data, name, parts, before.transform, progress, start=start)
    checkpoint.save(forecaster, path, about | {"why": fold.why})
    for left in (progress, progress.with_suffix(".json")):
        left.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The table, the decision, and where the figures are."""

    rows: list[Row]
    decision: Decision
    figures: list[Path]


def compare(config: Config) -> Compared:
    """Score and judge all models of the settings on identical origins, decide who serves, and draw figures.

    Raises
    ------
    DataError
        A model was not walked forward over the prices that the store holds now.
    """
    data = load(config)
    forecasts = [_forecasts(config, data, name) for name in config.models]
    rows = comparison_table(forecasts, _naive_scale(data), config.compare)
    served = _incumbent(config, data, forecasts[0])
    decision = champion([*forecasts, *served], INCUMBENT if served else None, config.compare)
    drawn = _draw(config, [*forecasts, *served], decision)
    _write_json(
        config.folder / "comparison.json",
        {
            "rows": [asdict(r) for r in rows],
            "decision": asdict(decision),
            "data_sha256": data.sha256,
            "models": {name: _sha256(_serving_path(config, name)) for name in config.models},
        },
    )
    return Compared(rows=rows, decision=decision, figures=drawn)


def _forecasts(config: Config, data: Data, name: str) -> Forecasts:
    """Read the forecasts of a model, which must reach to the last price."""
    forecasts = archive.load(folds.rows_of(config.folder, name))
    if folds.account(config.folder, name).get("serving") is None:
        raise DataError(f"compare: {name} was not walked to the end. Run `statecast backtest {name}` again")
    reach, last = int(forecasts.target_time.max()), int(data.panel.time[data.panel.mask].max())
    if reach != last:
        raise DataError(
            f"compare: the forecasts of {name} end at {iso(reach)}, the prices in the store at {iso(last)}. Run "
            f"`statecast backtest {name}` again, or `statecast retrain`"
        )
    return forecasts


def _naive_scale(data: Data) -> dict[str, float]:
    before = data.panel.before(data.split.train_end_time)
    return {name: metrics.naive_scale(before.price[k]) for k, name in enumerate(before.names)}


def _incumbent(config: Config, data: Data, like: Forecasts) -> list[Forecasts]:
    """Forecast with the file that serves now, on the rows that are compared; nothing where none serves."""
    folder = config.folder / "champions"
    if not (folder / f"{config.champion}.json").exists():
        return []
    session = champions.load(folder, config.champion)
    origins = replace(data.split, validation_end_time=int(like.target_time.min())).origins(data.panel, "test")
    served = walk_session_forward(session, INCUMBENT, data.transform, data.panel, origins)
    same = session.metadata.transform == data.transform.describe()
    return [served if same else on_scale(served, data.transform)]


def on_scale(forecasts: Forecasts, transform: Transform) -> Forecasts:
    """Restate densities on the scale of another transform, so that their median and quartiles stay the same prices.

    A champion has the scale of its own fit: the asinh of prices depends on the train split, and the kind of
    transform may have changed. Outcomes are on the scale of `transform` already.
    """
    rows, origin = torch.tensor(forecasts.series, dtype=torch.int64) + 1, torch.tensor(forecasts.origin)[:, None]
    quartiles = torch.tensor(forecasts.quantile[:, [LEVELS.index(q) for q in (0.25, 0.5, 0.75)]])
    low, median, high = transform.difference(quartiles, origin, rows).numpy().T
    unit = 2 * stats.t.ppf(0.75, np.where(np.isinf(forecasts.df), 1e9, forecasts.df))
    return replace(forecasts, loc=median, scale=(high - low) / unit)


def _draw(config: Config, forecasts: list[Forecasts], decision: Decision) -> list[Path]:
    """Draw the skill of all models, and calibration and fans of the one that is to serve; older figures go."""
    folder = config.folder / "figures"
    for old in folder.glob("*.png"):
        old.unlink()
    chosen = next(f for f in forecasts if f.model == decision.model)
    drawn = {"skill": figures.skill_over_time(forecasts, config.compare.last_value)}
    drawn[f"calibration-{chosen.model}"] = figures.calibration(chosen)
    for name in chosen.names[:5]:
        drawn[f"fan-{chosen.model}-{name}"] = figures.fan_chart(chosen.of(name))
    return [figures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def record(config: Config) -> str:
    """Log the comparison to MLflow: a parent run, and a child for each model; give the parent's id."""
    comparison = _read_json(config.folder / "comparison.json", "compare")
    data = load(config)
    tags = {
        "data_sha256": data.sha256,
        "data_start": iso(int(data.panel.time[:, 0].min())),
        "data_end": iso(int(data.panel.time.max())),
        "commit": commit(),
        "seed": config.fit.training.seed,
        "device": resolve_device(config.fit.training.device).type,
        "decision": comparison["decision"]["reason"],
    }
    children = {}
    tracker = Tracker(config.tracking, config.folder)
    with tracker.retrain(settings.flat(config), tags) as parent:
        parent.json(comparison, "comparison.json")
        if (account := config.folder / "ingest.json").exists():
            parent.file(account)
        parent.json(settings.to_dict(config), "config.json")
        parent.scores({metrics.POOLED: _pooled_scores(comparison)})
        for path in sorted((config.folder / "figures").glob("*.png")):
            parent.file(path, "figures")
        for name in config.models:
            with parent.model(name, {"model": name}) as child:
                _record_model(config, child, name, comparison)
                children[name] = child.id
    _write_json(config.folder / "runs.json", {"parent": parent.id, "models": children})
    return parent.id


def _pooled_scores(comparison: dict[str, Any]) -> dict[str, float]:
    """Give the pooled scores of the model that is to serve, by which retrains can be sorted; none for an incumbent."""
    chosen = comparison["decision"]["model"]
    rows = (r for r in comparison["rows"] if (r["model"], r["series"]) == (chosen, metrics.POOLED))
    return next((r["scores"] for r in rows), {})


def _record_model(config: Config, child: Any, name: str, comparison: dict[str, Any]) -> None:
    """Log one model: its settings, its training curves, its scores by series and pooled, its own parameters."""
    forecaster, about = load_model(config, name)
    child.tags({"kind": forecaster.kind, "seconds": about["seconds"], "commit": about["commit"]})
    if about["records"]:
        child.curve(
            {"step": r["epoch"], **{k: r[k] for k in ("train_loss", "validation_loss")}} for r in about["records"]
        )
        curve = [(r["epoch"], r["train_loss"], r["validation_loss"]) for r in about["records"]]
        child.figure(figures.loss_curves(curve, model=name, series=", ".join(about["series"])), "figures/loss.png")
    child.scores({r["series"]: r["scores"] for r in comparison["rows"] if r["model"] == name})
    child.json({r["series"]: r["verdict"] for r in comparison["rows"] if r["model"] == name}, "verdicts.json")
    if not about["records"]:
        tables = {k.removeprefix("core."): v.tolist() for k, v in forecaster.state_dict().items()}
        child.json({"rows": ["pooled", *about["series"]], "parameters": tables}, "parameters.json")
    child.file(_serving_path(config, name), "model")


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """Which model serves, its file, whether it is new, and why."""

    model: str
    file: Path
    sha256: str
    version: int
    changed: bool
    reason: str


def promote(config: Config, name: str | None = None) -> Promoted:
    """Export the chosen model through the parity gate, register it, and publish it to the champions folder.

    Without a name the decision of the last comparison is carried out; when the incumbent keeps its place,
    nothing changes.

    Raises
    ------
    ConfigError
        The model was not among those of the last comparison.
    IntegrityError
        The chosen model was trained again after the comparison.
    """
    comparison = _read_json(config.folder / "comparison.json", "compare")
    decision = Decision(**comparison["decision"])
    reason = decision.reason if name is None else f"{name} was named by hand"
    chosen = name or decision.model
    folder = config.folder / "champions"
    if chosen == INCUMBENT:
        return _promoted(folder, champions.current(folder, config.champion), changed=False, reason=reason)
    _check_judged(config, chosen, comparison["models"])
    runs = _read_json(config.folder / "runs.json", "compare")["models"]
    exported = config.folder / "exports" / f"{chosen}.onnx"
    export_model(config, chosen, exported)
    _register(config, chosen, decision, exported, runs)
    published = champions.publish(folder, config.champion, exported, {"model": chosen, "reason": reason})
    return _promoted(folder, published, changed=True, reason=reason)


def rollback(config: Config) -> Promoted:
    """Let the champion before the current one serve again; the registry keeps its aliases."""
    folder = config.folder / "champions"
    published = champions.rollback(folder, config.champion)
    return _promoted(folder, published, changed=True, reason="the champion before it was taken back")


def _promoted(folder: Path, serving: champions.Published, *, changed: bool, reason: str) -> Promoted:
    return Promoted(
        model=str(serving.fields.get("model", INCUMBENT)),
        file=folder / serving.file,
        sha256=serving.sha256,
        version=serving.version,
        changed=changed,
        reason=reason,
    )


def _check_judged(config: Config, name: str, judged: dict[str, str]) -> None:
    """Refuse a model that is not the one that was compared."""
    if name not in judged:
        raise ConfigError(f"promote: {unknown('compared model', name, judged)}. Run `statecast compare` with it first")
    if _sha256(_serving_path(config, name)) != judged[name]:
        raise IntegrityError(
            f"promote: {name} was trained again or refitted after the comparison. Run `statecast backtest {name}` and "
            "`statecast compare` first"
        )


def _register(config: Config, chosen: str, decision: Decision, exported: Path, runs: dict[str, str]) -> None:
    """Register champion and challenger in MLflow, under the runs that recorded them."""
    tracker = Tracker(config.tracking, config.folder)
    champion_version = tracker.log_model(tracker.run(runs[chosen]), exported, {"model": chosen})
    rival = decision.challenger if chosen == decision.model else decision.model
    second = None
    if rival is not None and rival in runs and rival != chosen:
        path = exported.with_name(f"{rival}.onnx")
        export_model(config, rival, path)
        second = tracker.log_model(tracker.run(runs[rival]), path, {"model": rival}).number
    tracker.set_aliases(champion_version.number, second)


def export_model(config: Config, name: str, path: Path) -> None:
    """Export a trained model as one ONNX file, through the parity gate."""
    forecaster, about = load_model(config, name)
    data = load(config)
    provenance = Provenance(
        series=tuple(about["series"]),
        grid=data.panel.grid,
        cutoff_time=iso(about["split"]["validation_end_time"]),
        data_sha256=about["data_sha256"],
        commit=about["commit"],
        config=about["config"],
    )
    export(forecaster, provenance, path)


def iso(microseconds: int) -> str:
    """Write a moment as ISO 8601 in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """Name the version of the code: the git commit where there is one, else that of the package."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return f"statecast {version('statecast')}"
    return found.stdout.strip()


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def _read_json(path: Path, verb: str) -> Any:
    """Read what a step has left; `verb` is the command that makes it."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path}: expected what `statecast {verb}` leaves, got {error}. Run it first") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
