"""Fit a classifier on the prices of the store, hold it against what is known without one, and say whether it has skill.

What is known without a model: the base rate, which is how often each class came in the train split; and for volatility
the persistence of the present regime, which is how often each class followed it there.

Legend: N series, T time, n test origins, C classes.

Comes in: `Config` and a question. Goes out: `Classified`, a checkpoint, an ONNX file, an MLflow run. Imported by the
command line and the study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from models import checkpoint
from models.class_head import LabellingConfig
from models.classifier import Classifier
from models.errors import ConfigError, DataError, unknown
from models.network import LABELLERS, Network
from models.observation import between
from pipeline import settings, steps
from pipeline.classification import Indices, Matrix, Reliability, class_scores, log_losses, reliability
from pipeline.compare import CompareConfig, fewest
from pipeline.config import Config
from pipeline.covariates import WHERE_FROM, columns, exactly
from pipeline.export import Provenance, export
from pipeline.fitting import FitConfig
from pipeline.labels import Labels, direction, given, volatility
from pipeline.moves import observed_by
from pipeline.prices import PriceStore
from pipeline.significance import diebold_mariano
from pipeline.steps import Data
from pipeline.tracking import Tracker
from pipeline.training import EpochRecord, Training, fit_classifier
from pipeline.windows import Panel, Split

BOTH_WAYS = 128
"""Fewest moves of a chunk that is read in both directions: its ends know one side only."""

CHUNK = 512
"""Moments that are labelled at once."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be classified, and by what network.

    Attributes
    ----------
    target : str
        `direction`, `volatility`, or a column of the store that holds labels.
    cell : str
        Kind of the network, one of `LABELLERS`.
    pooling : {"last", "attention"}
        What a label is read from.
    bidirectional : bool
        Label whole series, given past and future.
    steps : int
        Observations over which the direction is told, 1 to 1000.
    window : int
        Moves of a realised volatility, 2 to 1000.
    regimes : int
        Regimes of volatility, 2 or 3.
    """

    target: str
    cell: str = "gru"
    pooling: Literal["last", "attention"] = "last"
    bidirectional: bool = False
    steps: int = 1
    window: int = 20
    regimes: int = 2

    def __post_init__(self) -> None:
        if self.cell not in LABELLERS:
            raise ConfigError(f"cell: {unknown('network that labels', self.cell, LABELLERS)}")
        for name, low in (("steps", 1), ("window", 2)):
            if not low <= getattr(self, name) <= 1000:
                raise ConfigError(f"{name}: expected {low} to 1000 observations, got {getattr(self, name)}")
        if self.pooling not in ("last", "attention"):
            raise ConfigError(f"pooling: expected last or attention, got {self.pooling!r}")
        if self.bidirectional and self.target == "direction":
            raise ConfigError(
                "bidirectional: the direction of a move stands in the prices after it, which a bidirectional network "
                "reads: nothing would be learned. Leave bidirectional out, or label volatility or a column"
            )


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What was fitted and found, on the test split.

    Attributes
    ----------
    name : str
        Of the network.
    target : str
    classes : tuple of str
    origins : int
        n, labelled moments of all series that are scored.
    scores : dict
        By name, the network first: `class_scores`.
    p_values : dict
        Of the test that the network's log loss is that of each reference; none for labels that read the future.
    reliability : list of Reliability
        Of the network.
    verdict : str
        In words.
    model, file : Path
        Checkpoint, and ONNX step; no step for labels that read the future.
    run : str
        Of MLflow.
    """

    name: str
    target: str
    classes: tuple[str, ...]
    origins: int
    scores: dict[str, dict[str, float]]
    p_values: dict[str, float]
    reliability: list[Reliability]
    verdict: str
    model: Path
    file: Path | None
    run: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """Probabilities [n, C] by name on the same origins, the class that came [n], and the origins' times [n]."""

    probability: dict[str, Matrix]
    happened: Indices
    time: NDArray[np.int64]


def classify(
    config: Config, question: Question, on_epoch: Callable[[EpochRecord], None] = lambda _: None
) -> Classified:
    """Fit, score against the references, test, record and export; where the store is empty the prices are ingested.

    Raises
    ------
    ConfigError
        The target is neither `direction` nor `volatility`, nor a column of the store.
    DataError
        The network would be tested on fewer origins than `compare` asks for.
    """
    if not PriceStore(config.prices).prices.exists():
        steps.ingest(config)
    data, labels, present = _labelled(config, question)
    if not question.bidirectional:
        _refuse_few(data, labels, config.compare)
    classifier = fitted(data, labels, question, config.fit, on_epoch)
    held = _held(classifier, data.panel, data.split, labels, present)
    scores = {name: class_scores(p, held.happened) for name, p in held.probability.items()}
    p_values = {} if question.bidirectional else _tests(held, labels.steps)
    name = f"{question.cell}-{question.target}"
    path, file = config.folder / "models" / f"classify-{name}.safetensors", None
    about = {"series": data.panel.names, "data_sha256": data.sha256, "question": asdict(question)}
    checkpoint.save(classifier, path, about)
    if not question.bidirectional:
        file = path.with_suffix(".onnx")
        export(classifier, _provenance(config, data, question), file)
    found = Classified(
        name=name,
        target=question.target,
        classes=labels.classes,
        origins=len(held.happened),
        scores=scores,
        p_values=p_values,
        reliability=reliability(held.probability["network"], held.happened),
        verdict=verdict(scores, p_values, config.compare.alpha, reads_ahead=question.bidirectional),
        model=path,
        file=file,
        run="",
    )
    return replace(found, run=_recorded(config, data, question, found))


def fitted(
    data: Data,
    labels: Labels,
    question: Question,
    config: FitConfig,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> Classifier:
    """Train the classifier that the question asks for, on the train origins of the labels."""
    labelling = LabellingConfig(
        pooling=question.pooling, window=config.network.labelling.window, bidirectional=question.bidirectional
    )
    training = config.training
    if question.bidirectional:
        training = replace(training, chunk=max(training.chunk, BOTH_WAYS))
    network = replace(config.network, labelling=labelling, diurnal=False)  # a label has no width to adjust
    fit = Training(
        question.cell, data.panel, data.split, data.transform, network=network, config=training, labels=labels
    )
    return fit_classifier(fit, on_epoch)


@torch.no_grad()
def probabilities(classifier: Classifier, panel: Panel) -> Matrix:
    """Give the probability of each class at each moment, [N, T, C].

    The value at i was made from data up to and including i; of a bidirectional classifier from the whole series.
    """
    o, state, out = observed_by(classifier, panel), classifier.init_state(len(panel.names)), []
    time = panel.price.shape[1]
    whole = cast("Network", classifier.core).config.labelling.bidirectional
    for start in range(0, time, time if whole else CHUNK):
        label, state = classifier.forward(between(o, start, time if whole else min(start + CHUNK, time)), state)
        out.append(label.probability.double().numpy())
    return np.concatenate(out, axis=1)


def base_rate(labels: Labels, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give how often each class came at the train origins [N, T], plus one each (Laplace), [C]."""
    count = np.bincount(labels.index[train & (labels.index >= 0)], minlength=len(labels.classes)) + 1.0
    return count / count.sum()


def persistence(labels: Labels, present: Labels, train: NDArray[np.bool_]) -> Matrix:
    """Give the probability of each class at each moment, [N, T, C]: how often it followed the present one in train.

    Where the present class is not known, that is the base rate.
    """
    size = len(labels.classes)
    pairs = train & (labels.index >= 0) & (present.index >= 0)
    count = np.ones((size, size))
    np.add.at(count, (present.index[pairs], labels.index[pairs]), 1.0)
    following = np.vstack([count / count.sum(axis=1, keepdims=True), base_rate(labels, train)])
    return following[present.index]  # the last row for NONE


def verdict(scores: dict[str, dict[str, float]], p_values: dict[str, float], alpha: float, *, reads_ahead: bool) -> str:
    """Say in words over which references the network has skill: its log loss is lower, and not by chance."""
    loss = {name: row["log_loss"] for name, row in scores.items()}
    if reads_ahead:
        return (
            f"labels, not forecasts: they read the future. Accuracy {scores['network']['accuracy']:.1%}, base rate "
            f"{scores['base rate']['accuracy']:.1%}"
        )
    beaten = [name for name, p in p_values.items() if p < alpha and loss["network"] < loss[name]]
    left = [name for name in p_values if name not in beaten]
    said = f"skill over the {' and the '.join(beaten)}" if beaten else "no skill"
    said += f", none shown over the {' and the '.join(left)}" if beaten and left else ""
    each = (
        f"log loss {loss['network']:.4f} against {loss[n]:.4f} of the {n}, p = {p:.3g}" for n, p in p_values.items()
    )
    return f"{said}: {'; '.join(each)}"


def _labelled(config: Config, question: Question) -> tuple[Data, Labels, Labels | None]:
    """Load prices and label them; for volatility also by the present regime.

    A network never reads the column that it is to say; the digest of the data is then of that column too.
    """
    if question.target == "direction":
        data = steps.load(config)
        return data, direction(data.panel, data.transform, question.steps), None
    if question.target == "volatility":
        data = steps.load(config)
        shape = {"window": question.window, "regimes": question.regimes}
        return data, *volatility(data.panel, data.transform, data.split, **shape)
    store = PriceStore(config.prices)
    if question.target not in (held := columns(store)):
        raise ConfigError(f"{unknown('target', question.target, ('direction', 'volatility', *held))}. {WHERE_FROM}")
    read = {side: tuple(n for n in getattr(config, side) if n != question.target) for side in ("past", "ahead")}
    data = steps.load(replace(config, **read))
    value = exactly(data.panel, store, question.target, known_at=config.known_at_time)
    labels = given(data.panel, question.target, value)
    sha256 = hashlib.sha256(data.sha256.encode() + value.tobytes()).hexdigest()
    return replace(data, sha256=sha256), labels, None


def _test_origins(panel: Panel, split: Split, labels: Labels) -> NDArray[np.bool_]:
    """Mark the labelled origins of the test split, [N, T]."""
    return split.origins(panel, "test", labels.steps) & (labels.index >= 0)


def _refuse_few(data: Data, labels: Labels, config: CompareConfig) -> None:
    """Refuse a test over fewer times than one of forecasts needs."""
    came = len(np.unique(data.panel.time[_test_origins(data.panel, data.split, labels)]))
    needed = fewest(config, labels.steps)
    if came < needed:
        raise DataError(
            f"a test of labels {labels.steps} observations ahead needs at least {needed} origin times in the test "
            f"split; came {came}. Make split.test larger, give more history, or look less far ahead (steps, window)"
        )


def _held(classifier: Classifier, panel: Panel, split: Split, labels: Labels, present: Labels | None) -> Held:
    """Put the network's probabilities beside those of the references, on the test origins in order of time."""
    train, test = split.origins(panel, "train", labels.steps), _test_origins(panel, split, labels)
    order = np.argsort(panel.time[test], kind="stable")
    happened = labels.index[test][order]
    probability = {"network": probabilities(classifier, panel)[test][order]}
    probability["base rate"] = np.tile(base_rate(labels, train), (len(happened), 1))
    if present is not None:
        probability["present regime"] = persistence(labels, present, train)[test][order]
    return Held(probability=probability, happened=happened, time=panel.time[test][order])


def _tests(held: Held, horizon: int) -> dict[str, float]:
    """Test the network's log loss, the mean over the series at each time, against that of each reference."""
    _, group, count = np.unique(held.time, return_inverse=True, return_counts=True)
    loss = {
        name: np.bincount(group, weights=log_losses(p, held.happened)) / count for name, p in held.probability.items()
    }
    return {name: diebold_mariano(loss["network"], loss[name], horizon)[1] for name in loss if name != "network"}


def _provenance(config: Config, data: Data, question: Question) -> Provenance:
    return Provenance(
        series=data.panel.names,
        grid=data.panel.grid,
        cutoff_time=steps.iso(data.split.validation_end_time),
        data_sha256=data.sha256,
        commit=steps.commit(),
        config=settings.to_dict(config.fit) | {"question": asdict(question)},
    )


def _recorded(config: Config, data: Data, question: Question, found: Classified) -> str:
    """Record in MLflow what was asked and found; give the run's id."""
    tags: dict[str, Any] = {
        "data_sha256": data.sha256,
        "data_start": steps.iso(int(data.panel.time.min())),
        "data_end": steps.iso(int(data.panel.time.max())),
        "commit": steps.commit(),
        "seed": config.fit.training.seed,
        "device": config.fit.training.device,
        "verdict": found.verdict,
    }
    params = settings.flat(question) | settings.flat(config.fit)
    with Tracker(config.tracking, config.base).retrain(params, tags, name="classify") as run:
        run.scores({"pooled" if name == "network" else name: row for name, row in found.scores.items()})
        run.json({k: v for k, v in asdict(found).items() if k not in ("model", "file", "run")}, "classified.json")
        run.text(found.verdict, "verdict.md")
        for path in filter(None, (found.model, found.file)):
            run.file(path)
    return run.id
