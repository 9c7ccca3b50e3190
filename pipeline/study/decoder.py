"""What attention and teacher forcing are for in a decoder: where the past comes again, and on prices.

Comes in: prices, or sizes. Goes out: findings. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from models.transforms import LogReturn
from pipeline.attention import attention
from pipeline.figures import attention_map
from pipeline.steps import Data
from pipeline.study.arms import Arm, Sizes, compared, fitted
from pipeline.study.echo import echo
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.windows import SplitConfig, split

STEPS = 5
LAG = 15


def arm(label: str, **decoder: str | float) -> Arm:
    """Change settings of the decoder at a horizon of several steps."""
    settings = {f"network.decoder.{name}": value for name, value in decoder.items()}
    return Arm(label=label, model="seq2seq", settings={"horizon": STEPS, **settings})


LINEAR = Arm(label="gru, one linear output", model="gru", settings={"horizon": STEPS})
ATTENDING = [
    arm("no attention", attention="none"),
    LINEAR,
    arm("dot", attention="dot"),
    arm("additive", attention="additive"),
]
FORCED = [
    arm("never"),
    arm("half the time", teacher_forcing=0.5),
    arm("always", teacher_forcing=1.0),
    arm("less and less, linear", teacher_forcing=1.0, schedule="linear"),
    arm("less and less, inverse sigmoid", teacher_forcing=1.0, schedule="inverse_sigmoid"),
]


@dataclass(frozen=True, kw_only=True)
class Drawn(Sizes):
    """How large an experiment on generated prices is.

    Attributes
    ----------
    length : int
        Prices of each of six series.
    """

    length: int = 1000


def run_echo(sizes: Drawn, conditions: Conditions) -> Finding:
    """Fit decoders with and without attention where moves come again after `LAG` steps."""
    panel = echo(sizes.length, lag=LAG, seed=conditions.seed)
    drawn = Data(panel=panel, split=split(panel, SplitConfig()), transform=LogReturn(), sha256="")
    faster = [replace(a, settings={**a.settings, "training.learning_rate": 1e-2}) for a in ATTENDING]
    finding = compared(faster, sizes, replace(conditions, data=drawn), setting="attention")
    forecaster, _ = fitted(faster[-1], drawn, sizes.epochs, conditions.seed)
    weights = attention(forecaster, panel).mean(0)
    return replace(
        finding, figure=partial(attention_map, weights, model="additive attention", series="moves that come again")
    )


def run_attention(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit the same on prices."""
    return compared(ATTENDING, sizes, conditions, setting="attention")


def run_forcing(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit a decoder that is shown the truth more or less often."""
    return compared(FORCED, sizes, conditions, setting="forcing")


ECHO = Experiment(
    name="attention",
    question="What is attention for?",
    about=(
        f"Each move copies the one {LAG} steps before (75 % of its variance), so that the next {STEPS} moves stand in "
        "the past, each at another place. A network that must keep them all in one vector forgets; a decoder that "
        "looks back on the last 24 outputs of its encoder (Bahdanau, Cho & Bengio 2015; `network.decoder.attention`) "
        "finds them; the figure shows at which age it looks, for each step."
    ),
    sizes={"quick": Drawn(epochs=8, levels=0), "full": Drawn(epochs=20, seeds=2, levels=0, length=1500)},
    run=run_echo,
)

ATTENTION = Experiment(
    name="attention_on_prices",
    question="Is there anything to look back for in prices?",
    about=(
        f"The same networks as on copied moves, on prices, {STEPS} steps ahead: one linear output for all steps, and a "
        "decoder that looks back or does not. Prices repeat themselves less than copied moves do."
    ),
    sizes={"quick": Sizes(epochs=5, levels=3), "full": Sizes(epochs=20, seeds=2, levels=0)},
    run=run_attention,
    on_prices=True,
)

FORCING = Experiment(
    name="teacher_forcing",
    question="Should a decoder be shown the truth while it is trained?",
    about=(
        f"A decoder says {STEPS} moves one after the other and reads what it said last. Shown the truth instead, it "
        "learns each move by itself, but is served on its own (Bengio, Vinyals, Jaitly & Shazeer 2015, NeurIPS; "
        "`network.decoder.teacher_forcing` and `schedule`). Scored is always the forecast as it is served."
    ),
    sizes={"quick": Sizes(epochs=5, levels=3), "full": Sizes(epochs=20, seeds=2, levels=0)},
    run=run_forcing,
    on_prices=True,
)
