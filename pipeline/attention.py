"""Where a decoder looks: the weights with which a forecast reads the last outputs of its encoder.

Comes in: a forecaster with attention, a panel. Goes out: weights, for the figure. Imported by the study.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.decoder import Decoder
from models.errors import ModelError
from models.forecaster import Forecaster
from models.network import Network
from pipeline.moves import observed_by
from pipeline.windows import Panel


@torch.no_grad()
def attention(forecaster: Forecaster, panel: Panel) -> NDArray[np.float32]:
    """Give the weights of the forecast from the last moment of each series.

    Returns
    -------
    float32 [N, S*M, W]
        Of each place of the forecast on the outputs before, the newest first; those of a place add up to 1.

    Raises
    ------
    ModelError
        The forecaster does not attend to anything.
    """
    core = getattr(forecaster.core, "core", forecaster.core)  # inside its calibration, where it has one
    if not isinstance(core, Network) or not isinstance(core.head, Decoder) or core.head.attention is None:
        raise ModelError(
            f"{forecaster.name}: expected a seq2seq model with attention, got one of kind {forecaster.kind} without. "
            "Train seq2seq with fit.network.decoder.attention 'dot' or 'additive'"
        )
    o = observed_by(forecaster, panel)
    _, state = forecaster.forward(o)
    parts = [core.body.output(state)]
    if core.future:
        last = torch.from_numpy(panel.length - 1)
        parts.append(core.inputs.known_ahead(o.future[torch.arange(len(last)), last]))
    return torch.cat(core.head.unrolled(torch.cat(parts, 1)).weights, 1).numpy()
