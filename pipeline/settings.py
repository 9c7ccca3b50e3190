"""Settings: the differences from the defaults, written as TOML, become frozen dataclasses.

A configuration is a tree of frozen keyword-only dataclasses, each beside the code that it configures. Its
fields are int, float, str, bool, Path, Literal, tuples of these, `... | None`, tables of text, tables of tables and
further dataclasses; each has a line under `Attributes` in the docstring of its class, which is what `describe` and
`annotated_toml` print. TOML has no null: a setting that is left out keeps its default. Paths are taken as
written: a relative one starts at the working directory.

Comes in: a TOML file or a mapping, and overrides by dotted name. Goes out: configurations, and their JSON,
flat and digest forms. Knows the standard library only; may be imported by pipeline and flows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from models.errors import ConfigError, unknown

C = TypeVar("C")
Tree = dict[str, Any]
Where = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of documentation of a configuration.

    Attributes
    ----------
    name : str
        Dotted name, as in TOML.
    type : str
        What it takes, in words.
    default : Any
        Its default; `dataclasses.MISSING` where a value must be given.
    meaning : str
        Its line under `Attributes`.
    """

    name: str
    type: str
    default: Any
    meaning: str


# ------------------------------------------------------------------------------------------------------ loading


def load(cls: type[C], source: Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> C:
    """Make a `cls` from the differences that `source` holds, then those of `overrides`.

    A table changes the default of its field, which need not be the default of the field's class.

    Parameters
    ----------
    source : path of a TOML file, or a nested mapping as TOML would give it
    overrides : mapping of dotted name to value, such as `{"train.epochs": 3}`
        They win over `source`; see `assignments` for the command line.

    Raises
    ------
    ConfigError
        The file cannot be read or is not TOML; a setting is unknown, missing, of the wrong type or out of its
        range. The message names the setting, what came, and the file or override it came from.
    """
    changes = dict(overrides or {})
    tree = read(source) if isinstance(source, Path) else dict(source)
    origin = str(source) if isinstance(source, Path) else "the settings given"
    for name, value in changes.items():
        tree = _placed(tree, name.split("."), value)

    def where(name: str) -> str:
        if any(f"{name}.".startswith(f"{change}.") for change in changes):
            return "override"
        above = any(not name or change.startswith(f"{name}.") for change in changes)
        return f"{origin} or an override" if above else origin

    return _build(cls, None, tree, "", where)


def changed(config: C, changes: Mapping[str, Any], table: str) -> C:
    """Make a configuration from the differences to another one.

    Parameters
    ----------
    table : str
        Where the differences come from, for the message of an error, such as "pools.energy".

    Raises
    ------
    ConfigError
        As `load`.
    """
    return _build(type(config), config, changes, "", lambda _: table)


def assignments(texts: Iterable[str]) -> Tree:
    """Read `name=value` of a command line as overrides: TOML values, a bare word as text.

    >>> assignments(["train.epochs=3", "train.device=cpu", "train.rates=[0.1, 0.2]"])
    {'train.epochs': 3, 'train.device': 'cpu', 'train.rates': [0.1, 0.2]}
    """
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise ConfigError(f"an override is written name=value, such as train.epochs=3; came {text!r}")
        result[name.strip()] = _toml_value(value.strip())
    return result


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read(path: Path) -> Tree:
    """Read a TOML file as nested values."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"a readable settings file was expected at {path}: {error}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _placed(tree: Tree, keys: list[str], value: Any) -> Tree:
    """Put `value` at `keys` of a copy of `tree`, making tables on the way."""
    head, *rest = keys
    if rest:
        below = tree.get(head)
        value = _placed(dict(below) if isinstance(below, Mapping) else {}, rest, value)
    return tree | {head: value}


def _build(cls: Any, base: Any, tree: Any, prefix: str, where: Where) -> Any:
    """Make a `cls` from `base`, or from nothing, with the differences of `tree`."""
    if not isinstance(tree, Mapping):
        raise _wrong(prefix.rstrip("."), "a table", tree, where)
    fields, hints = _fields(cls), typing.get_type_hints(cls)
    values: Tree = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in fields:
            known = [f"{prefix}{field}" for field in fields]
            raise ConfigError(f"{unknown('setting', name, known)} (in {where(name)})")
        below = _default(fields[key]) if base is None else getattr(base, key)
        values[key] = _value(hints[key], below, value, name, where)
    if base is None:
        _refuse_missing(fields, values, prefix, where)
    return _made(cls, base, values, prefix.rstrip("."), where)


def _made(cls: Any, base: Any, values: Tree, table: str, where: Where) -> Any:
    try:
        return cls(**values) if base is None else dataclasses.replace(base, **values)
    except (ValueError, ConfigError) as error:
        at = f"{table}: " if table else ""
        raise ConfigError(f"{at}{error} (in {where(table)})") from error


def _refuse_missing(fields: dict[str, dataclasses.Field], values: Tree, prefix: str, where: Where) -> None:
    for key, field in fields.items():
        if key not in values and _default(field) is MISSING:
            name = f"{prefix}{key}"
            raise ConfigError(f"setting {name!r} has no default and must be given (in {where(name)})")


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


# ----------------------------------------------------------------------------------------------- values and types


def _value(hint: Any, base: Any, value: Any, name: str, where: Where) -> Any:
    """Turn `value` into what `hint` asks for, or say what was expected."""
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None
    if dataclasses.is_dataclass(hint):
        return _build(hint, base if dataclasses.is_dataclass(base) else None, value, f"{name}.", where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return _choice(typing.get_args(hint), value, name, where)
    if origin is tuple:
        return _row(hint, value, name, where)
    if origin is dict:
        inside = str if typing.get_args(hint)[1] is str else Mapping
        if isinstance(value, Mapping) and all(isinstance(v, inside) for v in value.values()):
            return dict(value)
        raise _wrong(name, _words(hint), value, where)
    return _scalar(hint, value, name, where)


def _scalar(hint: type, value: Any, name: str, where: Where) -> Any:
    accepted = {int: (int,), float: (float, int), str: (str,), bool: (bool,), Path: (str, Path)}[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(name, _words(hint), value, where)
    return hint(value)


def _choice(choices: tuple[Any, ...], value: Any, name: str, where: Where) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    known = [str(choice) for choice in choices]
    raise ConfigError(f"{unknown(f'value of {name}', str(value), known)} (in {where(name)})")


def _row(hint: Any, value: Any, name: str, where: Where) -> tuple[Any, ...]:
    """Turn a list into `tuple[X, ...]`, or into `tuple[X, Y]` of that many items."""
    hints = typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise _wrong(name, _words(hint), value, where)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise _wrong(name, _words(hint), value, where)
    return tuple(_value(h, None, v, f"{name}[{i}]", where) for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Take `None` out of `X | None`: (X, True); anything else: (hint, False)."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    (inner,) = (h for h in typing.get_args(hint) if h is not type(None))
    return inner, True


def _words(hint: Any) -> str:
    """Say in words what `hint` takes."""
    hint, optional = _without_none(hint)
    if optional:
        return f"{_words(hint)}, or left out"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin is tuple:
        inner = [_words(a) for a in args if a is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in args else f"list [{', '.join(inner)}]"
    if origin is dict:
        return "table of text" if args[1] is str else "table of tables"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}[hint]


def _wrong(name: str, expected: str, value: Any, where: Where) -> ConfigError:
    came = f"{value!r} ({type(value).__name__})"
    return ConfigError(f"setting {name!r} must be {expected}; came {came} (in {where(name)})")


# -------------------------------------------------------------------------------------------- forms of a configuration


def to_dict(config: Any) -> Tree:
    """Write a configuration as nested values that JSON knows; `load` reads them back."""
    return {name: _plain(getattr(config, name)) for name in _fields(type(config))}


def flat(config: Any) -> Tree:
    """Write a configuration as dotted names and values, such as `{"train.epochs": 3}`, for MLflow."""
    return dict(_leaves(to_dict(config), ""))


def digest(config: Any) -> str:
    """Hash a configuration: sha256 of its canonical JSON. Equal configurations have equal digests."""
    canonical = load(type(config), to_dict(config))  # 1 in a field of float is 1.0
    text = json.dumps(to_dict(canonical), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


def _leaves(tree: Tree, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --------------------------------------------------------------------------------------------------- documentation


def describe(cls: type) -> list[Setting]:
    """List every setting of `cls` with its type, default and documented line, tables after plain settings.

    Raises
    ------
    ConfigError
        A field has no line under `Attributes` in the docstring of its class.
    """
    return list(_described(cls, None, ""))


def annotated_toml(cls: type) -> str:
    """Write the defaults of `cls` as TOML with a comment above each setting; it loads back to the defaults.

    A setting without a value (none, or one that must be given) is written as a comment.
    """
    lines, table = [], ""
    for setting in describe(cls):
        above, _, key = setting.name.rpartition(".")
        if above != table:
            lines += [f"[{above}]", ""]
            table = above
        lines += [f"# {setting.meaning} ({setting.type})", _line(key, setting.default), ""]
    return "\n".join(lines)


def _line(key: str, value: Any) -> str:
    if value is MISSING:
        return f"# {key} =  must be given"
    if value == {}:
        return f"# {key} = {{}}"  # written out, it could not be added to
    return f"# {key} =" if value is None else f"{key} = {toml_value(value)}"


def _described(cls: type, base: Any, prefix: str) -> Iterator[Setting]:
    meanings, hints, fields = _meanings(cls), typing.get_type_hints(cls), _fields(cls)
    tables = []
    for key, field in fields.items():
        default = _default(field) if base is None else getattr(base, key)
        hint, _ = _without_none(hints[key])
        if dataclasses.is_dataclass(hint) and default is not None:
            tables.append((hint, None if default is MISSING else default, f"{prefix}{key}."))
            continue
        if key not in meanings:
            raise ConfigError(f"setting {prefix}{key} is not documented: add it under Attributes of {cls.__name__}")
        words = "table" if dataclasses.is_dataclass(hint) else _words(hints[key])
        yield Setting(name=f"{prefix}{key}", type=words, default=default, meaning=meanings[key])
    for table in tables:
        yield from _described(*table)


def _meanings(cls: type) -> dict[str, str]:
    """Read the `Attributes` section of a numpydoc docstring: name to its lines, joined."""
    section = re.search(r"^Attributes\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", _doc(cls), re.DOTALL | re.MULTILINE)
    result: dict[str, str] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else ():
        if line.startswith(" "):
            result |= {name: f"{result.get(name, '')} {line.strip()}".strip() for name in names}
        elif line:
            names = [name.strip() for name in line.split(" : ")[0].split(",")]
    return result


def _doc(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def toml_value(value: Any) -> str:
    """Write one value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml_value(k)} = {toml_value(v)}' for k, v in value.items())}}}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
