"""What a model file says about itself: a JSON text in the ONNX metadata under the key `statecast`.

Legend: M prices published at once, S horizon steps, N series of the fit, R = 1 + N rows of per-series parameters.

JSON has no NaN and no infinity, so the few numbers that may be one are written as words: an initial value
NaN is null; degrees of freedom infinity (the normal) is "normal", NaN (quantiles only, no density) is "none".

Comes in: what the export knows, or the text of a file. Goes out: `Metadata`. Knows orjson only; imported by
export, session, stream and champions.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from models.errors import ModelError, unknown
from models.observation import LEVELS, StateTensor

KEY = "statecast"
"""Name of the entry in the ONNX metadata."""

FORMAT = 1
"""Format of the text that this version writes; older ones are read, newer ones refused."""

INPUTS = ("price", "mask", "series", "past", "future", "elapsed")
"""Fields of an observation that a graph may read."""

_DTYPES = ("float32", "float64", "int64", "bool")
_DF_WORDS = {"normal": math.inf, "none": math.nan}
_BAR_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Everything that a reader of a model file must know.

    Raises
    ------
    ModelError
        On construction, when a field is outside its range or cannot be written as JSON.
    """

    format: int = FORMAT
    """Format of the text."""
    name: str
    """Name of the model."""
    kind: str
    """Kind of the model, such as naive, ar, garch or gru."""
    task: str = "forecast"
    """What a step gives: `forecast` a distribution of prices, `classify` the probability of each class."""
    classes: tuple[str, ...] = ()
    """Names of the classes; none for a forecast."""
    transform: dict[str, Any]
    """`kind` log or asinh, the open domain `lower` and `upper` of its prices, and its fitted numbers."""
    block: int
    """M: prices published at once."""
    horizon: int
    """S: steps ahead."""
    levels: tuple[float, ...] = LEVELS
    """Quantile levels, ascending."""
    series: tuple[str, ...] = ()
    """Names of the series of the fit: name i has row i + 1 of the parameters; row 0 is for all others."""
    df: tuple[float, ...]
    """Student-t degrees of freedom, one for the model or one for each row; inf normal, NaN no density."""
    state: tuple[StateTensor, ...]
    """The tensors that are carried, in the order of the graph."""
    inputs: tuple[str, ...]
    """Which of price, mask, series, past, future and elapsed the graph reads."""
    past: tuple[str, ...] = ()
    """Names of the covariates known with the price."""
    future: tuple[str, ...] = ()
    """Names of the covariates known ahead."""
    grid: str
    """Bar grid: a count and one of s, m, h, d, w, such as 15m or 1d; or `tick` where there are no bars."""
    cutoff_time: str
    """End of the data used in the fit, ISO-8601, UTC."""
    data_sha256: str
    """Digest of those data, 64 hexadecimal digits."""
    commit: str
    """Version of the code that made the model."""
    config: dict[str, Any]
    """Settings of the fit."""
    parity: dict[str, Any]
    """What the export measured of the graph against its model."""

    def __post_init__(self) -> None:
        for name in ("transform", "config", "parity"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        for name in ("levels", "df"):
            object.__setattr__(self, name, tuple(_number(x) for x in getattr(self, name)))
        for name in ("series", "inputs", "past", "future", "classes"):
            _require(not isinstance(getattr(self, name), str), name, getattr(self, name), "a list of names")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        state = (replace(s, shape=tuple(s.shape), initial=_number(s.initial)) for s in self.state)
        object.__setattr__(self, "state", tuple(state))
        _check_identity(self)
        _check_shape(self)
        _check_state(self.state)

    @property
    def domain(self) -> tuple[float, float]:
        """The open interval of prices that the transform admits."""
        lower, upper = (self.transform.get(k) for k in ("lower", "upper"))
        return -math.inf if lower is None else float(lower), math.inf if upper is None else float(upper)

    @property
    def bar_us(self) -> int | None:
        """Length of a bar in microseconds; None where the grid is `tick`."""
        match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", self.grid)
        return int(match[1]) * _BAR_US[match[2]] if match else None

    @property
    def cutoff_us(self) -> int:
        """End of the data used in the fit, whole seconds in microseconds since 1970."""
        return int(datetime.fromisoformat(self.cutoff_time).timestamp()) * 1_000_000

    def to_json(self) -> str:
        """Write the text; `from_json` gives an equal object back."""
        plain = asdict(self)
        plain["df"] = [_df_word(x) for x in self.df]
        for tensor in plain["state"]:
            tensor["initial"] = None if math.isnan(tensor["initial"]) else tensor["initial"]
        return orjson.dumps(plain).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read the text.

        Raises
        ------
        ModelError
            When the text is damaged, has unknown or missing fields, or was written by a newer version.
        """
        try:
            plain = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ModelError(
                f"model metadata: expected JSON, got {text[:60]!r} ({error}). Export the model again"
            ) from error
        _check_fields(plain)
        try:
            plain["df"] = [_df_number(x) for x in plain["df"]]
            plain["state"] = [_tensor(x) for x in plain["state"]]
            return cls(**plain)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ModelError(f"model metadata: a field has the wrong type ({error}). Export the model again") from error


def _plain(value: Any, where: str) -> Any:
    """Copy a value as JSON gives it back: tuples as lists; NaN, infinity and foreign types are refused."""
    if isinstance(value, dict) and all(isinstance(k, str) and _is_text(k) for k in value):
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and _is_text(value)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ModelError(
        f"model metadata: {where} is {value!r}; expected a finite number, a text, a list or a mapping of them"
    )


def _number(x: float) -> float:
    """One NaN object for all, so that equal metadata compare equal."""
    return math.nan if math.isnan(x) else float(x)


def _df_word(x: float) -> float | str:
    return "none" if math.isnan(x) else "normal" if math.isinf(x) else x


def _df_number(x: float | str) -> float:
    return _DF_WORDS[x] if isinstance(x, str) else x


def _tensor(plain: dict[str, Any]) -> StateTensor:
    initial = math.nan if plain["initial"] is None else plain["initial"]
    return StateTensor(**{**plain, "initial": initial, "shape": tuple(plain["shape"])})


def _check_fields(plain: Any) -> None:
    """Refuse a newer format before anything else, then unknown and missing fields."""
    form = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(form, int) or isinstance(form, bool) or form < 1:
        raise ModelError(
            f"model metadata: expected an object with `format` >= 1, got {str(plain)[:60]}. Export it again"
        )
    if form > FORMAT:
        raise ModelError(
            f"model metadata: format {form} is newer than {FORMAT}, which this version reads. Update statecast"
        )
    known = {f.name for f in fields(Metadata)}
    for name in plain.keys() - known:
        raise ModelError(f"model metadata: {unknown('field', name, known)}")
    # version 1 began without classifiers
    if missing := known - plain.keys() - {"task", "classes"}:
        raise ModelError(f"model metadata: missing {', '.join(sorted(missing))}. Export the model again")


def _require(holds: bool, field: str, value: Any, expected: str) -> None:
    if not holds:
        raise ModelError(f"model metadata: {field} is {str(value)[:80]!r}; expected {expected}")


def _check_identity(m: Metadata) -> None:
    """Check what names the model and its origin."""
    texts = ("name", "kind", "grid", "cutoff_time", "data_sha256", "commit")
    for field, values in [
        *((t, [getattr(m, t)]) for t in texts),
        ("series", m.series),
        ("past", m.past),
        ("future", m.future),
        ("classes", m.classes),
    ]:
        for value in values:
            _require(
                isinstance(value, str) and value != "" and _is_text(value), field, value, "a text that is not empty"
            )
    _require(m.format == FORMAT, "format", m.format, f"{FORMAT}")
    _require(len(set(m.series)) == len(m.series), "series", m.series, "names that differ")
    _require(m.grid == "tick" or m.bar_us is not None, "grid", m.grid, "tick, or a bar such as 15m, 1h or 1d")
    _require(
        re.fullmatch("[0-9a-f]{64}", m.data_sha256) is not None, "data_sha256", m.data_sha256, "64 hexadecimal digits"
    )
    try:
        offset = datetime.fromisoformat(m.cutoff_time).utcoffset()
    except ValueError:
        offset = None
    _require(
        offset == timedelta(0), "cutoff_time", m.cutoff_time, "an ISO-8601 time in UTC, such as 2024-01-31T00:00:00Z"
    )


def _is_text(value: str) -> bool:
    """Tell whether a text can be written: it holds no half of a surrogate pair."""
    return value.encode("utf-8", "replace").decode() == value


def _check_shape(m: Metadata) -> None:
    """Check what says how large things are."""
    for field in ("block", "horizon"):
        value = getattr(m, field)
        _require(type(value) is int and value >= 1, field, value, "a whole number of at least 1")
    ascending = all(a < b for a, b in zip((0.0, *m.levels), (*m.levels, 1.0), strict=True))
    _require(ascending and 0.5 in m.levels, "levels", m.levels, "ascending numbers between 0 and 1 with 0.5 among them")
    _require(m.task in ("forecast", "classify"), "task", m.task, "forecast or classify")
    named = len(set(m.classes)) == len(m.classes) and (len(m.classes) >= 2) == (m.task == "classify")
    _require(named and bool(m.classes) == (m.task == "classify"), "classes", m.classes, "two or more to classify")
    rows = 1 + len(m.series)
    _require(len(m.df) in (1, rows), "df", m.df, f"one number, or {rows} for row 0 and each series")
    _require(all(math.isnan(x) or x > 0 for x in m.df), "df", m.df, "numbers above zero")
    _require(m.transform.get("kind") in ("log", "asinh"), "transform.kind", m.transform.get("kind"), "log or asinh")
    for bound in (m.transform.get("lower"), m.transform.get("upper")):
        _require(bound is None or type(bound) in (int, float), "transform domain", bound, "numbers `lower` and `upper`")
    _require(m.domain[0] < m.domain[1], "transform domain", m.domain, "lower below upper")
    _require(set(m.inputs) <= set(INPUTS), "inputs", m.inputs, f"some of {', '.join(INPUTS)}")
    _require(len(set(m.inputs)) == len(m.inputs), "inputs", m.inputs, "each at most once")


def _check_state(state: tuple[StateTensor, ...]) -> None:
    """Check each tensor, and that no two share a name."""
    for s in state:
        named = isinstance(s.name, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,64}", s.name) is not None
        _require(named, "state name", s.name, "1 to 64 letters, digits, _ or .")
        where = f"state {s.name}"
        _require(s.dtype in _DTYPES, f"{where} dtype", s.dtype, f"one of {', '.join(_DTYPES)}")
        _require(
            all(type(n) is int and n >= 1 for n in s.shape), f"{where} shape", s.shape, "whole numbers of at least 1"
        )
        holds = not math.isinf(s.initial) if s.dtype.startswith("float") else s.initial.is_integer()
        _require(holds, f"{where} initial", s.initial, f"a number that {s.dtype} holds")
        for field, text in (("unit", s.unit), ("meaning", s.meaning)):
            _require(isinstance(text, str) and _is_text(text), f"{where} {field}", text, "a text")
    _require(len({s.name for s in state}) == len(state), "state", [s.name for s in state], "names that differ")
