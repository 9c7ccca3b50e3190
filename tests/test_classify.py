"""A classification from the store to the verdict: scores beside references, a file that steps, a run, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from panels import clustered_moves, garbage_from, market

from models.checkpoint import load_classifier
from models.errors import ConfigError, DataError
from models.network import NetworkConfig
from models.observation import Observation, at
from models.transforms import LogReturn
from pipeline import export as exporting
from pipeline.classify import Question, base_rate, classify, fitted, persistence, probabilities, verdict
from pipeline.config import Config
from pipeline.fitting import FitConfig
from pipeline.labels import Labels, direction, volatility
from pipeline.moves import observed_by
from pipeline.session import Session
from pipeline.settings import load
from pipeline.steps import Data
from pipeline.steps import load as loaded
from pipeline.training_config import TrainingConfig

SHORT = FitConfig(
    network=NetworkConfig(hidden=6), training=TrainingConfig(epochs=2, lanes=4, chunk=32, patience=2, device="cpu")
)
SCORES = {"log_loss", "brier", "auc", "accuracy", "ece"}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Give settings for a file of 500 daily prices with a column that says whether the last move was large."""
    moves = clustered_moves(np.random.default_rng(1), 500)
    price, large = 100 * np.exp(np.cumsum(moves)), (np.abs(moves) > 0.01).astype(int)
    time = np.datetime64("2020-01-01") + np.arange(500)
    lines = [f"S,{t},{p},{k}" for t, p, k in zip(time, price, large, strict=True)]
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(["series,time,price,large", *lines]))
    overrides = {"folder": str(tmp_path / "data"), "ingest.paths": [str(path)], "ingest.columns.values": ["large"]}
    return replace(load(Config, {}, overrides), fit=SHORT)


def test_volatility_is_classified_from_the_file_to_the_verdict(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of the network and both references, tests, and an ONNX step that labels as the checkpoint does."""
    monkeypatch.setattr(exporting, "STEPS", 200)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 2, 50, 200))
    found = classify(config, Question(target="volatility", window=10, pooling="attention"))
    assert list(found.scores) == ["network", "base rate", "present regime"]
    assert all(row.keys() == SCORES for row in found.scores.values())
    assert found.p_values.keys() == {"base rate", "present regime"}
    assert found.origins == sum(row.count for row in found.reliability)
    assert found.file is not None
    assert found.run
    session, (model, about) = Session.load(found.file), load_classifier(found.model)
    assert session.metadata.classes == ("calm", "wild")
    assert about["question"]["window"] == 10
    panel = loaded(config).panel
    o, state = observed_by(model, panel), session.initial(1)
    for t in range(40):
        now = Observation(**{f: getattr(at(o, t), f).numpy() for f in Observation.__dataclass_fields__})
        label, state = session.label(now, state)
        np.testing.assert_allclose(label.probability, probabilities(model, panel)[:, t], atol=1e-5)


def test_the_digest_of_the_data_is_of_the_labels_too(config: Config, tmp_path: Path) -> None:
    """The same prices with one label changed are other data, and the model says so."""
    asked, digests = Question(target="large", bidirectional=True), []
    path = Path(config.ingest.paths[0])
    for k, text in enumerate((path.read_text(), path.read_text().replace(",0\n", ",1\n", 1))):
        path.write_text(text)
        found = classify(replace(config, folder=tmp_path / f"data{k}"), asked)
        digests.append(load_classifier(found.model)[1]["data_sha256"])
    assert digests[0] != digests[1]


def test_a_column_is_labelled_from_both_sides_without_a_file(config: Config) -> None:
    """What reads the future is not exported and not tested, and its verdict says that it is no forecast."""
    found = classify(config, Question(target="large", bidirectional=True))
    assert found.classes == ("0", "1")
    assert (found.file, found.p_values) == (None, {})
    assert found.verdict.startswith("labels, not forecasts")


def test_probabilities_do_not_depend_on_the_future() -> None:
    """Garbage after a moment leaves all before it bit for bit, fit and labels included."""
    prices, parts = market(700, 500)
    cut = parts.validation_end_time
    found = []
    for panel in (prices, garbage_from(prices, cut)):
        labels = direction(panel, LogReturn(), 2)
        data = Data(panel=panel, split=parts, transform=LogReturn(), sha256="none")
        found.append(probabilities(fitted(data, labels, Question(target="direction"), SHORT), panel))
    before = prices.time < cut
    assert found[0][before].tobytes() == found[1][before].tobytes()
    assert not np.array_equal(found[0], found[1])


def test_the_references_are_frequencies_of_train() -> None:
    """The base rate adds one to each count; what follows a regime is counted by hand."""
    index = np.array([[0, 0, 1, 1, 0, -1]])
    labels = Labels(classes=("a", "b"), index=index)
    present = Labels(classes=("a", "b"), index=np.array([[-1, 0, 0, 1, 1, 0]]))
    train = np.ones((1, 6), bool)
    np.testing.assert_allclose(base_rate(labels, train), [4 / 7, 3 / 7])
    following = persistence(labels, present, train)
    np.testing.assert_allclose(following[0, 1], [0.5, 0.5])  # a -> a, a -> b, and one each
    np.testing.assert_allclose(following[0, 3], [0.5, 0.5])  # b -> b, b -> a
    np.testing.assert_allclose(following[0, 0], [4 / 7, 3 / 7])  # not known


def test_persistence_of_regimes_beats_the_base_rate() -> None:
    """Where volatility clusters, the regime of the last window tells the next one better than its frequency."""
    prices, parts = market(3000, holes=0.0)
    labels, present = volatility(prices, LogReturn(), parts, window=10, regimes=3)
    train, test = (parts.origins(prices, part, 10) for part in ("train", "test"))
    called = persistence(labels, present, train)[test].argmax(axis=1)
    assert (called == labels.index[test]).mean() > 0.45


@pytest.mark.parametrize(
    ("loss", "p_value", "said"),
    [(0.60, 0.01, "skill over the base rate:"), (0.60, 0.2, "no skill:"), (0.75, 0.01, "no skill:")],
)
def test_the_verdict_needs_a_lower_loss_that_is_not_chance(loss: float, p_value: float, said: str) -> None:
    """Neither a lower loss by chance nor a higher one for certain is skill."""
    scores = {"network": {"log_loss": loss}, "base rate": {"log_loss": 0.69}}
    assert verdict(scores, {"base rate": p_value}, 0.05, reads_ahead=False).startswith(said)


def test_one_seed_gives_the_same_labels() -> None:
    """Two fits with one seed give the same probabilities, with the random state of the caller left alone."""
    prices, parts = market(400)
    data = Data(panel=prices, split=parts, transform=LogReturn(), sha256="none")
    labels, before = direction(prices, LogReturn(), 1), torch.get_rng_state()
    both = [probabilities(fitted(data, labels, Question(target="direction"), SHORT), prices) for _ in range(2)]
    assert both[0].tobytes() == both[1].tobytes()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_asked_is_refused() -> None:
    """A direction from both sides, a window of one move, and a network that has no classes, with those that do."""
    with pytest.raises(ConfigError, match="stands in the prices after it"):
        Question(target="direction", bidirectional=True)
    with pytest.raises(ConfigError, match="2 to 1000"):
        Question(target="volatility", window=1)
    with pytest.raises(ConfigError, match="pooling"):
        Question(target="volatility", pooling="mean")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"cell: unknown network that labels 'lsmt'.*'lstm'\? Known: gru, lstm, rnn, tr"
    ):
        Question(target="direction", cell="lsmt")
    with pytest.raises(ConfigError, match="unknown network that labels 'seq2seq'"):
        Question(target="direction", cell="seq2seq")


def test_a_target_that_is_not_there_names_the_nearest(config: Config) -> None:
    """What is asked for, the columns that there are, and how one comes to be there, are in one sentence."""
    with pytest.raises(ConfigError, match="unknown target 'volatilty': did you mean 'volatility'") as told:
        classify(config, Question(target="volatilty"))
    assert "Known: direction, large, volatility. Ingest columns beside the price" in str(told.value)


@pytest.mark.parametrize(
    ("share", "steps", "came", "needed"), [(0.04, 1, 20, 30), (0.002, 1, 1, 30), (0.1, 10, 50, 80)]
)
def test_too_few_origins_of_the_test_are_refused_before_the_fit(
    config: Config, share: float, steps: int, came: int, needed: int
) -> None:
    """As many origins as a comparison of forecasts needs, more where labels look further ahead; or none is fitted."""
    short = replace(config, split=replace(config.split, test=share))
    with pytest.raises(DataError, match=rf"{steps} observations ahead needs at least {needed} origin.*came {came}\."):
        classify(short, Question(target="direction", steps=steps), on_epoch=lambda _: pytest.fail("fitted"))
