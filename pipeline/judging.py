"""Judge all models of a run on identical origins, tell it on a page, and log it: what `compare` does.

    compare   forecasts of all models, price store     -> comparison.json, comparison.html, figures/comparison/
    record    all of these                             -> MLflow

Comes in: `Config`. Goes out: files in its data folder, and a small result to print. Imported by the flows and the
command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from models import checkpoint
from models.conformal import Conformal
from models.errors import DataError
from models.forecaster import Forecaster
from models.network import Network
from models.observation import LEVELS
from models.transforms import Transform
from pipeline import archive, champions, figures, folds, metrics, settings
from pipeline.atomic import replacing
from pipeline.backtest import BacktestConfig, walk_session_forward
from pipeline.compare import CompareConfig, Decision, Row, best_set, champion, comparison_table, fewest_origins
from pipeline.config import Config
from pipeline.cost import Cost, measure
from pipeline.forecasts import Forecasts
from pipeline.metrics import POOLED, Scores
from pipeline.page import Content, drawn, page
from pipeline.passes import BEGINNING
from pipeline.slices import label, regimes, sliced
from pipeline.steps import (
    Data,
    commit,
    iso,
    load,
    move_scales,
    naive_scales,
    provenance,
    read_json,
    serving_path,
    sha256_of,
    walk_key,
    write_json,
)
from pipeline.tracking import Run, Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCUMBENT = "incumbent"
"""Name in the comparison of the champion that serves now, judged by its own file."""

SLICES = ("step", "hour", "regime")
"""What scores are sliced by on the page, where it makes more than one slice."""

CALIBRATION = {
    "off": "none",
    "split": "offsets fixed on the validation split",
    "first": "offsets follow the outcomes of the next step",
    "all": "offsets follow the outcomes of every step",
}
"""What is done to quantiles, in words."""

FIGURES = "figures/comparison"
"""Where the figures of the page are as PNG; beside it lie those that were asked for one by one."""

LOSSES = {"t": "mean negative log-likelihood (nats)", "quantile": "mean pinball loss (running scales)"}
"""What a network's fit makes small, by its head."""

SCORED = 200
"""Most series whose scores are metrics of MLflow, at half a millisecond each; beyond it only those of sets and pooled
are, and comparison.json in the run has the rest."""

POINTS = 200
"""Most points of the curve of saved CRPS that is logged."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The table, the best set, the decision, and where the page and its figures are."""

    rows: list[Row]
    best: dict[str, float]
    decision: Decision
    page: Path
    figures: list[Path]


def compare(config: Config) -> Compared:
    """Score and judge all models of the settings on identical origins, decide who serves, and write the page.

    Raises
    ------
    DataError
        A model was not walked forward over the prices that the store holds now.
    """
    data = load(config)
    forecasts = [_forecasts(config, data, name) for name in config.models]
    served, seen = _incumbent(config, data, forecasts[0])
    decision = decide(forecasts, served, seen, config.compare, move_scales(data))
    fits = {name: serving_path(config, name) for name in config.models}
    return tell(config, data, forecasts, served, decision, fits)


def tell(
    config: Config,
    data: Data,
    forecasts: Sequence[Forecasts],
    served: Sequence[Forecasts],
    decision: Decision,
    fits: Mapping[str, Path],
) -> Compared:
    """Score and judge models on their rows, and write the page around a decision.

    Parameters
    ----------
    forecasts : sequence of Forecasts
        One a model of the settings, on the same rows.
    served : sequence of Forecasts
        Those of the incumbent on the same rows, or nothing.
    fits : mapping of str to Path
        By model, the file of the fit that is exported if the model is promoted, inside the data folder.
    """
    scale = naive_scales(data)
    rows = comparison_table(forecasts, scale, config.compare)
    content = Content(
        title=f"{len(forecasts)} models on {len(data.panel.names)} series",
        facts=_facts(config, data, forecasts[0]),
        rows=rows,
        decision=decision,
        best=best_set(forecasts, config.compare),
        forecasts=[*forecasts, *served],
        slices=_slices(forecasts, data, scale),
        refits={name: _refits(config, name) for name in config.models},
        costs={name: _cost(config, name, fits[name]) for name in config.models},
        reference=config.compare.last_value,
        alpha=config.compare.alpha,
    )
    pictures = drawn(content)
    write_json(config.folder / "comparison.json", _account(config, data, content, fits))
    with replacing(config.folder / "comparison.html") as file:
        file.write(page(content, pictures).encode())
    return Compared(
        rows=rows,
        best=dict(content.best),
        decision=content.decision,
        page=config.folder / "comparison.html",
        figures=_save_figures(config.folder / FIGURES, pictures),
    )


def decided(config: Config) -> Decision:
    """Give the decision of the last comparison."""
    return Decision(**read_json(config.folder / "comparison.json", "compare")["decision"])


def judged_fit(config: Config, name: str, comparison: Mapping[str, Any]) -> Path:
    """Give the file of the fit of a model that was compared."""
    return config.folder / comparison["fits"][name]


def _account(config: Config, data: Data, content: Content, fits: Mapping[str, Path]) -> dict[str, Any]:
    """Put the comparison into plain types, with the digests of what was judged."""
    return {
        "rows": [asdict(r) for r in content.rows],
        "best": content.best,
        "decision": asdict(content.decision),
        "slices": content.slices,
        "refits": content.refits,
        "costs": {name: asdict(cost) for name, cost in content.costs.items()},
        "saved": _saved(content.forecasts, content.reference),
        "facts": content.facts,
        "data_sha256": data.sha256,
        "models": {name: sha256_of(path) for name, path in fits.items()},
        "fits": {name: str(path.relative_to(config.folder)) for name, path in fits.items()},
    }


def _save_figures(folder: Path, pictures: Mapping[str, Figure]) -> list[Path]:
    """Write the figures of the page as PNG; older ones go."""
    for old in folder.glob("*.png"):
        old.unlink()
    return [figures.save(figure, folder / f"{name}.png") for name, figure in pictures.items()]


def _forecasts(config: Config, data: Data, name: str) -> Forecasts:
    """Read the forecasts of a model, which must be of the prices, the settings and the fit that are there now."""
    forecasts, walked = archive.load(folds.rows_of(config.folder, name)), folds.account(config.folder, name)
    if walked.get("serving") is None:
        raise DataError(f"compare: {name} was not walked to the end. Run `statecast backtest {name}` again")
    if walked["key"] != walk_key(config, data, name):
        raise DataError(
            f"compare: the forecasts of {name} were made with other prices, another fit, or other settings of split, "
            f"transform or backtest than now. Run `statecast backtest {name}` again, or `statecast retrain`"
        )
    return forecasts


def decide(
    forecasts: Sequence[Forecasts],
    served: Sequence[Forecasts],
    seen: int,
    config: CompareConfig | None = None,
    scales: Mapping[str, float] | None = None,
) -> Decision:
    """Decide who serves, by `champion`, on targets that the fit of the incumbent has not seen.

    A fit that was made on the way through the test span has seen a part of it, and would be judged there by prices
    that it knows. Where too few origins are left, the incumbent stays: nobody can be told to be better.

    Parameters
    ----------
    forecasts : sequence of Forecasts
        One a model.
    served : sequence of Forecasts
        Those of the incumbent, or nothing.
    seen : int
        Moment before which lies all that its fit has seen (microseconds since 1970, UTC).
    scales : mapping of str to float, optional
        As `champion` takes them.
    """
    if not served:
        return champion(forecasts, None, config, scales)
    models = [*forecasts, *served]
    fair = [f.where(f.target_time >= seen) for f in models]
    origins, left = (len(np.unique(f.origin_time)) for f in (models[0], fair[0]))
    if left == origins:
        return champion(models, INCUMBENT, config, scales)
    part = f"{left} of {origins} origins lie after all that the fit of {INCUMBENT} has seen"
    if left < (needed := fewest_origins(models[0], config)):
        reason = f"{INCUMBENT} keeps its place: {part}, and a test needs {needed}"
        return Decision(model=INCUMBENT, challenger=None, reason=reason, numbers={"origins": float(left)})
    decision = champion(fair, INCUMBENT, config, scales)
    return replace(decision, reason=f"{decision.reason}; only {part}, and only these count")


def _incumbent(config: Config, data: Data, like: Forecasts) -> tuple[list[Forecasts], int]:
    """Forecast with the file that serves now, on the rows that are compared, and say before when all it has seen lies.

    Nothing where none serves.
    """
    folder = config.folder / "champions"
    if not (folder / f"{config.champion}.json").exists():
        return [], BEGINNING
    session = champions.load(folder, config.champion)
    origins = replace(data.split, validation_end_time=int(like.target_time.min())).origins(data.panel, "test")
    served = walk_session_forward(session, INCUMBENT, data.transform, data.panel, origins)
    same = session.metadata.transform == data.transform.describe()
    seen = round(datetime.fromisoformat(session.metadata.cutoff_time).timestamp() * 1e6)
    return [served if same else on_scale(served, data.transform)], seen


def on_scale(forecasts: Forecasts, transform: Transform) -> Forecasts:
    """Restate densities on the scale of another transform, by the median and the quartiles that are published.

    A champion has the scale of its own fit: the asinh of prices depends on the train split, and the kind of
    transform may have changed. Outcomes are on the scale of `transform` already.
    """
    rows, origin = torch.tensor(forecasts.series, dtype=torch.int64) + 1, torch.tensor(forecasts.origin)[:, None]
    quartiles = torch.tensor(forecasts.quantile[:, [LEVELS.index(q) for q in (0.25, 0.5, 0.75)]])
    low, median, high = transform.difference(quartiles, origin, rows).numpy().T
    unit = 2 * stats.t.ppf(0.75, np.where(np.isinf(forecasts.df), 1e9, forecasts.df))
    return replace(forecasts, loc=median, scale=(high - low) / unit)


def _slices(
    forecasts: Sequence[Forecasts], data: Data, scale: Mapping[str, float]
) -> dict[str, dict[str, dict[str, Scores]]]:
    """Score every model by step, hour and regime, where there is more than one of them."""
    known = regimes(data.panel, data.split.train_end_time)
    labels = {by: label(forecasts[0], by, known) for by in SLICES}
    return {
        by: {f.model: sliced(f, names, scale) for f in forecasts}
        for by, names in labels.items()
        if len(np.unique(names)) > 1
    }


def _refits(config: Config, name: str) -> list[int]:
    """Give the moments at which a model was fitted again, microseconds since 1970."""
    noted = folds.account(config.folder, name).get("refits", ())
    return [int(datetime.fromisoformat(refit["time"]).timestamp() * 1e6) for refit in noted]


def _cost(config: Config, name: str, fit: Path) -> Cost:
    """Measure a fit; where its walk is gone, as after a fit by hand, only its own seconds are known."""
    noted = folds.account(config.folder, name)
    forecaster, about = checkpoint.load(fit)
    return measure(forecaster, noted.get("seconds", about["seconds"]), len(noted.get("refits", ())))


def _facts(config: Config, data: Data, like: Forecasts) -> dict[str, str]:
    """Say how the comparison was made."""
    return {
        "prices": f"{iso(int(data.panel.time[:, 0].min()))} to {iso(int(data.panel.time.max()))}",
        "bars": data.panel.grid,
        "sha256 of the prices": data.sha256,
        "train ends": iso(data.split.train_end_time),
        "validation ends": iso(data.split.validation_end_time),
        "test": f"{len(np.unique(like.origin_time)):,} origins, {len(like):,} forecasts a model",
        "horizon": f"{like.step.max()} step{'s' if like.step.max() > 1 else ''}",
        "refits": refit_rule(config.backtest),
        "scale of densities": config.transform,
        "calibration": CALIBRATION[config.fit.conformal.track],
        "code": commit(),
        "versions": ", ".join(
            f"{name} {version(name)}" for name in ("statecast", "torch", "onnxruntime", "statsmodels")
        ),
    }


def refit_rule(config: BacktestConfig) -> str:
    """Say when models were fitted again on the way, and where their networks began."""
    refit = config.refit
    begin = {"scratch": "scratch", "warm": "the weights before"}[config.start]
    rules = {"every": f"every {refit.every:,} origin times", "schedule": f"at {refit.cron!r} UTC", "drift": "on drift"}
    return f"{rules[refit.when]}, networks from {begin}" if refit.when in rules else refit.when


def _saved(forecasts: Sequence[Forecasts], reference: str) -> dict[str, list[tuple[int, float]]]:
    """Give by model the CRPS saved against the reference up to some origins: (number of the origin, sum)."""
    losses = {f.model: metrics.by_origin(f, metrics.crps(f))[1] for f in forecasts}
    base = losses[reference]
    at = np.unique(np.linspace(0, len(base) - 1, POINTS).astype(int))
    return {
        name: list(zip(at.tolist(), np.cumsum(base - loss)[at].tolist(), strict=True)) for name, loss in losses.items()
    }


# ----------------------------------------------------------------------------------------------------- MLflow


def record(config: Config) -> str:
    """Log the comparison to MLflow: a parent run, and a child for each model; give the parent's id.

    Prices, settings and code that were recorded to the end are not recorded again; what is there of a recording that
    was killed goes first.
    """
    comparison = read_json(config.folder / "comparison.json", "compare")
    data = load(config)
    key, account = retrain_key(config, data), config.folder / "runs.json"
    noted = read_json(account, "compare") if account.exists() else {}
    tracker = Tracker(config.tracking, config.base)
    if noted.get("key") == key and tracker.holds(noted["parent"]):
        return noted["parent"]
    tracker.discard(key)
    tags = provenance(config, data) | {
        "key": key,
        "decision": comparison["decision"]["reason"],
        "best_set": ", ".join(name for name, p in comparison["best"].items() if p >= config.compare.alpha),
    }
    children = {}
    with tracker.retrain(settings.flat(config), tags) as parent:
        parent.json(comparison, "comparison.json")
        parent.file(config.folder / "comparison.html")
        if (ingested := config.folder / "ingest.json").exists():
            parent.file(ingested)
        parent.json(settings.to_dict(config), "config.json")
        parent.scores({POOLED: _pooled_scores(comparison)})
        for path in sorted((config.folder / FIGURES).glob("*.png")):
            parent.file(path, "figures")
        for name in config.models:
            with parent.model(name, {"model": name}) as child:
                _record_model(config, child, name, comparison)
                children[name] = child.id
    told = {"key": key, "time": datetime.now(UTC).isoformat(), "data_sha256": data.sha256, "data_end": tags["data_end"]}
    write_json(account, told | {"rows": prices_of(data), "parent": parent.id, "models": children})
    return parent.id


def retrain_key(config: Config, data: Data) -> str:
    """Name what a retrain depends on: prices, settings and code."""
    depends = [settings.digest(replace(config, folder=config.folder.resolve())), data.sha256, commit()]
    return hashlib.sha256(" ".join(depends).encode()).hexdigest()


def prices_of(data: Data) -> int:
    """Count the prices."""
    return int(data.panel.mask.sum())


def _pooled_scores(comparison: dict[str, Any]) -> dict[str, float]:
    """Give the pooled scores of the model that is to serve, by which retrains can be sorted; none for an incumbent."""
    chosen = comparison["decision"]["model"]
    rows = (r for r in comparison["rows"] if (r["model"], r["series"]) == (chosen, POOLED))
    return next((r["scores"] for r in rows), {})


def _record_model(config: Config, child: Run, name: str, comparison: dict[str, Any]) -> None:
    """Log one model: what it is, its training curves, scores, verdicts and cost, its own parameters.

    Names and steps are the same for all models, so that MLflow lays their curves over each other.
    """
    fit = judged_fit(config, name, comparison)
    forecaster, about = checkpoint.load(fit)
    rows = {r["series"]: r for r in comparison["rows"] if r["model"] == name}
    child.tags({"kind": forecaster.kind, "commit": about["commit"], "verdict": rows[POOLED]["verdict"]["text"]})
    single = {series for series, r in rows.items() if not r["members"]}
    kept = rows.keys() - (single if len(single) > SCORED else ())
    child.scores({series: r["scores"] for series, r in rows.items() if series in kept})
    child.scores({POOLED: {f"cost_{k}": float(v) for k, v in comparison["costs"][name].items()}})
    child.curve({"step": at, "crps_saved": total} for at, total in comparison["saved"].get(name, ()))
    by_step = comparison["slices"].get("step", {}).get(name, {})
    child.curve(
        {"step": int(step), **{f"{k}_by_step": scores[k] for k in ("crps", "rmae", "coverage_80")}}
        for step, scores in by_step.items()
    )
    child.json({series: r["verdict"] for series, r in rows.items()}, "verdicts.json")
    _record_fit(child, forecaster, about)
    child.file(fit, "model")


def _record_fit(child: Run, forecaster: Forecaster, about: dict[str, Any]) -> None:
    """Log the training curves of a network; of any other model its parameters and calibration."""
    core, calibration = forecaster.core, {}
    if isinstance(core, Conformal):
        core, calibration = core.core, {"start": core.start.tolist(), "gain": core.gain.tolist()}
    if isinstance(core, Network):
        losses = [(r["epoch"], r["train_loss"], r["validation_loss"]) for r in about["records"]]
        child.curve({"step": k, "train_loss": t, "validation_loss": v} for k, t, v in losses)
        figure = figures.loss_curves(
            losses, model=forecaster.name, series=", ".join(about["series"]), loss=LOSSES[core.config.head]
        )
        child.figure(figure, "figures/loss.png")
        return
    tables = {k: v.tolist() for k, v in core.state_dict().items()}
    fit = {"rows": ["pooled", *about["series"]], "parameters": tables, "calibration": calibration}
    child.json(fit, "parameters.json")
