"""The study as a document: a question, what was done, a table, a figure and an answer for each experiment.

Comes in: experiments and their results. Goes out: Markdown. Imported by the command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic import replacing
from pipeline.study.experiment import Experiment
from pipeline.study.runs import Result

INTRODUCTION = """# Why each part is there

A recurrent forecaster has parts that are often taken for granted: gates, a carried state, truncated backpropagation,
clipping, packing. Here each one is asked what it is for, and the answer is measured. The sentence after each question
is put together from the numbers by a rule; what did not help is told as what did.

Written by `statecast study{full} --out {folder}`; `statecast study --list` names the experiments,
`statecast study NAME` runs one in its small size.
"""


def write(experiments: Iterable[Experiment], results: Mapping[str, Result], folder: Path) -> Path:
    """Write the document beside the folder of the results, under its name; give the path."""
    path = folder.with_name(f"{folder.name}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(markdown(experiments, results, folder).encode())
    return path


def markdown(experiments: Iterable[Experiment], results: Mapping[str, Result], folder: Path) -> str:
    """Lay out the results that there are: the answers first, then each experiment."""
    shown = [(e, results[e.name]) for e in experiments if e.name in results]
    full = " --full" if any(result.scale == "full" for _, result in shown) else ""
    where = folder.as_posix() if not folder.is_absolute() else folder.name
    answers = [{"question": f"[{e.question}](#{e.name.replace('_', '-')})", "answer": r.answer} for e, r in shown]
    parts = [INTRODUCTION.format(full=full, folder=where), table(answers)]
    parts += [_section(experiment, result, folder.name) for experiment, result in shown]
    return "\n".join(parts)


def _section(experiment: Experiment, result: Result, folder: str) -> str:
    """Tell one experiment."""
    made = f"*{result.scale} size, {result.seconds:.0f} s, {result.made_on}, {result.machine}.*"
    figure = f"![{experiment.question}]({folder}/{result.figure})\n" if result.figure else ""
    title = experiment.name.replace("_", " ").capitalize()
    anchor = f'<a id="{experiment.name.replace("_", "-")}"></a>\n'
    head = [f"\n## {title}\n{anchor}", f"**{experiment.question}** {result.answer}\n", f"{experiment.about}\n"]
    return "\n".join([*head, table(result.rows), figure, f"{made}\n"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows as a Markdown table; numbers stand to the right.

    >>> print(table([{"kind": "gru", "loss": 0.12344}]))
    | kind | loss |
    |:---|---:|
    | gru | 0.1234 |
    <BLANKLINE>
    """
    columns = list(rows[0])
    rule = ["---:" if not isinstance(rows[0][name], str) else ":---" for name in columns]
    lines = [columns, *([cell(row[name]) for name in columns] for row in rows)]
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([body[0], f"|{'|'.join(rule)}|", *body[1:], ""])


def cell(value: object) -> str:
    """Write a value: numbers in four digits, what is none as a dash.

    >>> cell(1234567.0), cell(0.000012345), cell(3), cell(None), cell(0.5)
    ('1.235e+06', '1.234e-05', '3', '–', '0.5')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
