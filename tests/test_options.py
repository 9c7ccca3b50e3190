"""How the settings of a run are put together for the verbs that serve."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flows.options import settled_to_serve
from models.errors import ConfigError
from pipeline.config import Config
from pipeline.stream_config import ServedConfig

ROOT = Path(__file__).parents[1]

LIGHT = """
import sys
from pathlib import Path
from flows.options import settled_to_serve
settled_to_serve(Path(sys.argv[1]), ["stream.batch=7"], Path("here"))
loaded = sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "polars", "scipy", "onnx"})
sys.exit(", ".join(loaded) or 0)
"""


def test_what_serving_reads_is_what_a_run_has() -> None:
    """Every setting of a served run is one of a run, with the same default."""
    run, served = Config(), ServedConfig()
    assert {f.name: getattr(run, f.name) for f in fields(served)} == vars(served)


def test_settings_to_serve_load_nothing_that_trains(tmp_path: Path) -> None:
    """Where only what serving reads is set, the libraries that train stay unloaded."""
    (tmp_path / "settings.toml").write_text('champion = "fx"\n[stream]\nbatch = 5\n')
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, tmp_path / "settings.toml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_whole_file_of_a_run_serves_too(tmp_path: Path) -> None:
    """Settings of the fit may stand in the same file, and change nothing of what serves."""
    file = tmp_path / "settings.toml"
    file.write_text('champion = "fx"\n[stream]\nbatch = 5\n[fit.training]\nepochs = 3\n')
    chosen = settled_to_serve(file, ["stream.history=9"], tmp_path)
    assert (chosen.champion, chosen.folder) == ("fx", tmp_path)
    assert (chosen.stream.batch, chosen.stream.history) == (5, 9)


@pytest.mark.parametrize("setting", ["stream.bach=1", "chmpion=fx", "fit.training.epoch=3", "stream.batch=0"])
def test_a_wrong_setting_is_refused_before_serving(setting: str) -> None:
    """Names that are not known and values out of range are errors, whether serving reads them or not."""
    with pytest.raises(ConfigError):
        settled_to_serve(None, [setting], None)
