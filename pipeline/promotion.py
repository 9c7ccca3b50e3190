"""Let the chosen model serve: out through the parity gate, into the registry, into the champions folder.

    promote   comparison, models   -> ONNX files, registry, champions folder

Comes in: `Config`. Goes out: files in its data folder, and a small result to print. Imported by the flows and the
command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from models import checkpoint
from models.errors import ConfigError, IntegrityError, unknown
from models.forecaster import Forecaster
from pipeline import champions, prequential
from pipeline.compare import Decision
from pipeline.config import Config
from pipeline.export import Provenance, export
from pipeline.judging import INCUMBENT, judged_fit
from pipeline.metrics import POOLED
from pipeline.steps import iso, load, load_model, read_json, sha256_of
from pipeline.tracking import Tracker

AUTOREGRESSIONS = ("ar_t", "ar")
"""Models that serve beside a champion as its autoregression, the first that was compared."""


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
    """Export a model that was compared through the parity gate, register it, and publish it to the champions folder.

    Without a name the decision of the last comparison is carried out; when the incumbent keeps its place,
    nothing changes.

    Raises
    ------
    ConfigError
        The model was not among those of the last comparison.
    IntegrityError
        The chosen model was trained again after the comparison.
    """
    comparison = read_json(config.folder / "comparison.json", "compare")
    decision = Decision(**comparison["decision"])
    chosen = name or decision.model
    if name is not None:
        decision = replace(decision, reason=f"{name} was named by hand")
    if chosen == INCUMBENT:
        return unchanged(config, decision.reason)

    def judged(name: str) -> Path:
        return _judged(config, name, comparison)

    return _serve(config, chosen, decision, comparison, judged)


def follow(config: Config) -> Promoted:
    """Carry out the decision of a retrain: the fit on everything known of the recipe chosen serves from now on.

    Where the incumbent keeps its place, its recipe goes on with its latest fit; an incumbent of other settings, which
    nobody fits any more, with the file that it has.
    """
    comparison = read_json(config.folder / "comparison.json", "compare")
    decision = Decision(**comparison["decision"])
    chosen = decision.model
    if chosen == INCUMBENT:
        serving = champions.current(config.folder / "champions", config.champion).fields
        chosen = str(serving.get("model"))
        if chosen not in comparison["models"] or serving.get("recipe") != prequential.recipe(config, load(config)):
            return unchanged(config, decision.reason)
        decision = replace(decision, model=chosen)
    if said := checkpoint.load(prequential.waiting(config, chosen))[1]["said"]:
        decision = replace(decision, reason=f"{decision.reason}. {said}")
    return _serve(config, chosen, decision, comparison, lambda name: prequential.waiting(config, name))


def _serve(
    config: Config, chosen: str, decision: Decision, comparison: dict[str, Any], fit: Callable[[str], Path]
) -> Promoted:
    """Export a fit of the chosen model, register it and publish it, if it does not serve already."""
    folder, judged = config.folder / "champions", comparison["models"]
    runs = read_json(config.folder / "runs.json", "compare")
    exported = cache(partial(_export, config, fit))
    if champions.entry_of(folder, config.champion).exists():
        serving = champions.current(folder, config.champion)
        if serving.sha256 == sha256_of(exported(chosen)):
            return _promoted(folder, serving, changed=False, reason=decision.reason)
    beside = {name: exported(name) for name in _references(config, chosen, judged)}
    said = {row["model"]: row["verdict"]["text"] for row in comparison["rows"] if row["series"] == POOLED}
    _register(config, chosen, decision, fit, exported, runs["models"], said)
    recipe = prequential.recipe(config, load(config))
    fields = {"model": chosen, "reason": decision.reason, "recipe": recipe, "run": runs["models"][chosen]}
    published = champions.publish(folder, config.champion, exported(chosen), fields, beside=beside)
    return _promoted(folder, published, changed=True, reason=decision.reason)


def unchanged(config: Config, reason: str = "nothing has come since the last retrain") -> Promoted:
    """Say what serves, and goes on serving."""
    folder = config.folder / "champions"
    return _promoted(folder, champions.current(folder, config.champion), changed=False, reason=reason)


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


def _judged(config: Config, name: str, comparison: dict[str, Any]) -> Path:
    """Give the fit of a model that was compared; refuse one that is not the same any more."""
    judged = comparison["models"]
    if name not in judged:
        raise ConfigError(f"promote: {unknown('compared model', name, judged)}. Run `statecast compare` with it first")
    fit = judged_fit(config, name, comparison)
    if not fit.exists() or sha256_of(fit) != judged[name]:
        raise IntegrityError(
            f"promote: {name} was trained again or refitted after the comparison. Run `statecast backtest {name}` and "
            "`statecast compare` first"
        )
    return fit


def _references(config: Config, chosen: str, judged: Iterable[str]) -> list[str]:
    """Name what the champion is held against while it serves: the last value, and the autoregression."""
    autoregression = next((name for name in AUTOREGRESSIONS if name in judged), None)
    return [name for name in (config.compare.last_value, autoregression) if name not in (None, chosen)]


def _register(
    config: Config,
    chosen: str,
    decision: Decision,
    fit: Callable[[str], Path],
    exported: Callable[[str], Path],
    runs: dict[str, str],
    said: dict[str, str],
) -> None:
    """Register champion and challenger in MLflow, under the runs that recorded them; `said` is the verdict on each."""
    tracker = Tracker(config.tracking, config.base)

    def version(name: str, role: str) -> int:
        told = {"role": role, "reason": decision.reason, "verdict": said.get(name, "")}
        tags = told | _account(name, *checkpoint.load(fit(name)))
        return tracker.log_model(tracker.run(runs[name]), exported(name), tags).number

    champion = version(chosen, "champion")
    rival = decision.challenger if chosen == decision.model else decision.model
    known = rival is not None and rival in runs and rival != chosen
    tracker.set_aliases(champion, version(str(rival), "challenger") if known else None)


def _account(name: str, forecaster: Forecaster, about: dict[str, Any]) -> dict[str, object]:
    """Say of an exported model what its fit has noted; what a fit of an older version did not note is left out."""
    noted = ("data_sha256", "data_start", "data_end", "commit", "device")
    return {key: about[key] for key in noted if key in about} | {
        "model": name,
        "kind": forecaster.kind,
        "cutoff_time": iso(about["split"]["validation_end_time"]),
        "seed": about["config"]["training"]["seed"],
        "seconds": round(about["seconds"], 3),
        "parity": "passed",
    }


def _export(config: Config, fit: Callable[[str], Path], name: str) -> Path:
    """Export a fit of a model through the parity gate, to its place in the data folder."""
    path = config.folder / "exports" / f"{name}.onnx"
    export_fit(config, *checkpoint.load(fit(name)), path)
    return path


def export_model(config: Config, name: str, path: Path) -> None:
    """Export a trained model as one ONNX file, through the parity gate."""
    export_fit(config, *load_model(config, name), path)


def export_fit(config: Config, forecaster: Forecaster, about: dict[str, Any], path: Path) -> None:
    """Export a fit as one ONNX file, through the parity gate."""
    provenance = Provenance(
        series=tuple(about["series"]),
        grid=load(config).panel.grid,
        cutoff_time=iso(about["split"]["validation_end_time"]),
        data_sha256=about["data_sha256"],
        commit=about["commit"],
        config=about["config"],
    )
    export(forecaster, provenance, path)
