"""The page of a comparison: whole in itself, safe, bounded, the same bytes each time."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from simulated import HOUR, START, forecast_returns

from pipeline import metrics, page, slices
from pipeline.compare import CompareConfig, best_set, champion, comparison_table
from pipeline.cost import Cost
from pipeline.page import Content, drawn

ODD = '<b>&"'
"""A name that would break a page which does not escape it."""

VOID = {"meta", "br", "link", "img", "hr"}


class Parsed(HTMLParser):
    """What is on a page: text, attributes by tag, and whether every tag that opens is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def content(models: dict[str, float], names: tuple[str, ...], length: int = 150) -> Content:
    """Compare models that take the moves to be of the sizes given, in percent; their true size is 0.4 %."""
    returns = 0.004 * np.random.default_rng(4).standard_t(6, size=(len(names), length))
    forecasts = [
        forecast_returns(model, returns, scale=size / 100, df=6, names=names) for model, size in models.items()
    ]
    scale = dict.fromkeys(names, 0.4)
    config = CompareConfig(sets={f"first {ODD}": f"{names[0][:1]}*"})
    sliced = {f.model: slices.sliced(f, slices.label(f, "hour"), scale) for f in forecasts}
    return Content(
        title=f"Prices of {ODD}",
        facts={"Data": "sha256 5555", f"Note {ODD}": ODD, "bars": "1h", "horizon": "3 steps"},
        rows=comparison_table(forecasts, scale, config),
        decision=champion(forecasts, None, config),
        best=best_set(forecasts, config),
        forecasts=forecasts,
        slices={"hour": sliced, "one": {f.model: {"all": metrics.scores(f, scale)} for f in forecasts}},
        refits={"gru": [START + 50 * HOUR, START + 100 * HOUR]},
        costs={m: Cost(seconds=61.5, refits=2, microseconds=21.3, state_bytes=136, parameters=4321) for m in models},
        reference="last_value",
        alpha=config.alpha,
    )


MODELS = {"last_value": 0.8, "ar": 0.6, "gru": 0.31, ODD: 0.33, "hopeless": 9.0}


@pytest.fixture(scope="module")
def told() -> Content:
    """Compare five models on three series of odd names."""
    return content(MODELS, (f"a {ODD}", "b $x$ $y$", "c"))


@pytest.fixture(scope="module")
def html(told: Content) -> str:
    """Write its page."""
    return page.page(told, page.drawn(told))


def test_the_page_is_whole_in_itself(html: str) -> None:
    """It parses, has no script, and refers to nothing outside: no address, and links only to its own ids."""
    parsed = Parsed(html)
    assert not re.search(r"https?:|//\w|@import|<script|<link|javascript|data:", html)
    ids = Counter(a["id"] for _, a in parsed.tags if "id" in a)
    assert ids
    assert max(ids.values()) == 1
    referred = set(re.findall(r'href="([^"]*)"|url\(([^)]*)\)', html))
    assert {(href or url).removeprefix("#") for href, url in referred} <= ids.keys()
    assert not {"src", "srcset", "onclick", "onload"} & {name for _, a in parsed.tags for name in a}


def test_names_are_shown_as_they_are(html: str) -> None:
    """Models, series, sets and facts that look like tags or formulas are text, in words and in figures."""
    parsed = Parsed(html)
    assert ODD not in html
    assert f"Prices of {ODD}" in parsed.text
    assert f"On first {ODD}" in parsed.text
    assert f"Note {ODD}{ODD}" in parsed.text
    assert f"a {ODD}, made" in parsed.text
    assert "b $x$ $y$" in parsed.text
    assert len(parsed.all("b")) == 1


def test_the_same_content_gives_the_same_bytes(told: Content, html: str) -> None:
    """A page made twice is one page."""
    assert page.page(told, page.drawn(told)) == html


def test_the_decision_and_every_verdict_come_before_any_figure(told: Content, html: str) -> None:
    """A reader of one minute finds who serves and a sentence for each model on top, best model first."""
    top = html[: html.index("<svg")]
    assert (
        f"{told.decision.model} is to serve: {told.decision.reason}."
        in Parsed(f"{top}</figure></div></body></html>").text
    )
    pooled = {r.model: r for r in told.rows if r.series == metrics.POOLED}
    listed = [[unescape(x) for x in re.findall(f"<{tag}>(.*?)</{tag}>", top)] for tag in ("dt", "dd")]
    ranked = sorted(pooled, key=lambda m: pooled[m].scores["crps"])
    assert listed[0][: len(ranked)] == ranked
    assert listed[1][: len(ranked)] == [pooled[m].verdict.text.removeprefix(f"{m} ") for m in ranked]


def test_every_figure_has_a_label_and_labelled_axes(told: Content, html: str) -> None:
    """Each figure says in a sentence what it shows, on the page too, and names both axes."""
    figures = drawn(told)
    labels = [str(figure.get_label()) for figure in figures.values()]
    assert all(len(label) > 20 for label in labels)
    on_page = Parsed(html).all("svg")
    assert [svg["role"] for svg in on_page] == ["img"] * len(figures)
    assert sorted(str(svg["aria-label"]) for svg in on_page) == sorted(labels)
    for name, figure in figures.items():
        assert figure.axes[0].get_ylabel(), name
        assert figure.axes[-1].get_xlabel(), name


def test_figures_have_names_for_files(told: Content) -> None:
    """A figure of a model or series of any name can be saved under its key, in the order of the page."""
    names = list(drawn(told))
    assert all(re.fullmatch(r"[a-z]+(-\d+(-[A-Za-z0-9-]+)?)?", name) for name in names)
    kinds = [name.split("-")[0] for name in names]
    assert list(dict.fromkeys(kinds)) == ["ranking", "skill", "calibration", "worst", "usual", "by"]
    assert Counter(kinds) == Counter(ranking=1, skill=1, calibration=5, worst=3, usual=3, by=1)


def test_slices_of_one_label_are_not_drawn(told: Content) -> None:
    """What does not vary has no figure: hours are drawn, the slice of everything is not."""
    assert [name for name in drawn(told) if name.startswith("by")] == ["by-1-hour"]


def test_every_row_is_in_the_table_with_its_numbers(told: Content, html: str) -> None:
    """Skill, interval and p of each test stand in the page, pooled, by set and by series."""
    text = Parsed(html).text
    tests = [c for r in told.rows for c in r.verdict.against]
    assert len(tests) == 4 * 5  # models but for the reference, on three series, a set and pooled
    for c in tests:
        assert f"{100 * c.skill:+.1f} % [{100 * c.low:.1f}, {100 * c.high:.1f}]" in text
    assert text.count("★") > len([p for p in told.best.values() if p >= told.alpha])


def test_what_was_forecast_stands_below_the_decision(html: str) -> None:
    """Bars and horizon are said before the first verdict, in their order, those that are known."""
    assert html.index("is to serve") < html.index("bars: 1h; horizon: 3 steps</p>") < html.index("<dl>")


def test_costs_and_facts_are_told(html: str) -> None:
    """Seconds, refits, microseconds, bytes and parameters, the level of tests and the policy on NaN are there."""
    assert re.findall(r"<tr><td>[^<]*</td>\s*" + r"<td>(\S*)</td>\s*" * 5, html).count(
        ("61.5", "2", "21", "136", "4,321")
    ) == len(MODELS)
    assert all(said in Parsed(html).text for said in ("sha256 5555", "0.05, two-sided", "no row is skipped"))


def test_figures_follow_the_colours_of_the_page(html: str) -> None:
    """Every colour of a figure is a variable that has a light and a dark value."""
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.search(r"(?:fill|stroke): #", drawings)
    used = set(re.findall(r"var\((--c\w+)\)", drawings))
    light, dark = (set(re.findall(r"(--c\w+):", part)) for part in re.findall(r":root \{(.*?)\}", html))
    assert len(used) > 5
    assert used <= light == dark


def test_a_model_that_serves_but_was_not_compared_does_not_end_the_page(told: Content) -> None:
    """Where the decision names a model without forecasts, the single forecasts are of another one, named."""
    other = replace(told, decision=replace(told.decision, model="incumbent"), costs={}, slices={}, refits={})
    text = Parsed(page.page(other, page.drawn(other))).text
    assert "incumbent is to serve" in text
    assert "Single forecasts of last_value" in text
    assert "One tick" not in text


def test_the_page_is_bounded() -> None:
    """Fourteen models of 70 series and 400 origins: below 5 MB, and what is left out is said."""
    models = {"last_value": 0.8, "ar": 0.6} | {f"net {k}": 0.3 + k / 100 for k in range(12)}
    few = content(models, ("a", "b"), length=1500)
    row = few.rows[0]
    more = [replace(row, series=f"series {k}", model=m) for k in range(70) for m in models]
    whole = page.page(replace(few, rows=[*few.rows, *more]), page.drawn(few))
    assert len(whole) < 5e6
    assert "2 models of higher CRPS are in the table" in whole
    assert "12 more series are in comparison.json" in whole
    assert Counter(name.split("-")[0] for name in drawn(few))["calibration"] == 12
