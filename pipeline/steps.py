"""What a retrain does, step by step, from files to files: so each step can be run, repeated and resumed alone.

    ingest    the files named in the settings          -> price store
    train     price store                              -> models/<name>.safetensors
    backtest  price store, model                       -> forecasts/<name>/, folds/<name>/

`judging.py` goes on from there with compare and record, `promotion.py` with promote.

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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from models import checkpoint
from models.errors import ConfigError, DataError, FitError, ModelError, PolicyError, unknown
from models.forecaster import Forecaster
from models.transforms import Transform, fit_transform
from pipeline import archive, folds, settings
from pipeline.atomic import replacing
from pipeline.backtest import Fold, seen
from pipeline.clock import utc
from pipeline.config import Config
from pipeline.covariates import with_covariates
from pipeline.downstream import Outdated, outdated
from pipeline.fitting import KINDS, device_of, fit, naming_the_series
from pipeline.forecasts import Forecasts
from pipeline.ingest import RefusedError
from pipeline.ingest import ingest as read_prices
from pipeline.metrics import naive_scale
from pipeline.passes import moves
from pipeline.prices import PriceStore
from pipeline.prices import digest as digest_of
from pipeline.report import IngestReport
from pipeline.training import EpochRecord, resolve_device
from pipeline.vintages import WriteResult
from pipeline.windows import Panel, Split, panel, split


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
        report, written = read_prices(config.ingest, PriceStore(config.prices), on_step, dry=dry)
    except RefusedError as refused:
        write_json(account, {"refused": str(refused), "report": refused.report})
        raise
    if written is None:
        return Ingested(report=report, written=None, outdated=[])
    came = datetime.now(UTC)
    affected = [x for c in config.each.values() for x in outdated(c.folder, written.revised, c.champion, came=came)]
    counts = {"added": written.added, "unchanged": written.unchanged, "revisions": written.revisions}
    write_json(account, counts | {"outdated": affected, "report": report})
    return Ingested(report=report, written=written, outdated=affected)


def load(config: Config) -> Data:
    """Read the store, cut it into train, validation and test, and fit the transform on train.

    Raises
    ------
    ConfigError
        A covariate or a series of the settings is not in the store, or there are pools and none was chosen.
    DataError
        The prices do not make blocks, see `windows.panel`.
    PolicyError
        The log transform meets a price that is not above zero.
    """
    if config.groups:
        raise ConfigError(f"expected one pool, got {', '.join(config.groups)}: choose one (--set pool=NAME)")
    store = PriceStore(config.prices)
    frame = store.read(_modelled(config, store), known_at=config.known_at_time)
    columns = (frame["series_id"].to_numpy(), frame["time"].to_physical().to_numpy(), frame["price"].to_numpy())
    prices = panel(*columns, block=config.block, clock=store.clock(frame))
    _refuse_non_positive(prices, config)
    parts = split(prices, config.split)
    train = prices.before(parts.train_end_time)
    published = [price[mask] for price, mask in zip(train.price, train.mask, strict=True)]
    with naming_the_series(train.names):
        transform = fit_transform(config.transform, published)
    prices, sha256 = _covered(config, store, prices, parts.train_end_time, _digest(digest_of(frame), prices))
    return Data(panel=prices, split=parts, transform=transform, sha256=sha256)


def _digest(sha256: str, prices: Panel) -> str:
    """Give the digest of the prices, and of where each stands in its block."""
    if prices.block == 1:
        return sha256
    return hashlib.sha256(sha256.encode() + prices.price_time.tobytes()).hexdigest()


def _covered(config: Config, store: PriceStore, prices: Panel, until: int, sha256: str) -> tuple[Panel, str]:
    """Put the covariates of the settings beside the prices; the digest is then of both."""
    if not (config.past or config.ahead):
        return prices, sha256
    shape = {"past": config.past, "ahead": config.ahead, "horizon": config.fit.horizon}
    covered, beside = with_covariates(
        prices, store, **shape, until=until, known_at=config.known_at_time, due=config.due
    )
    return covered, hashlib.sha256(orjson.dumps([sha256, beside, config.past, config.ahead, config.due])).hexdigest()


def _modelled(config: Config, store: PriceStore) -> list[str]:
    """Name the series of the store that the settings ask for, and that are not left out."""
    held = store.names()
    for name in config.leave_out:
        if name not in held:
            raise ConfigError(f"leave_out: {unknown('series', name, held)}")
    for pattern in config.series:
        if held and not any(fnmatchcase(name, pattern) for name in held):
            raise ConfigError(f"series: {unknown('series', pattern, held)}")
    names = [name for name in store.names(config.series, config.part) if name not in config.leave_out]
    part, parts = config.part
    if held and not names and parts > 1:
        raise ConfigError(
            f"part: none of {len(held)} series falls into part {part} of {parts}. Cut them into fewer parts"
        )
    return names


def _refuse_non_positive(prices: Panel, config: Config) -> None:
    if config.transform != "log" or not (bad := prices.mask & ~(prices.price > 0)).any():
        return
    place = tuple(np.argwhere(bad)[0])
    raise PolicyError(
        f"log transform: expected prices above zero, got {int(bad.sum())} that are not, first {prices.names[place[0]]} "
        f"at {iso(int(prices.price_time[place]))} = {prices.price[place]}. Set transform to 'asinh', leave the series "
        f"out (leave_out = [{prices.names[place[0]]!r}]), or ingest into a new data folder with "
        "ingest.policy.non_positive = 'drop': rows that are in the store stay there"
    )


def provenance(config: Config, data: Data) -> dict[str, object]:
    """Say what a run rests on, as `tracking.RETRAIN_TAGS` asks."""
    return {
        "data_sha256": data.sha256,
        **_range(data.panel),
        "commit": commit(),
        "seed": config.fit.training.seed,
        "device": resolve_device(config.fit.training.device).type,
    }


def _range(prices: Panel) -> dict[str, str]:
    """Say from when to when prices are."""
    return {"data_start": iso(int(prices.time[:, 0].min())), "data_end": iso(int(prices.time.max()))}


def naive_scales(data: Data) -> dict[str, float]:
    """Give the mean absolute change of each series on its train split, by name."""
    before = data.panel.before(data.split.train_end_time)
    return {name: naive_scale(before.price[k]) for k, name in enumerate(before.names)}


def move_scales(data: Data) -> dict[str, float]:
    """Give the mean absolute move of each series on the transformed scale, on its train split, by name."""
    before = data.panel.before(data.split.train_end_time)
    return {name: _move_scale(before, k, data.transform) for k, name in enumerate(before.names)}


def _move_scale(panel: Panel, k: int, transform: Transform) -> float:
    price = panel.price[k][panel.mask[k]]
    return float(np.abs(moves(transform, price[:-1], price[1:], np.full(len(price) - 1, k))).mean())


def train(config: Config, name: str, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> float:
    """Fit one model and save it; give the seconds that it took.

    A fit that is there already, of the same prices, settings and code, is left as it is. A network's fit in progress is
    kept after every epoch, and goes on from there if the process died. Forecasts of the model that was there before go
    with it.
    """
    data = load(config)
    key = _fit_key(config, data)
    if (kept := _kept_fit(model_path(config, name), key)) is not None:
        return kept
    progress = config.folder / "progress" / f"{name}-{key}.safetensors"
    forecaster, about = fitted(config, data, name, data.split, data.transform, progress, on_epoch)
    folds.forget(config.folder, name)
    checkpoint.save(forecaster, model_path(config, name), about | {"key": key})
    for path in progress.parent.glob(f"{name}-*"):
        path.unlink()
    return about["seconds"]


def _kept_fit(path: Path, key: str) -> float | None:
    """Give the seconds of a fit that need not be done again; None where it must be."""
    try:
        _, about = checkpoint.load(path)
    except ModelError:  # not there, or damaged
        return None
    return about["seconds"] if (about.get("key"), about.get("commit")) == (key, commit()) else None


def fitted(
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
    records = read_json(curve, "train") if progress.exists() and curve.exists() else []

    def note(record: EpochRecord) -> None:
        records.append(asdict(record))
        write_json(curve, records)
        on_epoch(record)

    started = time.perf_counter()
    how = {"checkpoint": progress, "on_epoch": note, "start": start}
    forecaster = fit(name, data.panel, parts, transform, config.fit, **how)
    return forecaster, {
        "series": data.panel.names,
        "data_sha256": data.sha256,
        **_range(data.panel),
        "device": device_of(name, config.fit),
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


def model_path(config: Config, name: str) -> Path:
    """Give the file of a trained model."""
    return config.folder / "models" / f"{name}.safetensors"


def serving_path(config: Config, name: str) -> Path:
    """Give the file of the fit that serves at the end of a model's walk; without a whole walk, the trained one."""
    serving = folds.account(config.folder, name).get("serving")
    return config.folder / serving if serving else model_path(config, name)


def load_model(config: Config, name: str) -> tuple[Forecaster, dict[str, Any]]:
    """Read a trained model, as refitted last where it was walked forward with refits.

    Raises
    ------
    ConfigError
        There is no model of that name, or it was not trained; those that were are listed.
    """
    _trained(config, name)
    return checkpoint.load(serving_path(config, name))


def _trained(config: Config, name: str) -> Path:
    """Give the file of a trained model, which must be there."""
    if name not in KINDS:
        raise ConfigError(unknown("model", name, KINDS))
    path = model_path(config, name)
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
    _check_fit_of(data.panel, name, about)
    key = walk_key(config, data, name)

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


def _check_fit_of(prices: Panel, name: str, about: dict[str, Any]) -> None:
    """Refuse a fit on other series than those that are loaded."""
    fitted = tuple(about["series"])
    if fitted != prices.names:
        raise DataError(
            f"backtest of {name}: fitted on series {list(fitted)}, but store and settings give {list(prices.names)}. "
            f"Run `statecast train {name}` again"
        )


def walk_key(config: Config, data: Data, name: str) -> str:
    """Name what the walk of a model depends on: with any of it changed, it begins anew."""
    parts = (config.backtest, config.split, *((config.fit,) if config.backtest.refit.when != "never" else ()))
    depends = [*map(settings.digest, parts), config.transform, data.sha256, sha256_of(model_path(config, name))]
    return hashlib.sha256(" ".join(depends).encode()).hexdigest()


def _refit(config: Config, data: Data, name: str, fold: Fold, before: Forecaster, path: Path, key: str) -> None:
    """Fit one model again for a fold of its walk, on the scale of the fit before, and save it."""
    assert fold.cut_time is not None
    panel, parts = seen(data.panel, fold.cut_time, config.backtest, config.split)
    progress = config.folder / "progress" / f"{name}-fold-{fold.number:04}-{key[:16]}.safetensors"
    start = before if config.backtest.start == "warm" else None
    data = replace(data, panel=panel)
    try:
        forecaster, about = fitted(config, data, name, parts, before.transform, progress, start=start)
    except FitError as error:
        history = "" if config.backtest.history is None else ", or give backtest.history a longer time"
        raise FitError(f"refit at {iso(fold.cut_time)}: {error}{history}", row=error.row) from error
    checkpoint.save(forecaster, path, about | {"why": fold.why})
    for left in progress.parent.glob(f"{progress.stem}*"):
        left.unlink()


def iso(microseconds: int) -> str:
    """Write a moment as ISO 8601 in UTC, to the microsecond where it has any."""
    return utc(microseconds).isoformat().replace("+00:00", "Z")


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


def write_json(path: Path, value: Any) -> None:
    """Write what a step leaves; a crash leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def read_json(path: Path, verb: str) -> Any:
    """Read what a step has left; `verb` is the command that makes it."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path}: expected what `statecast {verb}` leaves, got {error}. Run it first") from error


def sha256_of(path: Path) -> str:
    """Give the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
