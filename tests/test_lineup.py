"""A lineup is the files of one version, each the one that was published."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from served import metadata, model_bytes
from spoiled import classifier
from variants import reading

from models.errors import IntegrityError, ModelError
from pipeline import champions
from pipeline.lineup import SERVING, Lineup, published

OTHER = model_bytes(metadata(name="other"))


def test_the_model_that_serves_comes_first() -> None:
    """Files and sessions by role: `serving`, then those beside it by name."""
    lineup = Lineup(version=2, serving=reading(), beside={"other": OTHER, "last": model_bytes()})
    assert list(lineup.files) == list(lineup.sessions) == [SERVING, "other", "last"]
    assert lineup.sha256 == hashlib.sha256(reading()).hexdigest()
    assert lineup.sessions["other"].metadata.name == "other"
    assert lineup.sessions is lineup.sessions


def test_a_reference_cannot_take_the_place_of_the_model_that_serves() -> None:
    """Not even by its name."""
    with pytest.raises(ModelError, match="version 4: a reference is called 'serving'"):
        Lineup(version=4, serving=reading(), beside={SERVING: OTHER})


def test_a_file_that_cannot_be_read_is_refused() -> None:
    """When it is opened, not when it is named."""
    lineup = Lineup(serving=b"no model")
    with pytest.raises(ModelError, match="the runtime refuses it"):
        _ = lineup.sessions
    assert Lineup(serving=classifier()).sessions[SERVING].metadata.task == "classify"


def test_a_champion_is_read_with_its_references(tmp_path: Path) -> None:
    """Every file has the digest under which it was published; another one in its place is refused."""
    for name, file in (("model.onnx", reading()), ("other.onnx", OTHER)):
        (tmp_path / name).write_bytes(file)
    champions.publish(
        tmp_path / "champions", "champion", tmp_path / "model.onnx", beside={"other": tmp_path / "other.onnx"}
    )
    champion = champions.current(tmp_path / "champions", "champion")
    lineup = published(tmp_path / "champions", champion)
    assert (lineup.version, lineup.serving, dict(lineup.beside)) == (champion.version, reading(), {"other": OTHER})
    wrong = replace(champion, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="expected sha256 0000"):
        published(tmp_path / "champions", wrong)
    (tmp_path / "champions" / champion.beside["other"].file).write_bytes(model_bytes())
    with pytest.raises(IntegrityError, match="expected sha256"):
        published(tmp_path / "champions", champion)
