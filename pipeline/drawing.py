"""How figures look: canvas, colours, lines that can be told apart, and the form in which a page takes them in.

Colours are those of Okabe and Ito, told apart by colour-blind readers; a line also has its own dash and marker. Figures
are objects of their own, without pyplot: no global state, no display, nothing to close. The label of a figure
(`Figure.set_label`) says in a sentence what it shows, for those who do not see it.

Comes in: sizes, names of models, figures. Goes out: empty canvases, styles of lines, SVG. Knows matplotlib, imported
when a figure is made; imported by figures, comparison_figures and page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, GREY, GRID, PAPER = "#222222", "#8A8A8A", "#E6E6E6", "#FFFFFF"
LINES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FAN = {95: "#DCEAF4", 80: "#B3D1E6", 50: "#7FB2D6"}
"""Fill of each central interval, lightest widest: told apart by lightness alone."""

DARK = {
    INK: "#E8E8E8",
    GREY: "#9A9A9A",
    GRID: "#3A3A3A",
    PAPER: "#16181C",
    BLUE: "#4FA3DC",
    ORANGE: "#F0B43C",
    GREEN: "#2BC49A",
    VERMILION: "#F58B4C",
    PURPLE: "#DD9CBF",
    SKY: "#A5DAF7",
    FAN[95]: "#1B3345",
    FAN[80]: "#24506F",
    FAN[50]: "#2F729F",
}
"""Each colour of a figure, and what takes its place on a dark page."""

DRAWN_POINTS = 1000
"""Most points of one line: more than there are pixels."""


def canvas(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    sharex: bool = False,
    sharey: bool = False,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make an empty figure of `width` x `height` inches with its panels, the rows of equal or given heights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False, height_ratios=heights)
    axes = list(panels.ravel())
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=GRID, lw=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def strokes(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give each name a colour, a dash and a marker, the same wherever the same names come in the same order."""
    return {
        name: {
            "color": LINES[i % len(LINES)],
            "ls": ("-", "--", ":")[i // len(LINES) % 3],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }


def thinned(count: int) -> np.ndarray:
    """Choose which of `count` points of a line are drawn: at most `DRAWN_POINTS`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, DRAWN_POINTS)).astype(int))


def floor(values: Iterable[float]) -> float:
    """Say below which value a picture may end, so that one hopeless model does not flatten the others.

    Four times as far below zero as the typical value is from it, or twice as far as the highest is above it.
    """
    known = np.array([v for v in values if np.isfinite(v)])
    return -float(max(4 * np.median(np.abs(known)), 2 * known.max(), 0.0)) if len(known) else 0.0


def focus(ax: Axes, lines: Iterable[np.ndarray]) -> float:
    """End the vertical axis at the `floor` of all lines, where one goes below it; give that value."""
    values = np.concatenate([*lines])
    lowest, known = floor(values), values[np.isfinite(values)]
    if len(known) and known.min() < lowest:
        ax.set_ylim(1.1 * lowest, max(1.1 * known.max(), -0.1 * lowest))
    return lowest


def time_axis(ax: Axes, label: str) -> None:
    """Let the horizontal axis show times, and name it.

    Three ticks are enough: for a span of four or five days no step of the locator gives five to seven, and it warns.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_xlabel(label)


def moments(microseconds: np.ndarray) -> np.ndarray:
    """Give microseconds since 1970 as times that an axis takes."""
    return microseconds.astype("datetime64[us]")


def literal(figure: Figure) -> Figure:
    """Let all text of the figure stand as it is: a series may be named with dollar signs, which begin formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    return figure


def svg(figure: Figure, name: str) -> str:
    """Write the figure as SVG to stand inside an HTML page, in the page's font and colours.

    Each colour of `DARK` becomes the CSS variable of `variable`; ids begin with `name`, so that those of several
    figures on one page differ. The same figure gives the same text.

    Parameters
    ----------
    name : str
        Letters, digits and hyphens.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        literal(figure).savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    referred = set(re.findall(r"#([\w.-]+)[\")]", body))
    tagged = re.sub(r"<[^>]*>", lambda tag: _of_the_page(tag[0], name, referred), body)
    return _framed(re.sub(r">\s+<", "><", tagged), figure)


def variable(colour: str) -> str:
    """Name the CSS variable that stands for a colour."""
    return f"--c{colour[1:].lower()}"


def _of_the_page(tag: str, name: str, referred: set[str]) -> str:
    """Give a tag the page's colours and font, ids of its own, and numbers of two decimals."""
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", tag)
    tag = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", tag).replace("xlink:href", "href")
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"(?<=: )#[0-9a-f]{6}", _colour, tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
    return " ".join(tag.split())


def _colour(match: re.Match[str]) -> str:
    colour = {"#000000": INK, "#cccccc": GRID}.get(match[0], match[0].upper())  # matplotlib's text, frame of a legend
    return f"var({variable(colour)})" if colour in DARK else match[0]


def _framed(text: str, figure: Figure) -> str:
    """Replace the outer tag: as wide as the page allows, named for screen readers."""
    from xml.sax.saxutils import quoteattr

    width, height = 72 * figure.get_size_inches()
    label = quoteattr(str(figure.get_label()))
    size = f'viewBox="0 0 {width:g} {height:g}" style="width: {width * 4 / 3:.0f}px"'
    return f'<svg role="img" aria-label={label} {size}>{text[text.index(">") + 1 :].strip()}'
