"""Let the chosen model serve: out through the parity gate, into the registry, into the champions folder.

    promote   comparison, models   -> ONNX files, registry, champions folder

Comes in: `Config`. Goes out: files in its data folder, and a small result to print. Imported by the flows and the
command line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from models.errors import ConfigError, IntegrityError, unknown
from pipeline import champions
from pipeline.compare import Decision
from pipeline.config import Config
from pipeline.export import Provenance, export
from pipeline.judging import INCUMBENT
from pipeline.metrics import POOLED
from pipeline.steps import iso, load, load_model, read_json, serving_path, sha256_of
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
    """Export the chosen model through the parity gate, register it, and publish it to the champions folder.

    Without a name the decision of the last comparison is carried out; when the incumbent keeps its place, or the file
    serves already, nothing changes.

    Raises
    ------
    ConfigError
        The model was not among those of the last comparison.
    IntegrityError
        The chosen model was trained again after the comparison.
    """
    comparison = read_json(config.folder / "comparison.json", "compare")
    decision = Decision(**comparison["decision"])
    reason = decision.reason if name is None else f"{name} was named by hand"
    chosen = name or decision.model
    folder = config.folder / "champions"
    if chosen == INCUMBENT:
        return _promoted(folder, champions.current(folder, config.champion), changed=False, reason=reason)
    _check_judged(config, chosen, comparison["models"])
    runs = read_json(config.folder / "runs.json", "compare")["models"]
    exported = config.folder / "exports" / f"{chosen}.onnx"
    export_model(config, chosen, exported)
    said = {row["model"]: row["verdict"]["text"] for row in comparison["rows"] if row["series"] == POOLED}
    _register(config, chosen, replace(decision, reason=reason), exported, runs, said)
    beside = _references(config, chosen, comparison["models"])
    if (serving := _serving(config, exported, beside)) is not None:
        return _promoted(folder, serving, changed=False, reason=f"{reason}; that file serves already")
    published = champions.publish(folder, config.champion, exported, {"model": chosen, "reason": reason}, beside=beside)
    return _promoted(folder, published, changed=True, reason=reason)


def _serving(config: Config, exported: Path, beside: dict[str, Path]) -> champions.Published | None:
    """Give the champion if it has this file and these references already."""
    folder = config.folder / "champions"
    if not champions.entry_of(folder, config.champion).exists():
        return None
    serving = champions.current(folder, config.champion)
    held = (serving.sha256, {name: one.sha256 for name, one in serving.beside.items()})
    return serving if held == (sha256_of(exported), {name: sha256_of(path) for name, path in beside.items()}) else None


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
    if sha256_of(serving_path(config, name)) != judged[name]:
        raise IntegrityError(
            f"promote: {name} was trained again or refitted after the comparison. Run `statecast backtest {name}` and "
            "`statecast compare` first"
        )


def _references(config: Config, chosen: str, judged: dict[str, str]) -> dict[str, Path]:
    """Export what the champion is held against while it serves: the last value, and the autoregression."""
    autoregression = next((name for name in AUTOREGRESSIONS if name in judged), None)
    names = [name for name in (config.compare.last_value, autoregression) if name not in (None, chosen)]
    files = {name: config.folder / "exports" / f"{name}.onnx" for name in names if name is not None}
    for name, path in files.items():
        _check_judged(config, name, judged)
        export_model(config, name, path)
    return files


def _register(
    config: Config, chosen: str, decision: Decision, exported: Path, runs: dict[str, str], said: dict[str, str]
) -> None:
    """Register champion and challenger in MLflow, under the runs that recorded them; `said` is the verdict on each."""
    tracker = Tracker(config.tracking, config.folder)

    def tags(name: str, role: str) -> dict[str, object]:
        told = {"role": role, "reason": decision.reason, "verdict": said.get(name, "")}
        return told | _account(config, name)

    champion_version = tracker.log_model(tracker.run(runs[chosen]), exported, tags(chosen, "champion"))
    rival = decision.challenger if chosen == decision.model else decision.model
    second = None
    if rival is not None and rival in runs and rival != chosen:
        path = exported.with_name(f"{rival}.onnx")
        export_model(config, rival, path)
        second = tracker.log_model(tracker.run(runs[rival]), path, tags(rival, "challenger")).number
    tracker.set_aliases(champion_version.number, second)


def _account(config: Config, name: str) -> dict[str, object]:
    """Say of an exported model what its fit has noted; what a fit of an older version did not note is left out."""
    forecaster, about = load_model(config, name)
    noted = ("data_sha256", "data_start", "data_end", "commit", "device")
    return {key: about[key] for key in noted if key in about} | {
        "model": name,
        "kind": forecaster.kind,
        "cutoff_time": iso(about["split"]["validation_end_time"]),
        "seed": about["config"]["training"]["seed"],
        "seconds": round(about["seconds"], 3),
        "parity": "passed",
    }


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
