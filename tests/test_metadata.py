"""The metadata of a model file is strict JSON, comes back as it went in, and refuses every kind of damage."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import metadata

from models.errors import ModelError
from models.observation import StateTensor
from pipeline.metadata import FORMAT, INPUTS, Metadata

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.just("") | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MAPPING = st.dictionaries(TEXT, PLAIN, max_size=4)
DF = st.floats(min_value=0, exclude_min=True, allow_infinity=True) | st.just(math.nan)


@st.composite
def state_tensors(draw: st.DrawFn) -> StateTensor:
    """Draw one state tensor with an initial value that its number type holds."""
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "bool"]))
    floating = FINITE | st.just(math.nan)
    initial = draw(floating if dtype.startswith("float") else st.integers(0, 1).map(float))
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    name = draw(st.from_regex(r"[a-z0-9_.]{1,8}", fullmatch=True))
    return StateTensor(name, shape, dtype, initial, draw(TEXT), draw(st.text(max_size=5).filter(str.isascii)))


@st.composite
def described(draw: st.DrawFn) -> Metadata:
    """Draw metadata of any model."""
    series = tuple(draw(st.lists(TEXT, unique=True, max_size=4)))
    rows = draw(st.sampled_from([1, 1 + len(series)]))
    return Metadata(
        name=draw(TEXT),
        kind=draw(TEXT),
        transform=draw(MAPPING) | {"kind": draw(st.sampled_from(["log", "asinh"])), "lower": 0, "upper": 1e15},
        block=draw(st.integers(1, 25)),
        horizon=draw(st.integers(1, 50)),
        series=series,
        df=tuple(draw(st.lists(DF, min_size=rows, max_size=rows))),
        state=tuple(draw(st.lists(state_tensors(), unique_by=lambda s: s.name, max_size=4))),
        inputs=tuple(draw(st.lists(st.sampled_from(INPUTS), unique=True))),
        past=tuple(draw(st.lists(TEXT, max_size=3))),
        future=tuple(draw(st.lists(TEXT, max_size=3))),
        grid=draw(st.sampled_from(["tick", "1s", "15m", "1h", "1d", "2w"])),
        cutoff_time=draw(st.sampled_from(["2024-01-31T00:00:00Z", "1999-12-31T23:59:59.000001+00:00"])),
        data_sha256=draw(st.from_regex("[0-9a-f]{64}", fullmatch=True)),
        commit=draw(TEXT),
        config=draw(MAPPING),
        parity=draw(MAPPING),
    )


@given(described())
def test_metadata_come_back_as_they_went_in(written: Metadata) -> None:
    """Writing and reading gives an equal object and the same text, NaN and infinity included."""
    text = written.to_json()
    again = Metadata.from_json(text)
    assert again == written
    assert again.to_json() == text
    assert Metadata.from_json(text.encode()) == written


@given(described())
def test_the_text_is_standard_json(written: Metadata) -> None:
    """A strict reader accepts the text: there is no NaN and no infinity in it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(written.to_json(), parse_constant=refuse)


def test_numbers_that_json_lacks_are_words() -> None:
    """The normal, no density and an unknown initial price are written as words or null."""
    plain = orjson.loads(metadata().to_json())
    assert plain["df"] == [5.0, "normal", "none"]
    assert plain["state"][0]["initial"] is None


def test_tuples_in_settings_come_back_as_lists() -> None:
    """Settings are normalised on construction, so that equality holds across the file."""
    made = metadata(config={"sizes": (1, 2), "inner": {"lags": ((1,), 2)}})
    assert made.config == {"sizes": [1, 2], "inner": {"lags": [[1], 2]}}
    assert Metadata.from_json(made.to_json()) == made


def test_a_newer_format_is_refused_before_its_fields_are_read() -> None:
    """A file of a later version says so, whatever else it holds."""
    text = orjson.dumps({"format": FORMAT + 1, "invented": 1})
    with pytest.raises(ModelError, match="newer than 1, which this version reads"):
        Metadata.from_json(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"3", b"\xff", b'{"format": true}', b'{"format": "1"}', b"{}", b'{"format": NaN}'],
)
def test_text_that_is_no_metadata_is_refused(text: bytes) -> None:
    """Damaged text raises ModelError and nothing else."""
    with pytest.raises(ModelError):
        Metadata.from_json(text)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(place: int, value: int) -> None:
    """One byte overwritten anywhere gives valid metadata or ModelError, never another error."""
    text = bytearray(metadata().to_json().encode())
    text[place % len(text)] = value
    try:
        read = Metadata.from_json(bytes(text))
    except ModelError:
        return
    assert Metadata.from_json(read.to_json()) == read


@given(st.sampled_from(sorted(orjson.loads(metadata().to_json()))), PLAIN)
def test_a_field_of_another_type_is_refused_or_harmless(field: str, value: Any) -> None:
    """Any JSON value in the place of a field gives valid metadata or ModelError, never another error."""
    plain = orjson.loads(metadata().to_json()) | {field: value}
    try:
        read = Metadata.from_json(orjson.dumps(plain))
    except ModelError:
        return
    assert Metadata.from_json(read.to_json()) == read


def test_unknown_and_missing_fields_are_named() -> None:
    """The message names the nearest known field, or the one that is missing."""
    plain = orjson.loads(metadata().to_json())
    with pytest.raises(ModelError, match="unknown field 'horizn': did you mean 'horizon'"):
        Metadata.from_json(orjson.dumps(plain | {"horizn": 1}))
    del plain["parity"]
    with pytest.raises(ModelError, match="missing parity"):
        Metadata.from_json(orjson.dumps(plain))


_PRICE = metadata().state[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name"),
        ({"block": 0}, "block"),
        ({"horizon": 1.0}, "horizon"),
        ({"horizon": True}, "horizon"),
        ({"levels": (0.5, 0.1)}, "levels"),
        ({"levels": (0.1, 0.9)}, "levels"),
        ({"levels": (0.5, 1.0)}, "levels"),
        ({"series": ("A", "A"), "df": (1.0,)}, "series"),
        ({"df": (1.0, 2.0)}, "df"),
        ({"df": (0.0,)}, "df"),
        ({"transform": {"kind": "box-cox"}}, "transform.kind"),
        ({"transform": {"kind": "log", "lower": 2.0, "upper": 1.0}}, "lower below upper"),
        ({"transform": {"kind": "log", "lower": "0"}}, "transform domain"),
        ({"series": "AAPL"}, "a list of names"),
        ({"inputs": ("price", "volume")}, "inputs"),
        ({"inputs": ("price", "price")}, "inputs"),
        ({"grid": "1y"}, "grid"),
        ({"grid": "0d"}, "grid"),
        ({"cutoff_time": "2024-01-31"}, "cutoff_time"),
        ({"cutoff_time": "2024-01-31T00:00:00+01:00"}, "cutoff_time"),
        ({"data_sha256": "A" * 64}, "data_sha256"),
        ({"config": {"rate": math.inf}}, "config.rate"),
        ({"config": {"sizes": [1, {2}]}}, r"config.sizes\[1\]"),
        ({"config": {"text": "\ud800"}}, "config.text"),
        ({"parity": {"n": 2**70}}, "parity.n"),
        ({"state": (_PRICE, _PRICE)}, "names that differ"),
        ({"state": (replace(_PRICE, name="a/b"),)}, "state name"),
        ({"state": (replace(_PRICE, dtype="float16"),)}, "dtype"),
        ({"state": (replace(_PRICE, shape=(0,)),)}, "shape"),
        ({"state": (replace(_PRICE, initial=math.inf),)}, "initial"),
        ({"state": (replace(_PRICE, dtype="int64"),)}, "initial"),
        ({"format": 2}, "format"),
    ],
)
def test_a_field_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    """Each field is checked when the object is made, and the message names it."""
    with pytest.raises(ModelError, match=message):
        metadata(**changes)


@pytest.mark.parametrize(
    ("grid", "us"), [("1s", 10**6), ("15m", 9 * 10**8), ("2h", 72 * 10**8), ("1d", 864 * 10**8), ("1w", 6048 * 10**8)]
)
def test_a_bar_has_its_length(grid: str, us: int) -> None:
    """The length of a bar in microseconds follows from the grid; ticks have none."""
    assert metadata(grid=grid).bar_us == us
    assert metadata(grid="tick").bar_us is None


def test_the_domain_is_that_of_the_transform() -> None:
    """Bounds that are absent or null leave the line open."""
    assert metadata().domain == (1e-15, 1e15)
    assert metadata(transform={"kind": "asinh", "upper": None}).domain == (-math.inf, math.inf)
