"""Save and load models and fits in progress: tensors as safetensors, the rest as JSON. Never a pickle.

Comes in: a forecaster or classifier, or named tensors. Goes out: one file, written whole or not at all. Imported by
training, tracking of runs, and the commands.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.autoregressive import Autoregressive
from models.classifier import Classifier
from models.conformal import Conformal
from models.dayahead import DayAhead, DayAheadConfig
from models.decoder import columns_in
from models.diurnal import SLOTS, Diurnal
from models.egarch import Egarch
from models.ensemble import Ensemble
from models.errors import ModelError, unknown
from models.forecaster import Forecaster
from models.garch import Garch
from models.har import Har
from models.linear import Linear, Shape
from models.network import Network, NetworkConfig
from models.seasonal import Seasonal
from models.shell import Shell
from models.transforms import AsinhDifference, LogReturn, Transform

FORMAT = 2


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-able facts into one safetensors file; a crash leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    # one storage each: a tensor may be a view of another
    apart = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    save_file(apart, beside, metadata={"statecast": json.dumps(facts)})
    os.replace(beside, path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises
    ------
    ModelError
        The file is missing, damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  not a mapping
            facts = json.loads((file.metadata() or {})["statecast"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: expected a safetensors file written by statecast, got {error!r}") from error
    return tensors, facts


def save(model: Shell[Any], path: Path, about: dict[str, Any] | None = None) -> None:
    """Write a fitted model into one file, with what else is to be known about it (JSON values)."""
    facts = {"about": about or {}} | {"format": FORMAT, "name": model.name, "transform": model.transform.kind}
    facts |= {"core": type(model.core).__name__, "settings": _settings(model.core)}
    facts |= {"past_names": model.past_names, "future_names": model.future_names}
    if isinstance(model, Classifier):
        facts |= {"classes": model.classes}
    save_tensors(path, dict(model.state_dict()), facts)


def load(path: Path) -> tuple[Forecaster, dict[str, Any]]:
    """Read a fitted forecaster, which gives the same forecasts bit for bit on the same machine, and what was said."""
    model, about = _load(path)
    if not isinstance(model, Forecaster):
        raise ModelError(f"{path}: expected a forecaster, got one that labels {list(model.classes)}. Train the model")
    return model, about


def load_classifier(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Read a fitted classifier, as `load` reads a forecaster."""
    model, about = _load(path)
    if not isinstance(model, Classifier):
        raise ModelError(f"{path}: expected a classifier, got a forecaster. Run `statecast classify`")
    return model, about


def _load(path: Path) -> tuple[Forecaster | Classifier, dict[str, Any]]:
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        raise ModelError(f"{path}: expected format {FORMAT}, got {facts.get('format')}. It needs another version")
    if facts["core"] not in _BUILD:
        raise ModelError(f"{path}: {unknown('core', facts['core'], _BUILD)}")
    classes = tuple(facts.get("classes", ()))
    try:
        settings = facts["settings"] | ({"classes": len(classes)} if classes else {})
        core = _BUILD[facts["core"]]({k.removeprefix("core."): v for k, v in tensors.items()}, settings)
        names = (tuple(facts[side]) for side in ("past_names", "future_names"))
        transform = _transform(facts["transform"], tensors)
        if classes:
            model = Classifier(facts["name"], transform, core, classes, *names)
        else:
            model = Forecaster(facts["name"], transform, core, *names)
        model.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{path}: its tensors are not those of a {facts['core']}: {error}. Train it again") from error
    return model.eval(), facts["about"]


def _settings(core: Any) -> dict[str, Any]:
    if isinstance(core, Conformal | Seasonal):
        return {"core": type(core.core).__name__, "settings": _settings(core.core)}
    if isinstance(core, Ensemble):
        members = [{"core": type(c).__name__, "settings": _settings(c)} for c in core.members]
        return {"kind": core.kind, "members": members}
    names = ("kind", "horizon", "block", "past", "future")
    config = getattr(core, "config", None)
    return {n: getattr(core, n) for n in names} | ({"config": asdict(config)} if config else {})


def _network(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Network:
    config = dict(settings["config"], memories=tuple(settings["config"]["memories"]))
    tables = {f.name: type(f.default) for f in fields(NetworkConfig) if is_dataclass(f.default)}
    config |= {name: table(**config.get(name, {})) for name, table in tables.items()}
    shape = {k: settings[k] for k in ("horizon", "block", "past", "future")} | {"classes": settings.get("classes", 0)}
    series = len(tensors["embedding.weight"]) - 1 if "embedding.weight" in tensors else 0
    unit = float(tensors["inputs.unit"])
    columns = columns_in(tensors, settings["horizon"], settings["block"])
    return Network(settings["kind"], NetworkConfig(**config), unit=unit, series=series, columns=columns, **shape)


def _autoregressive(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Autoregressive:
    return Autoregressive(settings["kind"], *(tensors[k] for k in ("weights", "constant", "scale", "df")))


def _garch(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Garch:
    return Garch(tensors["parameters_by_row"], settings["horizon"])


def _diurnal(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Diurnal:
    factor = tensors["factors.factor"].reshape(-1, SLOTS)
    return Diurnal(Garch(tensors["core.parameters_by_row"], settings["horizon"]), factor)


def _egarch(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Egarch:
    return Egarch(tensors["parameters_by_row"], settings["horizon"])


def _har(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Har:  # noqa: ARG001  one signature for all
    return Har(*(tensors[k] for k in ("weights", "base", "loc", "typical", "df")))


def _linear(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Linear:
    return Linear(settings["kind"], Shape(**settings["config"]), {k: x for k, x in tensors.items() if k != "standard"})


def _dayahead(tensors: dict[str, Tensor], settings: dict[str, Any]) -> DayAhead:
    config = dict(settings["config"], levels=tuple(settings["config"]["levels"]))
    shape = {k: settings[k] for k in ("block", "future")}
    return DayAhead(DayAheadConfig(**config), series=len(tensors["center"]) - 1, **shape)


def _seasonal(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Seasonal:
    core = _BUILD[settings["core"]](_inside(tensors), settings["settings"])
    return Seasonal(core, tensors["factors.factor"].reshape(-1, SLOTS))


def _conformal(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Conformal:
    core = _BUILD[settings["core"]](_inside(tensors), settings["settings"])
    return Conformal(core, tensors["start"], tensors["gain"])


def _inside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors of the core inside a core."""
    return {k.removeprefix("core."): v for k, v in tensors.items() if k.startswith("core.")}


def _ensemble(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Ensemble:
    cores = []
    for k, member in enumerate(settings["members"]):
        inner = {n.removeprefix(f"cores.{k}."): v for n, v in tensors.items() if n.startswith(f"cores.{k}.")}
        cores.append(_BUILD[member["core"]](inner, member["settings"]))
    return Ensemble(settings["kind"], cores, tensors["weights"])


_BUILD: dict[str, Any] = {
    "Network": _network,
    "Autoregressive": _autoregressive,
    "Garch": _garch,
    "Diurnal": _diurnal,
    "Seasonal": _seasonal,
    "Egarch": _egarch,
    "Har": _har,
    "Linear": _linear,
    "DayAhead": _dayahead,
    "Ensemble": _ensemble,
    "Conformal": _conformal,
}


def _transform(kind: str, tensors: dict[str, Tensor]) -> Transform:
    if kind == "log":
        return LogReturn()
    return AsinhDifference(tensors["transform.center"], tensors["transform.unit"])
