"""What an experiment of the study is, what it is given, and what it finds.

An experiment asks one question, in two sizes: `quick` for a look, `full` for the document. Its answer is a sentence
put together from the numbers by a rule, so that other numbers give another answer.

Comes in: nothing. Goes out: `Experiment`, `Conditions`, `Finding`. Imported by every experiment of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.steps import Data

Scale = Literal["quick", "full"]

Row = Mapping[str, str | int | float]
"""One line of a table, by the names of its columns."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What an experiment is run with, beside its sizes.

    Attributes
    ----------
    seed : int
        Seed of all that is drawn.
    progress : callable
        Is told what is at work now.
    data : Data or None
        Prices, for the experiments that need them.
    """

    seed: int = 0
    progress: Callable[[str], None] = lambda _: None
    data: Data | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an experiment found.

    Attributes
    ----------
    rows : sequence of Row
        The table; every row has the same columns.
    answer : str
        One sentence, made from the numbers.
    numbers : dict of float
        The few numbers that the answer rests on, by name.
    figure : callable or None
        Draws the finding; None where the table says it all.
    """

    rows: Sequence[Row]
    answer: str
    numbers: Mapping[str, float]
    figure: Callable[[], Figure] | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question of the study.

    Attributes
    ----------
    name : str
        What it is called on the command line.
    question : str
        One sentence.
    about : str
        What is done, in Markdown, with its sources.
    sizes : dict of Scale to a frozen dataclass
        How large it is.
    run : callable
        From one of these sizes and the conditions to what was found.
    on_prices : bool
        Whether it needs prices.
    """

    name: str
    question: str
    about: str
    sizes: Mapping[Scale, Any]
    run: Callable[[Any, Conditions], Finding]
    on_prices: bool = False
