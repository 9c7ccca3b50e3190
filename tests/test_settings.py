"""Settings: TOML differences become frozen dataclasses, and every wrong one is named with its place."""

from __future__ import annotations

import doctest
import json
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from pipeline import settings


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a model is fitted.

    Attributes
    ----------
    epochs : int
        Passes over the train split,
        at least one.
    rate : float
        Step size of the optimiser.
    device : str
        Where tensors live.
    betas : (float, float)
        Averages of the optimiser.

    Notes
    -----
    Nothing here is a setting : really
        nothing.
    """

    epochs: int = 10
    rate: float = 1e-3
    device: Literal["cpu", "cuda"] = "cpu"
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1; came {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study.

    Attributes
    ----------
    name, title : str
        Text that is shown.
    folder : Path
        Where results go.
    shuffle : bool
        Whether the order is drawn.
    lags : tuple of int
        Lags of the baseline.
    limit : int or None
        Most series to take; none takes all.
    tags : dict
        Free text.
    """

    name: str = 'a "quoted" näme\twith \\ and \x7f'
    title: str = ""
    folder: Path = Path("results")
    shuffle: bool = False
    lags: tuple[int, ...] = (1, 24)
    limit: int | None = None
    tags: dict[str, str] = field(default_factory=lambda: {"a b": "c=d"})
    train: Train = field(default_factory=lambda: Train(epochs=3))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job.

    Attributes
    ----------
    source : str
        Where prices come from.
    second : Train or None
        A second fit.
    """

    source: str
    study: Study = Study()
    second: Train | None = None


def written(folder: Path, text: str) -> Path:
    """Write `text` as a settings file."""
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    """TOML holds only differences: no difference is the default."""
    assert settings.load(Study, written(tmp_path, "")) == Study()


def test_a_table_changes_the_default_of_its_field_not_of_its_class(tmp_path: Path) -> None:
    """What a table leaves out keeps the value that the enclosing default gave it."""
    study = settings.load(Study, written(tmp_path, "limit = 5\n[train]\nrate = 1\n"))
    assert study == Study(limit=5, train=Train(epochs=3, rate=1.0))
    assert isinstance(study.train.rate, float)


def test_an_optional_table_starts_from_the_defaults_of_its_class() -> None:
    """A table whose default is none is made from its own class."""
    job = settings.load(Job, {"source": "x", "second": {"device": "cuda"}})
    assert job.second == Train(device="cuda")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """The command line has the last word, and leaves its neighbours alone."""
    path = written(tmp_path, "source = 'x'\n[study.train]\nepochs = 7\nrate = 0.5\n")
    changes = settings.assignments(["study.train.epochs=9", "study.name=plain", "study.lags=[2]"])
    job = settings.load(Job, path, changes)
    assert job.study.train == Train(epochs=9, rate=0.5)
    assert (job.study.name, job.study.lags) == ("plain", (2,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 3", "unknown setting 'epochs'"),
        ("[train]\nepoch = 3", "unknown setting 'train.epoch': did you mean 'train.epochs'?"),
        ("[train]\nepochs = 1.5", "'train.epochs' must be whole number; came 1.5 (float)"),
        ("[train]\nepochs = true", "'train.epochs' must be whole number; came True (bool)"),
        ("[train]\nrate = 'fast'", "'train.rate' must be number; came 'fast' (str)"),
        ("[train]\nbetas = [0.9]", "'train.betas' must be list [number, number]; came [0.9] (list)"),
        ("[train]\ndevice = 'cdua'", "unknown value of train.device 'cdua': did you mean 'cuda'?"),
        ("[train]\nepochs = 0", "train: epochs must be at least 1; came 0"),
        ("train = 3", "'train' must be a table; came 3 (int)"),
        ("name = 3", "'name' must be text; came 3 (int)"),
        ("shuffle = 1", "'shuffle' must be true or false; came 1 (int)"),
        ("folder = false", "'folder' must be path; came False (bool)"),
        ("limit = 'all'", "'limit' must be whole number; came 'all' (str)"),
        ("lags = 3", "'lags' must be list of whole number; came 3 (int)"),
        ("lags = [1, 'b']", "'lags[1]' must be whole number; came 'b' (str)"),
        ("tags = {a = 1}", "'tags' must be table of text"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    """A message says which setting, what was expected, what came, and in which file."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        settings.load(Study, path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    """A value from the command line is reported as an override; a range of its table names both."""
    path = written(tmp_path, "limit = 3\n")
    with pytest.raises(ConfigError, match=r"came 'x' \(str\) \(in override\)"):
        settings.load(Study, path, {"train.epochs": "x"})
    with pytest.raises(ConfigError, match=r"train: epochs must .*job\.toml or an override\)"):
        settings.load(Study, path, {"train.epochs": 0})
    with pytest.raises(ConfigError, match=r"'limit' must be whole number.*\(in .*job\.toml\)"):
        settings.load(Study, written(tmp_path, "limit = 'x'\n"), {"train.epochs": 1})


def test_a_setting_without_default_must_be_given() -> None:
    """What has no default is asked for by name."""
    with pytest.raises(ConfigError, match="'source' has no default and must be given"):
        settings.load(Job, {})


def test_a_missing_file_or_assignment_is_a_config_error(tmp_path: Path) -> None:
    """An absent file, bytes that are not text and an override without a value are settings errors."""
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        settings.load(Study, tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="is not TOML"):
        settings.load(Study, tmp_path / "bytes.toml")
    with pytest.raises(ConfigError, match="name=value"):
        settings.assignments(["train.epochs"])


def test_a_loaded_configuration_cannot_be_changed() -> None:
    """A configuration is a value."""
    with pytest.raises(FrozenInstanceError):
        settings.load(Study, {}).limit = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_the_annotated_defaults_load_back_to_the_defaults(tmp_path: Path) -> None:
    """The printed TOML is the defaults, with every documented line and type above its setting."""
    text = settings.annotated_toml(Study)
    assert settings.load(Study, written(tmp_path, text)) == Study()
    assert "# Passes over the train split, at least one. (whole number)\nepochs = 3\n" in text
    assert "# Most series to take; none takes all. (whole number, or left out)\n# limit =\n" in text
    assert "# Where tensors live. ('cpu' or 'cuda')" in text


def test_what_must_be_given_is_printed_as_a_comment(tmp_path: Path) -> None:
    """A configuration with a required setting prints TOML that asks for exactly that one."""
    text = settings.annotated_toml(Job)
    with pytest.raises(ConfigError, match="'source' has no default"):
        settings.load(Job, written(tmp_path, text))
    assert settings.load(Job, written(tmp_path, text), {"source": "x"}) == Job(source="x")


def test_describe_lists_every_setting_once() -> None:
    """Rows are the leaves of the tree: the same names as the flat form, one meaning for `a, b : type`."""
    rows = {row.name: row for row in settings.describe(Study)}
    assert set(rows) == {name.split(".a b")[0] for name in settings.flat(Study())}
    assert rows["name"].meaning == rows["title"].meaning == "Text that is shown."
    assert rows["train.epochs"].default == 3
    assert rows["train.betas"].type == "list [number, number]"


def test_an_undocumented_field_is_refused() -> None:
    """A setting without a documented line cannot be printed."""

    @dataclass(frozen=True, kw_only=True)
    class Bare:
        lags: int = 3

    with pytest.raises(ConfigError, match="lags is not documented: add it under Attributes of Bare"):
        settings.describe(Bare)


studies = st.builds(
    Study,
    name=st.text(),
    folder=st.sampled_from([Path("a/b"), Path("/c d")]),
    shuffle=st.booleans(),
    lags=st.lists(st.integers(-(2**60), 2**60)).map(tuple),
    limit=st.none() | st.integers(0, 9),
    tags=st.dictionaries(st.text(), st.text(), max_size=3),
    train=st.builds(Train, epochs=st.integers(1, 99), rate=st.floats(allow_nan=False)),
)


@given(studies)
def test_the_nested_form_survives_json(study: Study) -> None:
    """A configuration written as JSON is read back as the same configuration."""
    text = json.dumps(settings.to_dict(study))
    assert settings.load(Study, json.loads(text)) == study


@given(studies)
def test_any_value_survives_toml(study: Study) -> None:
    """Text, numbers, lists and tables are written as TOML that reads back as the same value."""
    values: dict[str, Any] = {k: getattr(study, k) for k in ("name", "shuffle", "lags", "tags")}
    changes = settings.assignments(f"{k}={settings.toml_value(v)}" for k, v in values.items())
    assert settings.load(Study, {}, changes) == Study(**values)


@given(studies, studies)
def test_equal_configurations_have_equal_digests(one: Study, two: Study) -> None:
    """A digest stands for the configuration."""
    assert (settings.digest(one) == settings.digest(two)) == (one == two)


def test_a_digest_does_not_see_how_a_number_was_written() -> None:
    """1 and 1.0 in a field of float are one setting."""
    assert settings.digest(Train(rate=1)) == settings.digest(Train(rate=1.0))
    assert settings.digest(Train(rate=1)) != settings.digest(Train(rate=2))


def test_flat_names_are_dotted() -> None:
    """The flat form is what MLflow takes as parameters."""
    flat = settings.flat(Study())
    assert flat["train.epochs"] == 3
    assert flat["train.betas"] == [0.9, 0.999]
    assert flat["folder"] == "results"


def test_the_examples_in_docstrings_hold() -> None:
    """Examples in docstrings are tests."""
    result = doctest.testmod(settings)
    assert result.attempted > 0
    assert result.failed == 0
