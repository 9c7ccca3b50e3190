"""Models and training run where polars, Prefect, MLflow and arch are not installed: on a bare GPU image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = tuple(sorted(f"models.{p.stem}" for p in (ROOT / "models").glob("[a-z]*.py")))
TRAINING = tuple(f"pipeline.{name}" for name in ("windows", "moves", "training", "fitting", "backtest"))
ABSENT = ("polars", "prefect", "mlflow", "arch")
LATE = ("statsmodels", "matplotlib", "pandas", "sklearn")
"""Installed there perhaps, but imported only when what needs them is called."""

BLOCKED = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
loaded = sorted({{m.partition(".")[0] for m in sys.modules}} & set({late!r}))
assert not loaded, "imported too early: " + ", ".join(loaded)
{then}
"""

FIT = """
import numpy as np
from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.training_config import TrainingConfig
from pipeline.windows import SplitConfig, panel, split

rng = np.random.default_rng(0)
prices = panel(np.repeat("a", 300), np.arange(300) * 86_400_000_000, 100 * np.exp(rng.normal(0, 0.01, 300).cumsum()))
parts = split(prices, SplitConfig())
config = FitConfig(network=NetworkConfig(hidden=4), training=TrainingConfig(epochs=1, device="cpu"))
for name in ("last_value", "ar", "gru"):
    rows = walk_forward(fit(name, prices, parts, LogReturn(), config), prices, parts.origins(prices, "test"))
    assert len(rows) > 40
"""


def run(modules: tuple[str, ...], then: str = "") -> subprocess.CompletedProcess[str]:
    """Import modules in a process of their own, in which the absent libraries cannot be found."""
    code = BLOCKED.format(absent=ABSENT, modules=modules, late=LATE, then=then)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_models_and_training_need_nothing_of_the_workshop() -> None:
    """All of models, training, fitting and backtest import, fit and walk forward without the absent libraries."""
    done = run((*MODELS, *TRAINING), FIT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["pipeline.archive", "pipeline.ingest"])
def test_the_blocker_blocks(module: str) -> None:
    """A module that does need one of them cannot be imported there: the check above can fail."""
    done = run((module,))
    assert done.returncode != 0
    assert "blocked: " in done.stderr
