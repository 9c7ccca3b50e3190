"""Every error that statecast raises on purpose, in one tree.

    StatecastError
    ├── DataError            the prices or the rows given are wrong          (exit code 3)
    │   ├── SchemaError      a column is missing or has the wrong type
    │   └── PolicyError      a named policy met rows that it refuses
    ├── ConfigError          a setting is unknown or out of range            (exit code 4)
    ├── ModelError           a model cannot be fitted, read or served        (exit code 5)
    │   ├── FitError         the fit could not be done on these data
    │   ├── ParityError      the exported graph does not equal its model
    │   └── IntegrityError   a file is not the one that was published
    ├── ComparisonError      forecasts that cannot be compared were compared (exit code 6)
    ├── TransientError       a service did not answer; trying again may help (exit code 7)
    └── LeakageError         something of the past depends on the future     (exit code 8)

Only `transient` decides a retry. A message says what was expected, what came, where, and what to do.
Comes in: nothing. Goes out: exceptions. May be imported by: everything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StatecastError(Exception):
    """Base of the tree: catch this to catch everything that statecast raises on purpose."""

    transient: bool = False
    exit_code: int = 2


class DataError(StatecastError):
    """The prices or rows given cannot be used as they are."""

    exit_code = 3


class SchemaError(DataError):
    """A column is missing or has the wrong type."""


class PolicyError(DataError):
    """Rows met a policy that refuses them."""


class ConfigError(StatecastError):
    """A setting is unknown or outside its range."""

    exit_code = 4


class ModelError(StatecastError):
    """A model cannot be fitted, read or served."""

    exit_code = 5


class FitError(ModelError):
    """A fit could not be done on these data; `row` is the parameter row of the series at fault, if it is one."""

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class ParityError(ModelError):
    """An exported graph does not reproduce its model."""


class IntegrityError(ModelError):
    """A file is not the one that was published."""


class ComparisonError(StatecastError):
    """Forecasts that cannot be compared were compared."""

    exit_code = 6


class TransientError(StatecastError):
    """A service did not answer; the same call may succeed later."""

    transient = True
    exit_code = 7


class LeakageError(StatecastError):
    """What was made of the past depends on the future; `report` tells of all that was checked."""

    exit_code = 8

    def __init__(self, message: str, *, report: object = None) -> None:
        super().__init__(message)
        self.report = report


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is not a known `what`, which one is nearest, and which there are.

    >>> unknown("model kind", "lsmt", ["gru", "lstm"])
    "unknown model kind 'lsmt': did you mean 'lstm'? Known: gru, lstm"
    >>> unknown("covariate", "load", [])
    "unknown covariate 'load'. Known: none"
    """
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f": did you mean {nearest[0]!r}?" if nearest else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(choices) or 'none'}"
