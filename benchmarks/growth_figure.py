"""The figure of how costs grow, drawn from the record: a panel a driver, on logarithmic axes.

Comes in: rows of `growth.py`. Goes out: `docs/figures/growth.png`. Imported by bench.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from results import ROOT, Row

PATH = ROOT / "docs/figures/growth.png"


def draw(rows: Sequence[Row]) -> None:
    """Draw cost against size, beside the line whose slope is to be stayed under."""
    costs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["unit"] == "ms":
            name, _, size = row["case"].rpartition(" ")
            costs[name].append((float(size.replace(",", "")), row["values"]["cost"]))
    slopes = {row["case"].partition(", ")[0]: row for row in rows if row["unit"] == "decades"}
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = list(figure.subplots(2, 4).flat)
    for axes, (name, points) in zip(panels, costs.items(), strict=False):
        sizes, cost = np.array(points).T
        slope, most = slopes[name]["values"]["slope"], slopes[name]["ratios"][0]["most"]
        axes.loglog(sizes, cost, "o-")
        axes.loglog(sizes, cost[-1] * (sizes / sizes[-1]) ** round(most), "k:", linewidth=0.8)
        axes.set_ylim(cost.min() / 3, cost.max() * 3)
        axes.set_title(f"{name}: slope {slope:.2f}", fontsize=9)
        axes.set_ylabel("ms of CPU", fontsize=8)
    for axes in panels[len(costs) :]:
        axes.remove()
    PATH.parent.mkdir(exist_ok=True)
    figure.savefig(PATH, dpi=120)
