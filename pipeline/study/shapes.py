"""The four shapes of input and output, what each is for on prices, and four common questions with their numbers.

Legend: B batch, T time, F features, H hidden, S steps ahead.

Comes in: sizes. Goes out: findings. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import Hidden, Reader


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the demonstrations are.

    Attributes
    ----------
    length, ahead : int
        Steps read, and steps to forecast.
    rows, hidden : int
        Series, and units.
    """

    length: int = 60
    ahead: int = 24
    rows: int = 4
    hidden: int = 16


def run_shapes(sizes: Sizes, conditions: Conditions) -> Finding:
    """Run a network in each of the four shapes, and count what a pass gives to learn from."""
    torch.manual_seed(conditions.seed)
    many, one = torch.randn(sizes.rows, sizes.length, 1), torch.randn(sizes.rows, 1, 1)
    next_step, block = Reader("gru", 1, sizes.hidden), Reader("gru", 1, sizes.hidden, sizes.ahead)
    outputs = {
        "one to many": (one, fed_back(next_step, one, sizes.ahead), _ONE_TO_MANY),
        "many to one": (many, next_step(many)[:, -1:], _MANY_TO_ONE),
        "many to many, equal": (many, next_step(many), _EQUAL),
        "many to many, unequal": (many, block(many)[:, -1, :, None], _UNEQUAL),
    }
    rows = [
        {"shape": name, "reads": read.shape[1], "gives": given.shape[1], "for": what, "command": f"`{command}`"}
        for name, (read, given, (what, command)) in outputs.items()
    ]
    given = {row["shape"]: int(row["gives"]) for row in rows}
    most = max(given, key=lambda name: given[name])
    answer = (
        f"From {sizes.length} prices {most} gives {given[most]} outputs to learn from in one pass and many to one "
        f"{given['many to one']}; so forecasts are trained {most} and served one tick at a time."
    )
    return Finding(rows=rows, answer=answer, numbers={name: float(count) for name, count in given.items()})


_ONE_TO_MANY = (
    "a path from the last price on, each output read as the next input; all that was before is in the state",
    "statecast scenarios SP500 --steps 24",
)
_MANY_TO_ONE = ("one judgement of a whole history: the state that it leaves", "statecast inspect --series SP500")
_EQUAL = ("a forecast at every price, a loss at every price: training and backtest", "statecast train gru")
_UNEQUAL = (
    "all steps of a horizon at once from what was read, such as the 24 hours of tomorrow",
    "statecast train gru --set fit.horizon=24",
)


@torch.no_grad()
def fed_back(network: Reader, first_B1F: Tensor, steps: int) -> Tensor:
    """Give `steps` outputs [B, S, 1], each read as the next input."""
    x, state, outputs = first_B1F, None, []
    for _ in range(steps):
        x, state = network.run(x, state)
        outputs.append(x)
    return torch.cat(outputs, 1)


# ------------------------------------------------------------------------------------------------------- questions


def run_questions(sizes: Sizes, conditions: Conditions) -> Finding:
    """Answer each question with a number that is computed here."""
    torch.manual_seed(conditions.seed)
    gaps = {name: ask(sizes) for name, ask in _ASKED.items()}
    rows = [
        {"question": name, "measured": measured, "so": so, "otherwise": otherwise}
        for name, (measured, so, otherwise) in gaps.items()
    ]
    clean = all(float(row["so"]) < 1e-6 < float(row["otherwise"]) for row in rows[:-1])
    depth = rows[-1]
    answer = (
        f"{'All' if clean else 'Not all'} of the right ways leave no trace where the wrong ones do; a state that is "
        f"not detached has {int(float(depth['otherwise']))} operations behind it after eight chunks, a detached one "
        f"{int(float(depth['so']))}."
    )
    numbers = {f"{key}.{row['question']}": float(row[key]) for row in rows for key in ("so", "otherwise")}
    return Finding(rows=rows, answer=answer, numbers=numbers)


@torch.no_grad()
def last_state(sizes: Sizes) -> tuple[str, float, float]:
    """Measure how far the last output is from the last state, on full and on padded sequences."""
    layer, x = nn.GRU(1, sizes.hidden, batch_first=True), torch.randn(sizes.rows, sizes.length, 1)
    output, state = layer(x)
    steps = torch.arange(sizes.length - sizes.rows + 1, sizes.length + 1)
    _, real = layer(pack_padded_sequence(x, steps, batch_first=True, enforce_sorted=False))
    full, ragged = (output[:, -1] - state[0]).abs().max(), (output[:, -1] - real[0]).abs().max()
    return "last output less last state: full sequences, padded ones", float(full), float(ragged)


@torch.no_grad()
def bidirectional(sizes: Sizes) -> tuple[str, float, float]:
    """Measure how much the output at the first step changes with the last price."""
    x = torch.randn(sizes.rows, 8, 1)
    other = x.clone()
    other[:, -1] += 10
    forward, both = (nn.GRU(1, sizes.hidden, batch_first=True, bidirectional=way) for way in (False, True))
    change = [float((layer(x)[0][:, 0] - layer(other)[0][:, 0]).abs().max()) for layer in (forward, both)]
    return "change of the first output with the last price: forward, bidirectional", change[0], change[1]


@torch.no_grad()
def axis(sizes: Sizes) -> tuple[str, float, float]:
    """Measure how much one series changes with another, with the batch axis where it belongs and where it does not."""
    x = torch.randn(sizes.rows, sizes.length, 1)
    other = x.clone()
    other[0] += 10
    right, wrong = (nn.GRU(1, sizes.hidden, batch_first=first) for first in (True, False))
    change = [float((layer(x)[0][1] - layer(other)[0][1]).abs().max()) for layer in (right, wrong)]
    return "change of series 2 with series 1: batch_first, not", change[0], change[1]


def detach(sizes: Sizes) -> tuple[str, float, float]:
    """Count the operations behind the state after eight chunks, detached after each, and never."""
    layer, x = Reader("gru", 1, sizes.hidden), torch.randn(sizes.rows, 5, 1)
    counts = []
    for cut in (True, False):
        state: Hidden | None = None
        for _ in range(8):
            before = None if state is None else tuple(h.detach() for h in state) if cut else state
            _, state = layer.run(x, before)
        assert state is not None
        counts.append(float(operations_behind(state[0])))
    return "operations behind the state after 8 chunks: detached, not", counts[0], counts[1]


def operations_behind(tensor: Tensor) -> int:
    """Count the nodes of the graph that a backward pass from `tensor` would walk."""
    seen: set[object] = set()
    left = [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return len(seen)


_ASKED = {
    "last state or all outputs?": last_state,
    "when bidirectional?": bidirectional,
    "which axis?": axis,
    "why detach?": detach,
}

SHAPES = Experiment(
    name="shapes",
    question="Which of the four shapes of input and output is for what?",
    about=(
        "A recurrent network reads one or many prices and gives one or many outputs. The counts are those of a network "
        "run in each shape."
    ),
    sizes={"quick": Sizes(), "full": Sizes()},
    run=run_shapes,
)

QUESTIONS = Experiment(
    name="questions",
    question="Last state or all outputs? When bidirectional? Which axis? Why detach?",
    about=(
        "**Last state or all outputs?** On full sequences the last output of the top layer is the last state, so for "
        "one forecast either will do; in a padded batch the last output is that of the padding. Take all outputs where "
        "there is a loss at every step, which is how forecasters are trained here.\n\n"
        "**When bidirectional?** Never for a forecast: the backward half of the first output has read the last price. "
        "It is right where the whole sequence is known before the question is asked, such as a label of a finished "
        "day.\n\n"
        "**Which axis?** torch reads [T, B, F] unless `batch_first` is set. The wrong axis raises no error: series "
        "become time, and one series leaks into the next.\n\n"
        "**Why detach?** A state that is carried with its history grows a graph over all of the past: memory without "
        "bound, and a second backward pass through what the first one freed. Detached, its values go on and its "
        "history does not.\n\n"
        "The last two columns are the value for the right way and for the other one."
    ),
    sizes={"quick": Sizes(), "full": Sizes()},
    run=run_questions,
)
