"""A comparison as one HTML page: what a reader needs in a minute first, what a sceptic asks for after it.

The page holds everything inside itself, needs no network and no scripts, follows a light or dark screen, and can be
printed. What is drawn and listed is bounded, and it says where something was left out. The same content gives the
same bytes. `docs/reading-a-comparison.md` explains it.

Comes in: `Content`. Goes out: the text of a page, and the figures in it by name. The one file that knows jinja2;
imported by judging.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.comparison_figures import episodes, origin_fan, ranking, skill_by_slice
from pipeline.cost import Cost
from pipeline.drawing import DARK, svg, variable
from pipeline.figures import calibration, skill_over_time
from pipeline.forecasts import Forecasts
from pipeline.metrics import POOLED, Scores
from pipeline.verdicts import Comparison, Direction, p_text, references_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.compare import Decision, Row

MODELS = 12
"""Most models in a figure, those of lowest CRPS."""

SERIES = 60
"""Most series in the table; all are in comparison.json."""

EPISODES = 3
"""Worst origins that are drawn, and as many usual ones."""

SIGNS = {"better": "▲", "worse": "▼", "identical": "=", "indistinguishable": "≈"}


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is told of a comparison.

    Attributes
    ----------
    title : str
    facts : dict of str
        How it was made, in the order shown: digest of the data, split dates, horizon, origins, commit, versions.
    rows : list of Row
        Every model on every series, every set, and "pooled".
    decision : Decision
    best : dict of float
        By model, the p-value of its membership of the best set by pooled CRPS; members have at least `alpha`.
    forecasts : list of Forecasts
        One a model, on the same rows.
    slices : dict
        By what was sliced by (hour, regime, step), by model, by label: scores. Empty where nothing was sliced.
    refits : dict of lists of int
        By model, the moments from which a new fit served: microseconds since 1970, UTC.
    costs : dict of Cost
        By model; empty where nothing was measured.
    reference : str
        The last value: what skill over time and in slices is measured against.
    alpha : float
        Level of the tests, in (0, 0.5).
    """

    title: str
    facts: Mapping[str, str]
    rows: Sequence[Row]
    decision: Decision
    best: Mapping[str, float]
    forecasts: Sequence[Forecasts]
    slices: Mapping[str, Mapping[str, Mapping[str, Scores]]]
    refits: Mapping[str, Sequence[int]]
    costs: Mapping[str, Cost]
    reference: str
    alpha: float


def page(content: Content, figures: Mapping[str, Figure]) -> str:
    """Write the page around its figures, as `drawn` gives them.

    Raises
    ------
    ComparisonError
        The reference is not among the models, or their rows differ.
    """
    from jinja2 import Environment, StrictUndefined

    pictures = {name: svg(figure, name) for name, figure in figures.items()}
    template = resources.files("pipeline").joinpath("page.html").read_text(encoding="utf-8")
    html = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return html.from_string(template).render(
        title=content.title,
        decision=content.decision,
        sentences=_sentences(content),
        references=references_of(r.verdict for r in content.rows),
        main_table=_table(content, [POOLED, *_sets(content)]),
        series_table=_table(content, _series(content)[:SERIES]),
        hidden_series=max(len(_series(content)) - SERIES, 0),
        hidden_models=max(len(_ranked(content)) - MODELS, 0),
        pictures={
            kind: _of_kind(pictures, kind) for kind in ("ranking", "skill", "calibration", "worst", "usual", "by")
        },
        shown_model=_shown_model(content),
        costs=[(name, content.costs[name]) for name in _ranked(content) if name in content.costs],
        facts=content.facts,
        reference=content.reference,
        alpha=content.alpha,
        palette={variable(light): (light, dark) for light, dark in DARK.items()},
        signs=SIGNS,
    )


def drawn(content: Content) -> dict[str, Figure]:
    """Draw every figure of the page, by a name that can stand in the name of a file.

    Raises
    ------
    ComparisonError
        The reference is not among the models, or their rows differ.
    """
    pooled = {r.model: r.verdict for r in content.rows if r.series == POOLED}
    by_name = {f.model: f for f in content.forecasts}
    shown = [name for name in _ranked(content)[:MODELS] if name in by_name]
    figures = {}
    if any(pooled[name].against for name in shown):
        figures["ranking"] = ranking([pooled[name] for name in shown], _members(content), content.alpha)
    beside = [by_name[name] for name in dict.fromkeys([*shown, content.reference]) if name in by_name]
    if len(beside) > 1:
        figures["skill"] = skill_over_time(beside, content.reference, content.refits)
    figures |= _on_one_scale(
        {_slug("calibration", k, name): calibration(by_name[name]) for k, name in enumerate(shown)}
    )
    return figures | _fans(by_name[_shown_model(content)]) | _slices(content, shown)


def _on_one_scale(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Give the panels of several figures the same vertical range, so that models can be compared by eye.

    The range is that of the widest, or three times that of the typical one where the widest would flatten the others.
    """
    for panels in zip(*(f.axes for f in figures.values()), strict=True):
        limits = np.array([ax.get_ylim() for ax in panels])
        reach = np.abs(limits).max(axis=1)
        top = float(min(reach.max(), 3 * np.median(reach)))
        for ax in panels:
            ax.set_ylim(-top if (limits < 0).any() else 0, top)
    return figures


def _fans(forecasts: Forecasts) -> dict[str, Figure]:
    """Draw the worst origins of a model, and usual ones."""
    kinds = zip(("worst", "usual"), episodes(forecasts, EPISODES), strict=True)
    return {
        _slug(kind, k, series): origin_fan(forecasts, series, time)
        for kind, found in kinds
        for k, (series, time) in enumerate(found)
    }


def _slices(content: Content, shown: Sequence[str]) -> dict[str, Figure]:
    """Draw skill within slices, where there is more than one."""
    figures = {}
    for k, (by, models) in enumerate(content.slices.items()):
        chosen = {name: models[name] for name in dict.fromkeys([*shown, content.reference]) if name in models}
        if len(chosen) > 1 and len(next(iter(chosen.values()))) > 1:
            figures[_slug("by", k, by)] = skill_by_slice(chosen, by, content.reference)
    return figures


def _slug(kind: str, place: int, name: str) -> str:
    """Name a figure for files and for ids: its kind and place, and what is left of a name without odd characters."""
    return f"{kind}-{place + 1}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:40]}".rstrip("-")


def _of_kind(pictures: Mapping[str, Any], kind: str) -> list[Any]:
    return [picture for name, picture in pictures.items() if name.split("-")[0] == kind]


# ------------------------------------------------------------------------------------------------ words, tables


def _ranked(content: Content) -> list[str]:
    """List the models of the table, lowest pooled CRPS first, those without one last."""
    pooled = {r.model: r.scores["crps"] for r in content.rows if r.series == POOLED}
    return sorted(pooled, key=lambda name: (np.isnan(pooled[name]), pooled[name]))


def _members(content: Content) -> set[str]:
    return {name for name, p in content.best.items() if p >= content.alpha}


def _series(content: Content) -> list[str]:
    return list(dict.fromkeys(r.series for r in content.rows if not r.members and r.series != POOLED))


def _sets(content: Content) -> list[str]:
    return list(dict.fromkeys(r.series for r in content.rows if r.members and r.series != POOLED))


def _shown_model(content: Content) -> str:
    """Name the model whose single forecasts are drawn: the one that is to serve, where its forecasts are there."""
    there = [f.model for f in content.forecasts]
    return content.decision.model if content.decision.model in there else there[0]


def _sentences(content: Content) -> list[tuple[str, list[tuple[str, str]]]]:
    """Give the verdicts of pooled and of each set: (name, [(model, sentence), ...]), the best model first."""
    parts = [POOLED, *_sets(content)]
    text = {(r.model, r.series): r.verdict.text for r in content.rows}
    ranked = _ranked(content)
    return [(part, [(m, text[m, part].removeprefix(f"{m} ")) for m in ranked if (m, part) in text]) for part in parts]


def _table(content: Content, parts: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Give the lines of each part of the table: (series, set or "pooled", its models, the best of all first)."""
    rows = {(r.model, r.series): r for r in content.rows}
    ranked, members = _ranked(content), _members(content)
    return [
        (part, [_line(rows[m, part], part == POOLED and m in members) for m in ranked if (m, part) in rows])
        for part in parts
    ]


def _line(row: Row, member: bool) -> dict[str, Any]:
    """Give the cells of one line, numbers as text."""
    s, verdict = row.scores, row.verdict
    return {
        "model": row.model,
        "member": member,
        "crps": f"{s['crps']:.4g}",
        "rmae": f"{s['rmae']:.4f}",
        "coverage": [f"{s[f'coverage_{p}']:.1%}" for p in (80, 95)],
        "against": {c.reference: _cell(c) for c in verdict.against},
        "price": _cell(verdict.price) if verdict.price else None,
        "direction": _called(verdict.direction) if verdict.direction else None,
    }


def _cell(c: Comparison) -> dict[str, str]:
    """Put a comparison in a cell: effect, interval and p together."""
    if c.verdict == "identical":
        return {"verdict": c.verdict, "effect": "identical", "p": ""}
    effect = f"{100 * c.skill:+.1f} % [{100 * c.low:.1f}, {100 * c.high:.1f}]"
    return {"verdict": c.verdict, "effect": effect, "p": p_text(c.p_adjusted)}


def _called(d: Direction) -> dict[str, str]:
    return {
        "effect": f"{d.hit_rate:.1%} [{100 * d.low:.1f}, {100 * d.high:.1f}]",
        "p": p_text(d.p_adjusted),
        "verdict": "skill" if d.skill else "no skill",
    }
