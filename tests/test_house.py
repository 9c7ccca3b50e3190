"""Facts about the repository itself that a machine can check."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "pipeline", "models")
TARGETS = ("help", "setup", "demo", "test", "lint", "contracts", "types", "check", "bench", "bench-peers", "clean")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def tracked() -> tuple[Path, ...]:
    """List the files that belong to the repository, those not yet committed among them, by path inside it."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for line in out.splitlines() if (ROOT / (path := Path(line))).is_file())


def text(path: Path) -> str:
    """Read a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def modules(*folders: str) -> list[Path]:
    """List the Python files of some folders, package files left out."""
    return [p for p in tracked() if p.parts[0] in folders and p.suffix == ".py" and p.name != "__init__.py"]


def recipe(target: str) -> str:
    """Give the line that begins a target of the Makefile."""
    return next(line for line in text(Path("Makefile")).splitlines() if line.startswith(f"{target}:"))


def pins() -> dict[str, str]:
    """Give the version of each package in constraints.txt."""
    lines = [line for line in text(Path("constraints.txt")).splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def requirements() -> list[Requirement]:
    """List what pyproject.toml asks for, with all extras."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(r) for r in chain(project["dependencies"], *extras)]


def test_no_file_names_a_folder_of_one_machine() -> None:
    """No file holds an absolute path below the folders where people and machines keep their own things."""
    personal = re.compile(r"(?<![\w.:/~-])/(?:" + "|".join(("home", "Users", "root", "work", "mnt")) + r")/\w")
    found = [f"{p}: {match[0]}" for p in tracked() for match in personal.finditer(text(p))]
    assert not found


def test_every_module_says_what_comes_in_and_what_goes_out() -> None:
    """The docstring of every module answers what comes in and what goes out."""
    docstrings = {p: ast.get_docstring(ast.parse(text(p))) or "" for p in modules(*PACKAGES)}
    assert docstrings
    assert not [str(p) for p, said in docstrings.items() if not ("Comes in:" in said and "Goes out:" in said)]


def test_every_test_states_its_property() -> None:
    """Every test function has a docstring that ends as a sentence."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path in modules("tests")
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not (ast.get_docstring(node) or "").rstrip().endswith(".")
    ]
    assert not silent


def test_package_files_are_empty() -> None:
    """Importing a package runs nothing."""
    assert [(ROOT / name / "__init__.py").read_text() for name in PACKAGES] == ["", "", ""]


def test_nothing_is_left_to_be_written() -> None:
    """No package holds a stub or a note that something is missing."""
    unfinished = re.compile(r"NotImplementedError|\b(?:TODO|FIXME|XXX)\b")
    assert not [str(p) for p in modules(*PACKAGES) if unfinished.search(text(p))]


def test_no_module_is_named_for_what_it_is_not() -> None:
    """Modules are named by what is inside, not as a place for leftovers."""
    leftovers = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "base"}
    assert not [str(p) for p in modules(*PACKAGES, "tests", "benchmarks") if leftovers & set(p.stem.split("_"))]


@pytest.mark.parametrize("target", TARGETS)
def test_make_has_a_documented_target(target: str) -> None:
    """Every target that the documents name is in the Makefile with a line of help."""
    assert " ## " in recipe(target)


def test_ci_runs_what_make_check_runs() -> None:
    """The CI script sets up and checks, nothing else, and checking includes lint, contracts, types and tests."""
    script = text(Path(".ci/run"))
    commands = [line for line in script.splitlines() if line.startswith("make ")]
    assert commands == ["make setup", "make check"]
    assert recipe("check").split("##")[0].split()[1:] == ["lint", "contracts", "types", "test"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_hooks_are_make_targets() -> None:
    """The commit hooks run every part of `make check` through make, and nothing else."""
    entries = re.findall(r"^ +entry: make (\w+)$", text(Path(".pre-commit-config.yaml")), re.MULTILINE)
    assert entries == recipe("check").split("##")[0].split()[1:]


@pytest.mark.parametrize("wanted", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_inside_its_range(wanted: Requirement) -> None:
    """The version in constraints.txt is one that pyproject.toml takes."""
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)])


def test_constraints_hold_for_every_build() -> None:
    """A pin is one exact version, each package once, without the label of a build for one kind of machine."""
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())
    names = [canonicalize_name(name) for name in pins()]
    assert len(names) == len(set(names))


def test_every_peer_has_its_module_and_its_pins() -> None:
    """Each library that is measured beside has one module and one file of exact pins, which repeats none of ours."""
    folder = ROOT / "benchmarks/peers"
    runner = ast.parse((folder / "compare.py").read_text())
    named = next(n.value for n in runner.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "PEERS")
    peers = sorted(ast.literal_eval(named))
    assert peers == sorted(p.stem.removeprefix("by_") for p in folder.glob("by_*.py"))
    assert peers == sorted(p.stem for p in folder.glob("*.txt") if p.stem != "ours")
    for peer in peers:
        lines = (folder / f"{peer}.txt").read_text().splitlines()
        theirs = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert peer in theirs
        assert not theirs.items() & pins().items()


def test_the_environment_of_a_peer_has_what_statecast_imports_there() -> None:
    """What it needs in its share of the work is named in ours.txt, and is one of its dependencies."""
    folder = ROOT / "benchmarks/peers"
    lines = (folder / "ours.txt").read_text().splitlines()
    named = {canonicalize_name(line) for line in lines if not line.startswith("#")}
    asked = {canonicalize_name(Requirement(r).name) for r in PROJECT["project"]["dependencies"]}
    assert named <= asked
    told = "import sys, ours; print(*{name.partition('.')[0] for name in sys.modules})"
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, folder.parent, folder)))}
    run = subprocess.run([sys.executable, "-c", told], env=paths, capture_output=True, text=True, check=True)
    owners = packages_distributions()
    imported = {canonicalize_name(owner) for name in run.stdout.split() for owner in owners.get(name, ())}
    assert imported & asked <= named


def test_tools_look_at_every_package() -> None:
    """The wheel, the type checker and the contracts of imports cover the same three packages."""
    contracts = configparser.ConfigParser()
    contracts.read_string(text(Path(".importlinter")))
    tool = PROJECT["tool"]
    assert set(contracts["importlinter"]["root_packages"].split()) == set(PACKAGES)
    assert set(tool["pyright"]["include"]) == set(PACKAGES)
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)


def test_architecture_lists_the_files_as_they_are() -> None:
    """Every module has its phrase in the rooms of docs/architecture.md, and no phrase is of a file that is gone."""
    room, listed = "", set()
    for line in text(Path("docs/architecture.md")).splitlines():
        if heading := re.match(r" {4}([\w/]+)/ ", line):
            room = heading[1]
        elif entry := re.match(r" {6}(\w+)\.py +\S", line):
            listed.add(f"{room}/{entry[1]}.py")
    assert listed == {str(p) for p in modules(*PACKAGES)}


@pytest.mark.parametrize("document", [p for p in tracked() if p.suffix == ".md"], ids=str)
def test_documents_name_files_that_exist(document: Path) -> None:
    """Every relative link, and every path of a file of the packages, leads to a file."""
    links = [m for m in re.findall(r"\]\(([^)#\s]+)", text(document)) if "://" not in m]
    named = re.findall(r"`((?:models|pipeline|flows|tests|benchmarks|docs)/[\w./]+\.\w+)`", text(document))
    gone = [m for m in links if not (ROOT / document.parent / m).exists()]
    gone += [m for m in named if not (ROOT / m).exists()]
    assert not gone


def test_decisions_are_numbered_and_complete() -> None:
    """Decision records count from 1 without a gap, and each has its context, decision and consequence."""
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(p.name[:4]) for p in records] == list(range(1, len(records) + 1))
    for path in records:
        said = path.read_text()
        assert said.startswith(f"# {path.name[:4]} ")
        assert all(f"**{part}.**" in said for part in ("Context", "Decision", "Consequence"))
