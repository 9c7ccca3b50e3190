"""The recurrent body that keeps its last outputs: a window to look back on, carried in the state like all else.

The window is a ring of the last W outputs of the top layer, the newest first, and how many there are. Both step on
moves only, as the layers do.

Legend: B batch, T time, F features, H hidden, W slots of the window.

Comes in: features. Goes out: the hidden vector and, beside it, the window. Imported by network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.observation import Array, State, StateTensor
from models.operations import namespace
from models.recurrent import Recurrent


class Encoder(nn.Module):
    """A stack of recurrent layers and the last outputs of its top.

    Parameters
    ----------
    layers : Recurrent
    window : int
        W, 2 or more.
    """

    def __init__(self, layers: Recurrent, window: int) -> None:
        super().__init__()
        self.layers, self.window, self.hidden = layers, window, layers.width
        self.width = self.hidden * (1 + window) + 1

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: what the layers do, the window, and how many outputs are in it."""
        meaning = "last outputs of the top layer, the newest first"
        return (
            *self.layers.state_tensors(),
            StateTensor("memory", (self.window, self.hidden), "float32", 0.0, "hidden", meaning),
            StateTensor("kept", (1,), "float32", 0.0, "count", "outputs in the memory"),
        )

    def step(self, x: Array, state: State) -> State:
        """Advance by one step: features [B, F]."""
        xp = namespace(x)
        after = self.layers.step(x, state)
        older, _ = xp.split(state["memory"], [self.window - 1, 1], 1)
        memory = xp.concat([xp.unsqueeze(self.layers.output(after), 1), older], 1)
        return {**after, "memory": memory, "kept": xp.clip(state["kept"] + 1.0, 0.0, float(self.window))}

    def output(self, state: State) -> Array:
        """Give hidden vector, window and count side by side: [B, H + W*H + 1]."""
        xp = namespace(state["memory"])
        window = xp.reshape(state["memory"], (-1, self.window * self.hidden))
        return xp.concat([self.layers.output(state), window, state["kept"]], 1)

    def run(self, x_BTF: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over a sequence, as `Recurrent.run`; the windows of all steps are gathered at once."""
        top, after = self.layers.run(x_BTF, state, lengths)
        time = top.shape[1]
        history = torch.cat([state["memory"].flip(1), top], 1)
        windows = history.unfold(1, self.window, 1).flip(3).transpose(2, 3)  # [B, 1 + T, W, H], before the first too
        steps = torch.arange(time + 1, device=top.device)
        kept = (state["kept"] + steps).clamp(max=self.window)
        ends = torch.full((len(top),), time) if lengths is None else lengths
        row, end = torch.arange(len(top), device=top.device), ends.to(top.device)
        out = torch.cat([top, windows[:, 1:].flatten(2), kept[:, 1:, None]], 2)
        return out, {**after, "memory": windows[row, end], "kept": kept[row, end][:, None]}
