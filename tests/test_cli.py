"""Every verb of the command line, run for real on a small workspace; its messages, exit codes and interrupts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import typer.main
from conftest import Workspace, simulated_rows

from flows.cli import INTERRUPTED, app, main
from models.errors import ConfigError, TransientError
from pipeline import audit, champions
from pipeline import stream as streams
from pipeline.config import Config
from pipeline.fitting import KINDS
from pipeline.prices import PriceStore
from pipeline.session import Session
from pipeline.settings import digest, digest_of, load

SHARED = ("--config", "--set", "--folder", "--json")
SPAN = ("--since", "--until", "--known-at", "--raw")
VERBS: dict[str, tuple[str, ...]] = {
    "demo": ("--folder", "--json"),
    "ingest": ("paths", "--dry-run", *SHARED),
    "train": ("model", *SHARED),
    "backtest": ("model", *SHARED),
    "compare": SHARED,
    "promote": ("model", *SHARED),
    "rollback": SHARED,
    "models": ("which", "--keep", *SHARED),
    "backup": ("to", "--journal", "--out", "--keep", *SHARED),
    "restore": ("source", "--replace", "--dry-run", "--folder", "--json"),
    "export": ("model", "out", *SHARED),
    "stream": (
        "source",
        *(
            "--out",
            "--dead-letters",
            "--journal",
            "--follow",
            "--repeats",
            "--warm",
            "--durability",
            "--rebase",
            "--model",
        ),
        *SHARED,
    ),
    "serve": (
        *("--host", "--port", "--token-file", "--allow-host", "--allow-origin", "--limit", "--journal", "--out"),
        *("--warm", "--durability", "--rebase", "--model", *SHARED[:3]),
    ),
    "reconcile": ("series", "--journal", *SHARED),
    "replay": ("--out", "--days", "--ticks", "--model", *SHARED),
    "scenarios": (
        "series",
        *("--steps", "--paths", "--temperature", "--seed", "--from", "--out", "--plot", "--model"),
        *SHARED,
    ),
    "retrain": ("--prefect", "--every", *SHARED),
    "init": ("paths", "--out", "--force", "--config", "--set", "--json"),
    "inspect": ("model", "--series", "--out", *SHARED),
    "audit": ("models", "--epochs", *SHARED),
    "classify": (
        "target",
        *("--cell", "--pooling", "--bidirectional", "--steps", "--window", "--regimes"),
        *SHARED,
    ),
    "study": ("names", "--full", "--list", "--out", "--again", "--seed", *SHARED),
    "search": ("model", "--trials", "--space", *SHARED),
    "rate": ("model", "--plot", *SHARED),
    "config": ("--json",),
    "data ls": SHARED,
    "data show": ("series", "--rows", *SPAN, "--vintages", *SHARED),
    "data check": ("series", *SHARED),
    "data plot": ("series", "--out", *SPAN, *SHARED),
    "data export": ("out", "series", *SPAN[:3], "--adjusted", *SHARED),
    "data adjust": ("file", *SHARED),
    "data revisions": ("series", *SHARED),
}
"""Verbs in the order of the help, with their arguments and options: what scripts of users rely on."""

STATECAST = str(Path(sys.executable).with_name("statecast"))
"""The installed command."""

Call = Callable[..., tuple[int, str, str]]


@contextmanager
def standing_in(stdin: bytes) -> Iterator[None]:
    """Let standard input give these bytes: the file descriptor itself, which is what a stream reads."""
    kept = os.dup(0)
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(kept, 0)
            os.close(kept)


@pytest.fixture
def statecast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process: exit code, standard output, standard error."""

    def call(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["statecast", *map(str, arguments)])
        with standing_in(stdin), pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def desk(copied: Any, workspace: Workspace) -> list[object]:
    """Give the options of a workspace of one's own: settings file and data folder."""
    return ["--config", workspace.settings, "--folder", copied.folder]


@pytest.fixture
def looked_at(workspace: Workspace) -> list[object]:
    """Give the options of the shared workspace."""
    return ["--config", workspace.settings, "--folder", workspace.folder]


def ticks(count: int) -> bytes:
    """Write the first simulated prices of all series as CSV, in order of time."""
    rows = sorted(simulated_rows(), key=lambda row: row[1])[:count]
    return "\n".join(["series,time,price", *map(",".join, rows), ""]).encode()


# -------------------------------------------------------------------------------------------------------------- help


def test_the_verbs_and_their_options_are_these() -> None:
    """A verb or an option that comes, goes or changes its name is seen here first."""
    found = {
        name: tuple(p.opts[0] for p in command.params if p.name != "help")
        for name, command in commands(typer.main.get_command(app))
    }
    assert found == VERBS
    assert list(found) == list(VERBS)


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every verb with its full name, those of groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(statecast: Call, verb: str) -> None:
    """It shows one command that can be typed as it stands."""
    code, out, _ = statecast(*verb.split(), "--help")
    assert code == 0
    assert f"statecast {verb}" in out.split("Example:")[1]


def test_the_help_names_the_models_that_there_are(statecast: Call) -> None:
    """The list in the help is the list of models, and a data folder's default is told."""
    _, out, _ = statecast("train", "--help")
    said = " ".join(out.replace("│", " ").split())
    assert f"Name of the model: {', '.join(KINDS)}." in said
    assert "left out: .statecast" in said


def test_help_imports_nothing_heavy() -> None:
    """Neither arithmetic nor services are loaded to print the help."""
    code = (
        "import sys\n"
        "from flows.cli import main\n"
        "sys.argv = ['statecast', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("loaded:")[1].split())
    assert "typer" in loaded
    heavy = {"torch", "polars", "prefect", "mlflow", "onnx", "onnxruntime", "numpy", "scipy", "matplotlib", "arch"}
    assert loaded & heavy == set()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train g", ["garch", "garch_diurnal", "gru"]),
        ("data show -f {folder} B", ["BBB"]),
        ("data show -f nowhere B", []),
    ],
)
def test_the_shell_completes_models_and_series(workspace: Workspace, typed: str, offered: list[str]) -> None:
    """Names of models, and those of the series in the data folder, are offered; without a store nothing is."""
    words = f"statecast {typed.format(folder=workspace.folder)}"
    asked = {"_STATECAST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([STATECAST], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (offered, "")


# ------------------------------------------------------------------------------------------------------------- verbs


def test_the_steps_one_by_one_give_a_champion(statecast: Call, workspace: Workspace, tmp_path: Path) -> None:
    """Ingest, train, backtest, compare and promote, as typed by hand, do what a retrain does."""
    desk = ["-c", workspace.settings, "-f", tmp_path / "desk", "-s", 'models=["last_value", "ar"]']
    code, out, _ = statecast("ingest", workspace.csv, *desk)
    assert (code, "2100 rows added, 0 already there" in out) == (0, True)
    for model in ("last_value", "ar"):
        assert statecast("train", model, *desk)[0] == 0
        code, out, _ = statecast("backtest", model, *desk)
        assert (code, "420 forecasts" in out) == (0, True)
    code, out, _ = statecast("compare", *desk)
    assert code == 0
    assert "decision: last_value: no skill" in out
    assert "desk/comparison.html" in out.replace("\n", "")
    code, out, _ = statecast("promote", *desk)
    assert (code, "last_value serves as version 1" in out) == (0, True)
    assert champions.load(tmp_path / "desk" / "champions", "champion").metadata.name == "last_value"


def test_a_direction_is_classified_and_told(statecast: Call, desk: list[object]) -> None:
    """Scores beside the base rate, the verdict in words, the file and the run are on the screen."""
    code, out, _ = statecast("classify", "direction", *desk, "-s", "fit.training.epochs=1")
    assert code == 0
    for told in ("network", "base rate", "reliability", "skill", "classify-gru-direction.onnx", "MLflow run"):
        assert told in out
    code, _, said = statecast("classify", "direction", "--bidirectional", *desk)
    assert (code, "stands in the prices after it" in said) == (4, True)


def test_ingesting_the_same_file_again_adds_nothing(statecast: Call, desk: list[object]) -> None:
    """The rows are counted as already there."""
    code, out, _ = statecast("ingest", *desk)
    assert (code, "0 rows added, 2100 already there" in out) == (0, True)


def test_a_model_named_by_hand_serves_until_it_is_taken_back(statecast: Call, desk: list[object]) -> None:
    """Promote by name, then rollback, each told in one line."""
    code, out, _ = statecast("promote", "ar", *desk)
    assert (code, "ar serves as version 2" in out, "named by hand" in out) == (0, True, True)
    code, out, _ = statecast("rollback", *desk)
    assert (code, "gru serves as version 3" in out) == (0, True)


def test_registered_models_are_listed_and_old_ones_go(statecast: Call, desk: list[object], copied: Any) -> None:
    """Tags say what a version is; what goes is named first; what serves or could be gone back to stays."""
    for model in ("garch", "ar", "garch", "ar"):
        assert statecast("promote", model, *desk)[0] == 0
    code, out, _ = statecast("models", *desk, "--json")
    before = orjson.loads(out)
    assert (code, before["removed"]) == (0, [])
    newest = next(v for v in before["versions"] if "champion" in v["aliases"])
    tags = newest["tags"]
    assert newest["served"]
    assert (tags["model"], tags["role"], tags["reason"]) == ("ar", "champion", "ar was named by hand")
    assert (tags["parity"], tags["device"], len(tags["data_sha256"])) == ("passed", "cpu", 64)
    assert tags["data_start"] < tags["cutoff_time"] < tags["data_end"]
    assert float(tags["seconds"]) >= 0
    assert {"kind", "commit", "seed", "verdict"} <= set(tags)
    assert (float(tags["cost_microseconds"]) > 0, len(tags["config_sha256"])) == (True, 64)
    assert {"champion", "challenger"} == {tag["role"] for v in before["versions"] if (tag := v["tags"])}
    code, out, _ = statecast("models", *desk)
    assert (code, "champion" in out, "now" in out) == (0, True, True)
    needed = champions.needed(copied.folder / "champions")
    code, out, err = statecast("models", "--keep", "1", "--json", *desk)
    told = orjson.loads(out)
    gone = {v["version"] for v in told["removed"]}
    assert (code, all(f"version {number} (" in err for number in gone)) == (0, True)
    assert gone == {
        v["version"] for v in before["versions"][1:] if not v["aliases"] and v["tags"]["sha256"] not in needed
    }
    assert {v["version"] for v in told["versions"]} == {v["version"] for v in before["versions"]} - gone
    assert orjson.loads(statecast("models", "--keep", "1", "--json", *desk)[1])["removed"] == []
    assert statecast("rollback", *desk)[0] == 0
    shutil.rmtree(copied.folder / "champions")  # now only the aliases and the newest are needed
    code, out, err = statecast("models", "--keep", "1", "--json", *desk)
    told = orjson.loads(out)
    assert (code, len(told["removed"]) >= 1, "removing version " in err) == (0, True, True)
    assert told["files_left"] == [v["version"] for v in told["removed"]]  # they lie in the folder that was copied
    assert len(told["versions"]) <= 3


def test_a_forecast_leads_back_to_run_prices_and_code(
    statecast: Call, looked_at: list[object], workspace: Workspace, tmp_path: Path
) -> None:
    """The sha256 that stands in a forecast names one model whole; so does its number, and nothing else does."""
    out = tmp_path / "forecasts.jsonl"
    assert statecast("replay", "--ticks", "30", "--out", out, *looked_at)[0] == 0
    forecast = orjson.loads(out.read_bytes().splitlines()[0])
    code, told, _ = statecast("models", forecast["sha256"], "--json", *looked_at)
    (found,) = orjson.loads(told)["versions"]
    runs = orjson.loads((workspace.folder / "runs.json").read_bytes())
    entry = champions.current(workspace.folder / "champions", "champion")
    assert (code, found["served"], found["run_id"]) == (0, True, runs["models"]["gru"])
    assert found["tags"]["sha256"] == entry.sha256
    session = Session.load(workspace.folder / "champions" / entry.file)
    assert (found["tags"]["data_sha256"], found["tags"]["commit"]) == (
        session.metadata.data_sha256,
        session.metadata.commit,
    )
    assert found["tags"]["config_sha256"] == digest(workspace.config.fit) == digest_of(session.metadata.config)
    assert found["settings"]["fit.network.hidden"] == "4"
    code, told, _ = statecast("models", found["version"], *looked_at)
    assert (code, f"run_id: {found['run_id']}" in told, "settings.fit.network.hidden: 4" in told) == (0, True, True)
    assert "settings.fit.horizon" not in told
    assert statecast("models", "ffff", *looked_at)[0] == ConfigError.exit_code
    assert statecast("models", "1", "--keep", "1", *looked_at)[0] == ConfigError.exit_code


def test_looking_at_the_models_of_an_empty_folder_makes_nothing(statecast: Call, tmp_path: Path) -> None:
    """Where nothing was ever registered that is said, and no database is made."""
    code, out, _ = statecast("models", "--folder", tmp_path / "none")
    assert (code, "no model is registered yet" in out) == (0, True)
    assert orjson.loads(statecast("models", "--json", "--keep", "1", "--folder", tmp_path)[1])["versions"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_does_not_answer_is_told_as_such(
    statecast: Call, desk: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one line, with the exit code of what may be tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, err = statecast("models", *desk, "-s", "tracking.uri=http://127.0.0.1:9")
    assert code == TransientError.exit_code
    assert err.startswith("error: MLflow could not open the experiment")


def test_an_audit_tells_a_row_a_stage_and_a_column_a_model(statecast: Call, looked_at: list[object]) -> None:
    """Models that read nothing of the future get ticks only; the findings are JSON where that is asked for."""
    code, out, _ = statecast("audit", "last_value", "ar", *looked_at)
    assert code == 0
    assert "failed" in out.splitlines()[-1]
    assert " 0 failed" in out
    assert ("✓" in out, "✗" in out) == (True, False)
    walk = next(line for line in out.splitlines() if line.strip().startswith("walk"))
    assert walk.count("✓") == 2
    code, out, _ = statecast("audit", "last_value", *looked_at, "--json")
    assert code == 0
    assert all(f["ok"] for f in orjson.loads(out)["findings"])


def test_an_audit_that_finds_a_leak_fails(
    statecast: Call, looked_at: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table marks the stage, the error names it, and the exit code is its own; JSON holds all findings."""
    monkeypatch.setattr("pipeline.audit.walk_forward", peeking(audit.walk_forward))
    code, out, err = statecast("audit", "last_value", *looked_at)
    assert code == 8
    assert "✗ last_value, walk, garbage: " in out
    assert "error: expected that nothing of the past depends on the future" in err
    assert "First last_value, walk, garbage: " in err
    code, out, _ = statecast("audit", "last_value", *looked_at, "--json")
    told = orjson.loads(out)
    assert (code, told["code"]) == (8, 8)
    assert {f["stage"] for f in told["report"]["findings"] if not f["ok"]} == {"walk"}


def peeking(walk: Callable[..., Any]) -> Callable[..., Any]:
    """Let a walk scale its forecasts by the last price of all."""

    def leaking(forecaster: Any, panel: Any, origins: Any) -> Any:
        rows = walk(forecaster, panel, origins)
        return replace(rows, scale=rows.scale * panel.price[panel.mask][-1])

    return leaking


def test_a_retrain_ends_with_the_table_and_the_champion(statecast: Call, desk: list[object]) -> None:
    """On the same prices the incumbent keeps serving."""
    code, out, _ = statecast("retrain", *desk, "-s", 'models=["last_value", "ar"]')
    assert code == 0
    assert out.count("✓") == 10
    assert "last_value is not distinguishable from ar" in " ".join(out.split())
    assert "gru keeps serving as version 1" in out


def test_an_export_is_a_file_that_serves(statecast: Call, looked_at: list[object], tmp_path: Path) -> None:
    """The file loads by itself, and the stream takes it by name."""
    out = tmp_path / "garch.onnx"
    assert statecast("export", "garch", out, *looked_at)[0] == 0
    assert Session.load(out).metadata.name == "garch"
    code, said, _ = statecast("stream", "--model", out, *looked_at, stdin=ticks(30))
    assert (code, len(said.splitlines())) == (0, 30)


def test_ticks_go_in_by_a_pipe_and_forecasts_come_out(statecast: Call, desk: list[object], copied: Any) -> None:
    """A forecast line a tick on standard output, the report on standard error, refused lines in the data folder."""
    code, out, err = statecast("stream", *desk, stdin=ticks(60) + b"AAA,never,100\n")
    lines = [orjson.loads(line) for line in out.splitlines()]
    assert (code, len(lines)) == (0, 60)
    assert {line["model"] for line in lines} == {"gru"}
    assert "60 forecasts" in err
    assert "refused: 1 time" in err
    letters = (copied.folder / "dead-letters.jsonl").read_bytes().splitlines()
    assert [orjson.loads(letter)["line"] for letter in letters] == [62]


def test_a_stream_goes_on_from_its_journal_to_the_same_bytes(
    statecast: Call, looked_at: list[object], tmp_path: Path
) -> None:
    """A part of the ticks, then all of them, from a file or from a pipe that repeats: the output of one run."""
    once = ["--out", tmp_path / "once", "--dead-letters", tmp_path / "once.dead"]
    assert statecast("stream", *looked_at, *once, stdin=ticks(300))[0] == 0
    for source in ([], [tmp_path / "ticks.csv"]):
        name = "file" if source else "pipe"
        paths = ["--out", tmp_path / name, "--dead-letters", tmp_path / f"{name}.dead"]
        paths += ["--journal", tmp_path / f"{name}.journal"]
        options = [*source, *looked_at, *paths, *([] if source else ["--repeats"])]
        for count in (100, 300, 300):
            (tmp_path / "ticks.csv").write_bytes(ticks(count))
            code, _, err = statecast("stream", *options, stdin=b"" if source else ticks(count))
            assert code == 0
            assert f"{count} forecasts" in err
        assert (tmp_path / name).read_bytes() == (tmp_path / "once").read_bytes() != b""
        assert (tmp_path / f"{name}.dead").read_bytes() == (tmp_path / "once.dead").read_bytes()


def test_a_journal_that_is_not_ones_own_is_told(
    statecast: Call, looked_at: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another model it is refused; of another machine it is refused until `--rebase` is said."""
    paths = ["--out", tmp_path / "out", "--dead-letters", tmp_path / "dead", "--journal", tmp_path / "journal"]
    assert statecast("stream", *looked_at, *paths, stdin=ticks(30))[0] == 0
    assert statecast("export", "ar", tmp_path / "ar.onnx", *looked_at)[0] == 0
    code, _, err = statecast("stream", "--model", tmp_path / "ar.onnx", *looked_at, *paths, stdin=ticks(30))
    assert (code, "its states belong to the model" in err) == (5, True)
    monkeypatch.setattr(streams, "fingerprint", lambda: {"machine": "other"})
    code, _, err = statecast("stream", *looked_at, *paths, stdin=b"")
    assert (code, "Go on with --rebase" in err) == (5, True)
    for option in (["--rebase"], []):
        assert statecast("stream", *looked_at, *paths, *option, stdin=b"")[0] == 0


def test_a_replay_takes_more_ticks_than_the_store_has(
    statecast: Call, looked_at: list[object], workspace: Workspace, tmp_path: Path
) -> None:
    """Copies of the series make up the number, and are told."""
    held = PriceStore(workspace.folder / "prices").read().height
    code, out, _ = statecast("replay", "--ticks", held + 900, "--out", tmp_path / "out", *looked_at)
    assert (code, "3,000 ticks" in out, "2 copies of each series" in out) == (0, True, True)


def test_scenarios_tell_a_row_a_series_and_write_the_paths(
    statecast: Call, looked_at: list[object], tmp_path: Path
) -> None:
    """Table, JSON, paths and picture come from one call each, and equal seeds from the command line are equal paths."""
    out, plot = tmp_path / "paths.parquet", tmp_path / "fan.png"
    code, said, _ = statecast("scenarios", "--steps", 5, "--paths", 40, "--out", out, "--plot", plot, *looked_at)
    assert code == 0
    assert all(name in said for name in ("AAA", "BBB", "CCC", "drawdown", "VaR"))
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert pl.read_parquet(out).height == 3 * 40 * 5
    code, said, _ = statecast("scenarios", "BBB", "--steps", 5, "--paths", 40, "--json", *looked_at)
    (told,) = orjson.loads(said)["series"]
    end = pl.read_parquet(out).filter(pl.col("series_id") == "BBB", pl.col("step") == 5)["price"].to_numpy()
    assert told["quantiles"]["0.5"] == pytest.approx(np.median(end), rel=1e-12)
    assert told["above"] == np.mean(end > told["last"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["BBC"], 3, "unknown series 'BBC': did you mean 'BBB'?"),
        (["--from", "wilde"], 4, "--from: unknown start 'wilde': did you mean 'wild'?"),
        (["--out", "paths.xls"], 4, "unknown format of paths '.xls'"),
        (["--plot", "fan.pgn", "--model", "none.onnx"], 4, "unknown format of a picture '.pgn': did you mean '.png'?"),
        (["--steps", "0"], 2, "greater than or equal to 1"),
        (["--temperature", "-1"], 2, "greater than or equal to 0"),
    ],
)
def test_scenarios_say_what_is_wrong_with_what_was_typed(
    statecast: Call, looked_at: list[object], arguments: list[str], code: int, said: str
) -> None:
    """An unknown series, start or format names the nearest, before a model is read; numbers say their range."""
    ended, _, err = statecast("scenarios", *arguments, *looked_at)
    assert ended == code
    assert said in " ".join(err.replace("│", " ").split())


def test_the_printed_settings_load_back(statecast: Call, tmp_path: Path) -> None:
    """`statecast config > desk.toml` is a settings file that changes nothing."""
    code, out, _ = statecast("config")
    (tmp_path / "desk.toml").write_text(out)
    assert code == 0
    assert load(Config, tmp_path / "desk.toml") == Config()


# --------------------------------------------------------------------------------------------------------------- data


def test_the_store_is_looked_at_checked_drawn_and_exported(
    statecast: Call, looked_at: list[object], tmp_path: Path
) -> None:
    """The verbs of `statecast data` tell what there is, and the export is ingested back."""
    code, out, _ = statecast("data", "ls", *looked_at)
    assert (code, [name for name in ("AAA", "BBB", "CCC") if name not in out]) == (0, [])
    code, out, _ = statecast("data", "show", "AAA", "--rows", 2, "--until", "2020-01-03", *looked_at)
    assert (code, "2020-01-02" in out, "2020-01-03" in out) == (0, True, False)
    code, out, _ = statecast("data", "check", "--json", *looked_at)
    counts = {fault["name"]: fault["count"] for fault in orjson.loads(out)}
    assert (code, counts["gap"], counts["short"], counts["split"], len(counts)) == (0, 0, 0, 0, 9)
    code, out, _ = statecast("data", "plot", "AAA", "--out", tmp_path / "a.png", *looked_at)
    assert (code, (tmp_path / "a.png").read_bytes()[:4]) == (0, b"\x89PNG")
    code, out, _ = statecast("data", "export", tmp_path / "out.csv", "AAA", *looked_at)
    assert (code, "700 rows" in out) == (0, True)
    code, out, _ = statecast("ingest", tmp_path / "out.csv", "-f", tmp_path / "again", "-s", "ingest.policy.null=keep")
    assert (code, "700 rows added, 0 already there" in out) == (0, True)


def test_a_corrected_file_tells_what_it_makes_out_of_date(statecast: Call, desk: list[object], tmp_path: Path) -> None:
    """One price of the past is revised: models, their forecasts and the champion are named with the way to renew."""
    new = tmp_path / "new.csv"
    new.write_text("series_id,time,price\nBBB,2020-02-01,1.0\n")
    code, out, _ = statecast("ingest", new, *desk)
    assert (code, "1 rows added, 1 of them revisions, 0 already there" in out) == (0, True)
    assert "statecast train gru" in out
    code, out, _ = statecast("data", "revisions", "--json", *desk)
    told = orjson.loads(out)
    assert [(row["series_id"], row["new_price"]) for row in told["revised"]] == [("BBB", 1.0)]
    assert {"model gru", "champion version 1, which serves"} <= {item["what"] for item in told["outdated"]}


def test_settings_are_proposed_and_then_work(statecast: Call, workspace: Workspace, tmp_path: Path) -> None:
    """What `init` writes loads, and is not written over without being told to."""
    out = tmp_path / "desk.toml"
    code, said, _ = statecast("init", workspace.csv, "--out", out)
    assert (code, f"written to {out}" in said.replace("\n", "")) == (0, True)
    assert load(Config, out).ingest.paths == (str(workspace.csv),)
    code, _, err = statecast("init", workspace.csv, "--out", out)
    assert (code, "--force" in err) == (4, True)
    assert statecast("init", workspace.csv, "--out", out, "--force")[0] == 0


def test_a_model_is_looked_into(statecast: Call, looked_at: list[object], tmp_path: Path) -> None:
    """Its kind, size and state are told, and the state that a series leaves is drawn."""
    code, out, _ = statecast("inspect", "--series", "AAA", "--out", tmp_path / "state.png", *looked_at)
    assert (code, "kind gru" in out, "parameters" in out, "state of a series" in out) == (0, True, True, True)
    assert (tmp_path / "state.png").read_bytes().startswith(b"\x89PNG")


def test_a_refusal_is_told_in_json_too(statecast: Call, tmp_path: Path) -> None:
    """Standard output has the error, its code and the whole report; a dry run ends with the same code."""
    path = tmp_path / "prices.csv"
    path.write_text("series_id,time,price\na,2020-01-01,1\na,2020-01-02,0\n")
    code, out, err = statecast("ingest", path, "--json", "-f", tmp_path / "desk")
    told = orjson.loads(out)
    assert (code, told["code"], "error: non_positive" in err) == (3, 3, True)
    assert [f["name"] for f in told["report"]["faults"] if f["count"] and f["policy"] == "raise"] == ["non_positive"]
    code, out, _ = statecast("ingest", path, "--dry-run", "-f", tmp_path / "desk")
    assert (code, "non_positive would be refused" in out) == (3, True)


ANSWERS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "ingest": (("--dry-run",), ("report", "written")),
    "train": (("last_value",), ("model", "seconds", "file")),
    "backtest": (("last_value",), ("model", "forecasts")),
    "compare": ((), ("run", "compared")),
    "promote": (("ar",), ("model", "sha256", "version")),
    "rollback": ((), ("model", "version")),
    "models": ((), ("versions", "removed")),
    "backup": (("backups",), ("list", "files", "added", "left")),
    "export": (("ar", "ar.onnx"), ("model", "file")),
    "replay": (("--ticks", "300"), ("stream", "copies")),
    "inspect": ((), ("kind", "state", "cutoff_time", "parity")),
    "config": ((), ("ingest", "fit", "stream")),
    "data show": (("AAA",), ()),
    "data ls": ((), ()),
    "data check": ((), ()),
    "data plot": (("AAA",), ("file",)),
    "data export": (("out.csv",), ("rows", "file")),
}


def test_every_verb_answers_in_json(
    statecast: Call, desk: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json standard output is one document that has what a script needs, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for verb, (given, keys) in ANSWERS.items():
        options = [] if verb == "config" else desk
        code, out, _ = statecast(*verb.split(), *given, "--json", *options)
        assert code == 0, verb
        told = orjson.loads(out)
        assert [key for key in keys if key not in told] == [], verb
        assert keys or isinstance(told, list), verb


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "ar", "-s", "fit.trainig.epochs=2"], 4, "did you mean 'fit.training'"),
        (["train", "ar", "-s", "fit.training.epochs=0"], 4, "expected 1 to 10000, got 0"),
        (["train", "ar", "-s", "nonsense"], 4, "written name=value"),
        (["train", "ar", "-c", "nowhere.toml"], 4, "nowhere.toml"),
        (["train", "grach"], 4, "did you mean 'garch'"),
        (["backtest", "lstm"], 4, "Run `statecast train lstm`"),
        (["ingest", "nowhere.csv"], 3, "no file, folder or pattern 'nowhere.csv'"),
        (["stream", "--model", "nowhere.onnx"], 5, "nowhere.onnx"),
        (["stream", "-s", "champion=none"], 5, "there are: champion"),
        (["rollback"], 5, "nothing was published before version 1"),
        (["export", "ar", "/dev/null/ar.onnx"], 1, "/dev/null"),
        (["trian"], 2, "No such command"),
        (["train"], 2, "Missing argument"),
        (["replay", "--days", "0"], 2, "greater than or equal to 1"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(
    statecast: Call, looked_at: list[object], arguments: list[str], code: int, says: str
) -> None:
    """Expected errors are one line that says what to do; a wrong command is told by the usage; never a traceback."""
    came, _, err = statecast(*arguments[:1], *looked_at[2:] * (arguments != ["trian"]), *arguments[1:])
    assert came == code
    assert says in err
    assert "Traceback" not in err
    assert code == 2 or (err.startswith("error: ") and err.count("\n") == 1)


@pytest.mark.parametrize("step", ["train", "compare", "promote"])
def test_a_step_too_early_says_what_comes_first(statecast: Call, tmp_path: Path, step: str) -> None:
    """In an empty data folder the message names the step that is missing."""
    code, _, err = statecast(step, *["ar"] * (step == "train"), "-f", tmp_path)
    assert code == 3
    assert "Ingest prices into it first" in err or "`statecast compare`" in err


INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from flows.cli import main; main()"
)
"""The command line with Ctrl-C at work, even where these tests run in the background and it is switched off."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stream_after_what_it_has_in_hand(
    looked_at: list[object], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end it as the end of the input does, also a file that is followed; the journal goes on."""
    (tmp_path / "ticks.csv").write_bytes(ticks(3))
    options = ["--follow", "--dead-letters", tmp_path / "dead", "--journal", tmp_path / "journal"]
    command = [sys.executable, "-c", INTERRUPTIBLE, "stream", tmp_path / "ticks.csv", *looked_at, *options]
    for first in (0, 3):
        with open(tmp_path / "ticks.csv", "ab") as file:
            file.write(ticks(first + 3).removeprefix(ticks(first)) if first else b"")
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            told = [orjson.loads(process.stdout.readline())["series"] for _ in range(3)]
            assert told == ["AAA", "BBB", "CCC"]
            process.send_signal(number)
            assert process.stdout.read() == b""
            assert f"{first + 3} forecasts" in process.stderr.read().decode()
        assert process.returncode == 0


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    """An interrupt ends with one line and the exit code of shells; here while the settings are read."""
    os.mkfifo(tmp_path / "settings")
    command = [sys.executable, "-c", INTERRUPTIBLE, "train", "ar", "--config", tmp_path / "settings"]
    with (
        subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        open(tmp_path / "settings", "wb"),  # opens when the other side is there to read
    ):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (INTERRUPTED, b"")
    assert err.startswith(b"interrupted: run the same command again")
    assert err.count(b"\n") == 1


def test_a_closed_pipe_ends_quietly(looked_at: list[object], tmp_path: Path) -> None:
    """`statecast stream | head -n 1` leaves no message behind."""
    (tmp_path / "ticks.csv").write_bytes(ticks(2100))
    options = [*looked_at, "-s", "stream.batch=50", "--dead-letters", tmp_path / "dead"]
    command = [sys.executable, "-c", INTERRUPTIBLE, "stream", tmp_path / "ticks.csv", *options]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_console_command_is_this_one(tmp_path: Path) -> None:
    """The installed `statecast` runs, and an error of ours is one line with no traceback there too."""
    done = subprocess.run([STATECAST, "replay", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error: champion")
    assert done.stderr.count("\n") == 1


def test_nothing_is_left_or_sent_outside_the_data_folder(looked_at: list[object], tmp_path: Path) -> None:
    """A stream leaves no trace in the home or the cache of the user, such as the events of a dependency."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [STATECAST, "stream", *looked_at, "--dead-letters", tmp_path / "dead"]
    done = subprocess.run(list(map(str, command)), input=ticks(9), capture_output=True, env=environment, check=True)
    assert len(done.stdout.splitlines()) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["dead"]


def test_settings_come_from_the_file_then_the_command_line(workspace: Workspace) -> None:
    """Defaults, then TOML, then --set, then --folder."""
    from flows.options import settled

    chosen = settled(workspace.settings, ["fit.network.hidden=7", "folder=elsewhere"], Path("here"))
    assert (chosen.fit.network.hidden, chosen.fit.training.epochs, chosen.folder) == (7, 3, Path("here"))
    assert settled(None, [], None) == Config()
    assert settled(None, None, Path("here")) == replace(Config(), folder=Path("here"))
