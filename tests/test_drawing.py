"""Figures look alike, can be told apart without colour, and stand in a page as they are."""

import itertools
import re

import numpy as np

from pipeline.drawing import DARK, canvas, floor, moments, strokes, svg, thinned, time_axis


def drawing(title="a title"):
    """Make a small figure."""
    figure, (ax,) = canvas(1, 1, width=4.0, height=3.0)
    ax.plot([0, 1, 2], [0, 1, 0], color=next(iter(DARK)), label="line", marker="o")
    ax.legend()
    ax.set_title(title)
    figure.set_label(f"What is drawn of {title}")
    return figure


def luminance(colour):
    """Take the relative luminance of WCAG 2.1 of a colour #RRGGBB."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_eighteen_models_differ_without_colour():
    """No two of 18 lines have the same colour and dash, and neighbours differ in marker."""
    looks = list(strokes(map(str, range(18))).values())
    assert len({(look["color"], look["ls"]) for look in looks}) == 18
    assert all(a["marker"] != b["marker"] for a, b in itertools.pairwise(looks))
    assert len({tuple(look.values()) for look in strokes(map(str, range(72))).values()}) == 72


def test_text_can_be_read_on_either_paper():
    """Ink on paper has the contrast 7 that WCAG asks for at best, a line at least 2, light and dark."""
    ink, _, _, paper, *rest = DARK
    for shade in (lambda c: c, lambda c: DARK[c]):
        contrast = [
            (max(pair) + 0.05) / (min(pair) + 0.05)
            for pair in ((luminance(shade(c)), luminance(shade(paper))) for c in (ink, *rest[:6]))
        ]
        assert contrast[0] > 7
        assert min(contrast[1:]) > 2


def test_svg_is_the_same_each_time_and_its_ids_are_its_own():
    """Equal figures give equal text; two names share no id, and every id is used."""
    one, again, other = svg(drawing(), "one"), svg(drawing(), "one"), svg(drawing(), "two")
    assert one == again
    ids, others = (set(re.findall(r' id="([^"]*)"', text)) for text in (one, other))
    assert ids
    assert not ids & others
    assert ids == set(re.findall(r'(?:href="|url\()#([^")]*)', one))


def test_text_stands_as_it_is():
    """Tags and formulas in a name come out as text, in the figure and in its label."""
    text = svg(drawing('<b>&" $x$ $y$'), "name")
    assert '&lt;b&gt;&amp;" $x$ $y$</text>' in text
    assert "<b>" not in text


def test_long_lines_keep_their_ends():
    """At most a thousand points of a line are drawn, the first and the last among them; short lines are whole."""
    shown = thinned(123_456)
    assert (len(shown), shown[0], shown[-1]) == (1000, 0, 123_455)
    assert thinned(7).tolist() == list(range(7))


def test_the_floor_keeps_what_is_near():
    """It lies four times as far down as the typical value is from zero, or twice as far as the highest is above."""
    assert floor([1.0, -1.0, 1.0, -900.0]) == -4.0
    assert floor([0.0, 0.0, 5.0, -np.inf, np.nan]) == -10.0
    assert floor([]) == 0.0


def test_every_span_of_time_has_a_few_ticks():
    """From a minute to forty years an axis has three to seven ticks inside, and matplotlib warns of nothing."""
    start = 1_571_616_000_000_000
    for seconds in np.geomspace(60, 40 * 365 * 86_400, 60):
        figure, (ax,) = canvas(1, 1, width=4.0, height=3.0)
        ax.plot(moments(np.array([start, start + int(seconds * 1e6)])), [0, 1])
        time_axis(ax, "time")
        figure.draw_without_rendering()
        low, high = ax.get_xlim()
        assert 2 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 8, seconds
