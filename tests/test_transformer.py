"""The transformer: its layers against attention written by hand, its state against per-row runs.

Legend: B batch, T time, F features, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import load, save
from models.core import initial_state
from models.errors import ConfigError
from models.forecaster import Forecaster
from models.graph import trace
from models.network import Network, NetworkConfig
from models.observation import State
from models.transformer import STRETCH, TransformerConfig
from models.transforms import LogReturn
from pipeline.fitting import FitConfig
from pipeline.settings import load as load_settings
from pipeline.study.transformer import NETWORKS

B, D, W = 3, 8, 5


def core_of(**settings: Any) -> Network:
    """Make a small transformer in float64 with weights that are felt."""
    torch.manual_seed(1)
    settings = {"layers": 2, "transformer": TransformerConfig(heads=2, window=W)} | settings
    core = Network("transformer", NetworkConfig(hidden=D, **settings), unit=0.01).double().eval()
    with torch.no_grad():
        for p in core.body.parameters():  # type: ignore[attr-defined]
            p.add_(torch.randn_like(p) * 0.3)
    return core


def fresh(core: Network, batch: int = B) -> State:
    """Give the state of the body that has seen nothing."""
    return initial_state(core.body.state_tensors(), batch, core.df)


def drawn(core: Network, time: int, batch: int = B) -> Tensor:
    """Draw features [B, T, F]."""
    return torch.tensor(np.random.default_rng(3).normal(size=(batch, time, core.inputs.width)))


def stepped(core: Network, x_BTF: Tensor, state: State) -> tuple[Tensor, State]:
    """Step over features one at a time; give the outputs [B, T, D] and the last state."""
    tops = []
    for x in x_BTF.unbind(1):
        state = core.body.step(x, state)
        tops.append(core.body.output(state))
    return torch.stack(tops, 1), state


def assert_same(a: State, b: State) -> None:
    """Expect two states to be equal up to the rounding of float64."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name].detach(), b[name].detach(), rtol=1e-9, atol=1e-11, err_msg=name)


def by_hand(core: Network, x_TF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the outputs [T, D] of one row with loops over steps, heads and moves."""
    w = {k.removeprefix("body."): v.numpy() for k, v in core.state_dict().items()}

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x, heads = linear(x_TF, "inlet"), core.config.transformer.heads
    for k in range(core.config.layers):
        query, key, value = np.split(linear(norm(x, f"layers.{k}.norm_attention"), f"layers.{k}.into"), 3, axis=1)
        added, each = np.zeros_like(x), D // heads
        for t in range(len(x)):
            for h in range(heads):
                part, seen = slice(h * each, (h + 1) * each), range(max(0, t - W + 1), t + 1)
                score = [query[t, part] @ key[j, part] / np.sqrt(each) for j in seen]
                score = np.exp(
                    [s + w[f"layers.{k}.bias"][h, 0, W - 1 - t + j] for s, j in zip(score, seen, strict=True)]
                )
                added[t, part] = score / score.sum() @ value[seen.start : seen.stop, part]
        x = x + linear(added, f"layers.{k}.out")
        x = x + linear(
            np.maximum(linear(norm(x, f"layers.{k}.norm_forward"), f"layers.{k}.widen"), 0), f"layers.{k}.narrow"
        )
    return norm(x, "norm")


@torch.no_grad()
def test_outputs_are_those_written_by_hand() -> None:
    """Over more moves than the window, a run gives what loops over steps, heads and moves give."""
    core = core_of()
    x = drawn(core, 3 * W)
    top, _ = core.body.run(x, fresh(core))
    for row in range(B):
        np.testing.assert_allclose(top[row], by_hand(core, x[row].numpy()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("time", [1, W - 1, W, 4 * W, 2 * STRETCH + 3])
@torch.no_grad()
def test_a_chain_of_steps_is_a_run(time: int) -> None:
    """Outputs and state of a run are those of a chain of steps, with windows that fill up and stretches that end."""
    core = core_of()
    x = drawn(core, time)
    (chained, after), (whole, end) = stepped(core, x, fresh(core)), core.body.run(x, fresh(core))
    np.testing.assert_allclose(chained, whole, rtol=1e-9, atol=1e-11)
    assert_same(after, end)
    assert end["filled"].tolist() == [[min(time, W - 1)]] * B


@torch.no_grad()
def test_rings_hold_the_last_moves_the_newest_last() -> None:
    """After a move more, each ring is the one before it without its oldest entry, and one entry more at its end."""
    core = core_of()
    x = drawn(core, W + 4)
    _, before = stepped(core, x[:, :-1], fresh(core))
    after = core.body.step(x[:, -1], before)
    for k in range(2):
        assert torch.equal(after[f"keys{k}"][..., :-1], before[f"keys{k}"][..., 1:])
        assert torch.equal(after[f"values{k}"][:, :, :-1], before[f"values{k}"][:, :, 1:])
        assert not torch.equal(after[f"keys{k}"][..., -1], before[f"keys{k}"][..., -1])


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
def test_layers_see_as_far_as_their_windows_together(layers: int) -> None:
    """The last output depends on the move layers · (W - 1) before it and on none before that."""
    core = core_of(layers=layers)
    reach = layers * (W - 1)
    x = drawn(core, reach + 3)
    tops = []
    for age in (None, reach, reach + 1):
        changed = x.clone()
        if age is not None:
            changed[:, -1 - age] += 1.0
        tops.append(core.body.run(changed, fresh(core))[0][:, -1])
    assert not torch.equal(tops[0], tops[1])
    assert torch.equal(tops[0], tops[2])


def test_gradients_flow_over_the_stretches_of_a_run_and_stop_at_a_state() -> None:
    """A loss on the last output moves the first feature over many stretches; detached, it ends at the chunk's state."""
    core = core_of(layers=6, transformer=TransformerConfig(heads=2, window=60))
    x = drawn(core, 2 * STRETCH + 8).requires_grad_()
    core.body.run(x, fresh(core))[0][:, -1].sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 0] != 0).any()

    start = {k: s.detach().clone().requires_grad_() for k, s in core.body.run(x.detach(), fresh(core))[1].items()}
    core.body.run(x.detach()[:, :3], start)[0].sum().backward()
    reached = {k for k, s in start.items() if s.grad is not None and (s.grad != 0).any()}
    assert reached == {k for k in start if k.startswith(("keys", "values"))}


@torch.no_grad()
def test_ragged_rows_run_as_each_row_alone() -> None:
    """With lengths, rows give the outputs and the last state of each row run on its own, none included."""
    core, lengths = core_of(), torch.tensor([7, 0, STRETCH + 6, 1])
    x = drawn(core, STRETCH + 6, 4)
    start = core.body.run(drawn(core, 3, 4), fresh(core, 4))[1]
    top, end = core.body.run(x, start, lengths)
    for row, length in enumerate(lengths.tolist()):
        mine = {k: s[row : row + 1] for k, s in start.items()}
        alone, after = stepped(core, x[row : row + 1, :length], mine) if length else (top[row : row + 1, :0], mine)
        np.testing.assert_allclose(top[row, :length], alone[0], rtol=1e-9, atol=1e-11)
        assert_same({k: s[row : row + 1] for k, s in end.items()}, after)


@torch.no_grad()
def test_what_lies_beyond_a_length_is_not_looked_at() -> None:
    """NaN in the padding of ragged rows reaches neither the outputs within the lengths nor the state."""
    core, lengths = core_of(), torch.tensor([3, 5, 0])
    x = drawn(core, 12)
    poisoned = torch.where((torch.arange(12) < lengths[:, None])[..., None], x, float("nan"))
    clean, dirty = (core.body.run(y, fresh(core), lengths) for y in (x, poisoned))
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(clean[0][row, :length], dirty[0][row, :length])
    assert all(torch.equal(clean[1][k], dirty[1][k]) for k in clean[1])


@torch.no_grad()
def test_nothing_seen_puts_out_zeros() -> None:
    """Before the first move the output is zero, which a row without moves repeats."""
    core = core_of()
    start = fresh(core)
    assert not core.body.output(start).any()
    _, after = core.body.run(drawn(core, 4), start, torch.zeros(B, dtype=torch.int64))
    assert_same(after, start)


def test_dropout_acts_inside_while_training_only() -> None:
    """Two runs in training differ, two in serving do not, and neither differs from what a step gives."""
    core = core_of(dropout=0.5)
    x = drawn(core, 10)
    served = [core.body.run(x, fresh(core))[0] for _ in range(2)]
    assert torch.equal(*served)
    np.testing.assert_allclose(stepped(core, x, fresh(core))[0].detach(), served[0].detach(), rtol=1e-9)
    core.train()
    assert not torch.equal(*(core.body.run(x, fresh(core))[0] for _ in range(2)))


def test_a_bias_begins_at_the_slopes_of_alibi() -> None:
    """Of 8 heads, head h takes 2^-h a move of age, as in Press, Smith & Lewis 2022, 3."""
    torch.manual_seed(0)
    core = Network("transformer", NetworkConfig(transformer=TransformerConfig(heads=8, window=4)), unit=0.01)
    bias = core.state_dict()["body.layers.0.bias"][:, 0]
    for h in range(8):
        np.testing.assert_allclose(bias[h], [-3 * 2.0 ** -(h + 1), -2 * 2.0 ** -(h + 1), -(2.0 ** -(h + 1)), 0])


def test_a_fit_is_read_back_with_its_settings(tmp_path: Path) -> None:
    """A saved transformer comes back with its heads and window, and the same weights."""
    core = core_of().float()
    save(Forecaster("transformer", LogReturn(), core), tmp_path / "model.safetensors")
    read, _ = load(tmp_path / "model.safetensors")
    assert read.core.config == core.config  # type: ignore[attr-defined]
    theirs = read.core.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in core.state_dict().items())


def test_a_layer_more_is_the_same_nodes_once_more() -> None:
    """The graph grows by one set of nodes a layer; what is empty in the window is worked out once."""
    nodes = [
        [n.op_type for n in trace(Forecaster("t", LogReturn(), core_of(layers=k).float())).graph.node]
        for k in (1, 2, 3)
    ]
    assert len(nodes[2]) - len(nodes[1]) == len(nodes[1]) - len(nodes[0])
    assert [kinds.count("Softmax") for kinds in nodes] == [1, 2, 3]
    assert [kinds.count("Greater") for kinds in nodes] == [nodes[0].count("Greater")] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "heads: expected 1 to 64, got 0"),
        ({"window": 1}, "window: expected 2 to 4096, got 1"),
        ({"feedforward": 17}, "feedforward: expected 1 to 16, got 17"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """Each setting says its range and what came."""
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**settings)


def test_heads_that_do_not_divide_the_width_are_refused_with_those_that_do() -> None:
    """The message says the width, what came, and which numbers of heads are possible."""
    config = NetworkConfig(hidden=10, transformer=TransformerConfig(heads=4))
    with pytest.raises(
        ConfigError, match=r"divisor of hidden, which is 10, got 4\. Set heads to one of \[1, 2, 5, 10\]"
    ):
        Network("transformer", config, unit=0.01)


def test_the_networks_of_the_study_have_as_many_weights() -> None:
    """The lstm, the gru and the transformer that are compared differ by six percent at most."""
    counts = []
    for arm in NETWORKS:
        config = load_settings(FitConfig, {}, arm.settings).network
        counts.append(sum(p.numel() for p in Network(arm.model, config, unit=0.01).parameters()))
    assert max(counts) < 1.06 * min(counts)
