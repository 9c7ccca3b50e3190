"""Classifiers keep the step contract, come back from their file, are exported, and refuse to read the future."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_export import PROVENANCE

from models.checkpoint import load, load_classifier, save
from models.checks import LABEL_CHECKS, Check, prices
from models.class_head import LabellingConfig
from models.classifier import Classifier
from models.errors import ConfigError, ModelError
from models.network import LABELLERS, Network, NetworkConfig
from models.observation import Observation, at
from models.transformer import TransformerConfig
from models.transforms import LogReturn
from pipeline import export as exporting
from pipeline.export import export

CLASSES = ("calm", "usual", "wild")


def labeller(kind: str, *, layers: int = 1, past: int = 0, future: int = 0, **labelling: object) -> Classifier:
    """Make a classifier with random weights."""
    torch.manual_seed(5)
    config = NetworkConfig(
        hidden=8,
        layers=layers,
        transformer=TransformerConfig(heads=2, window=6),
        labelling=LabellingConfig(**labelling),
    )
    shape = {"past": past, "future": future, "horizon": 2 if future else 1}
    core = Network(kind, config, unit=0.01, classes=len(CLASSES), **shape)
    names = ("volume", "@hour")[:past], ("load", "@weekday_sin")[:future]
    return Classifier("regime", LogReturn(), core, CLASSES, *names).eval()


KINDS: dict[str, Callable[[], Classifier]] = {
    **{kind: lambda kind=kind: labeller(kind) for kind in LABELLERS},
    "attention": lambda: labeller("gru", pooling="attention", window=5),
    "attention_stacked": lambda: labeller("lstm", layers=2, past=2, future=2, pooling="attention", window=3),
    "transformer_attention": lambda: labeller("transformer", pooling="attention", window=4),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the gate."""
    monkeypatch.setattr(exporting, "STEPS", 200)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 2, 50, 200))


@pytest.mark.parametrize("check", LABEL_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_classifier_keeps_the_contract(kind: str, check: Check) -> None:
    """Each check of the contract holds for each cell, and for attention pooling."""
    check(KINDS[kind](), np.random.default_rng(11))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("short")
def test_every_classifier_passes_the_gate(kind: str, tmp_path: Path) -> None:
    """Its file reproduces it, names its task and classes, and steps to the same probabilities."""
    model = KINDS[kind]()
    session = export(model, PROVENANCE, tmp_path / "model.onnx")
    assert (session.metadata.task, session.metadata.classes) == ("classify", CLASSES)
    assert session.metadata.parity["errors"].keys() >= {"probability", "state.price"}
    o = at(prices(model, np.random.default_rng(2)), 0)
    arrays = Observation(**{f: getattr(o, f).numpy() for f in Observation.__dataclass_fields__})
    served, _ = session.label(arrays, session.initial(3))
    expected, _ = model.step(o, model.init_state(3))
    np.testing.assert_allclose(served.probability, expected.probability.detach(), rtol=1e-5)
    with pytest.raises(ModelError, match="labels moments as"):
        session.step(arrays, session.initial(3))


@pytest.mark.parametrize("labelling", [{}, {"pooling": "attention", "window": 4}, {"bidirectional": True}])
def test_a_classifier_comes_back_from_its_file(labelling: dict[str, object], tmp_path: Path) -> None:
    """Labels are bit for bit the same, and it is not taken for a forecaster."""
    model, path = labeller("gru", **labelling), tmp_path / "model.safetensors"
    save(model, path, {"made": "here"})
    after, about = load_classifier(path)
    o = prices(model, np.random.default_rng(3))
    assert about == {"made": "here"}
    assert after.classes == CLASSES
    assert torch.equal(after.forward(o)[0].probability, model.forward(o)[0].probability)
    with pytest.raises(ModelError, match="expected a forecaster"):
        load(path)


@torch.no_grad()
def test_a_bidirectional_classifier_reads_the_future() -> None:
    """A change of the last price changes labels before it, in that series alone."""
    model = labeller("gru", bidirectional=True)
    o = prices(model, np.random.default_rng(4))
    before = model.forward(o)[0].probability
    o.price[0, -1] *= 1.5
    after = model.forward(o)[0].probability
    assert not torch.equal(before[0, -4], after[0, -4])
    assert torch.equal(before[1:], after[1:])


def test_a_bidirectional_classifier_is_neither_stepped_nor_exported(tmp_path: Path) -> None:
    """Both say that it reads the future, and no file is written."""
    model = labeller("lstm", bidirectional=True)
    with pytest.raises(ModelError, match="reads the future"):
        model.step(at(prices(model, np.random.default_rng(6)), 0), model.init_state(3))
    with pytest.raises(ModelError, match="reads the future"):
        export(model, PROVENANCE, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_pooling_is_a_weighted_mean_of_the_last_outputs() -> None:
    """With equal scores it is the plain mean over the outputs that there are."""
    head = labeller("gru", pooling="attention", window=4).core.head
    head.attention.energy.zero_()
    last, memory = torch.randn(1, 8), torch.randn(1, 4, 8)
    pooled = head._pooled(torch.cat([last, memory.flatten(1), torch.tensor([[2.0]])], 1))
    torch.testing.assert_close(pooled, torch.cat([last, memory[:, :2].mean(1)], 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: labeller("seq2seq"), "unknown network that labels"),
        (lambda: labeller("transformer", bidirectional=True), "has one direction"),
        (lambda: LabellingConfig(pooling="attention", bidirectional=True), "knows the whole series already"),
        (lambda: LabellingConfig(window=1), "expected 2 to 512"),
        (lambda: Classifier("one", LogReturn(), labeller("gru").core, ("a", "a")), "two or more classes"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Callable[[], object], message: str) -> None:
    """The message says what was expected."""
    with pytest.raises((ConfigError, ModelError), match=message):
        build()
