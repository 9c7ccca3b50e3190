"""What a model costs is measured on the forecaster itself, and leaves it as it was."""

from __future__ import annotations

import pytest
import torch
from test_contract import KINDS, recurrent

from models.forecaster import Forecaster
from models.observation import StateTensor
from models.transforms import AsinhDifference, LogReturn
from pipeline.cost import measure, state_bytes


@pytest.mark.parametrize("kind", ["last_value", "ar", "garch", "lstm", "covariates", "block_of_hours"])
def test_every_kind_of_forecaster_has_its_cost(kind: str) -> None:
    """Time of a tick, bytes and parameters are positive; what was told of the fits comes back."""
    cost = measure(Forecaster(kind, LogReturn(), KINDS[kind]()), seconds=12.5, refits=3)
    assert 1 < cost.microseconds < 100_000
    assert cost.state_bytes >= 8
    assert cost.parameters >= 1
    assert (cost.seconds, cost.refits) == (12.5, 3)


def test_a_fit_of_many_series_is_measured_on_its_own_rows() -> None:
    """A transform and residuals with a row a series need as many names; measuring makes them up."""
    transform = AsinhDifference(torch.tensor([50.0, 40.0, -3.0, 60.0]), torch.tensor([20.0, 12.0, 8.0, 25.0]))
    assert measure(Forecaster("ar", transform, KINDS["ar"]()), seconds=0.0, refits=0).microseconds > 0


def test_state_bytes_are_those_of_every_number() -> None:
    """A float64 price, six float32 units and an int64 count are 8 + 24 + 8 bytes."""
    tensors = (
        StateTensor("price", (1,), "float64", float("nan"), "price", "last known price"),
        StateTensor("h0", (2, 3), "float32", 0.0, "hidden", "units"),
        StateTensor("count", (), "int64", 0.0, "count", "moves seen"),
    )
    assert state_bytes(tensors) == 40
    assert state_bytes(()) == 0


def test_state_bytes_are_those_of_the_state_that_is_carried() -> None:
    """The count from the description equals the memory of an initial state of one series."""
    forecaster = Forecaster("stacked", LogReturn(), KINDS["stacked"]())
    held = forecaster.init_state(1)
    cost = measure(forecaster, seconds=0.0, refits=0)
    assert cost.state_bytes == sum(x.numel() * x.element_size() for x in held.values())


def test_a_second_layer_costs_more_parameters_and_more_state() -> None:
    """A second layer of 8 float32 units adds 32 bytes to the state of a series, and weights."""
    small, large = (
        measure(Forecaster("gru", LogReturn(), core), seconds=0.0, refits=0)
        for core in (KINDS["gru"](), recurrent("gru", layers=2))
    )
    assert large.state_bytes - small.state_bytes == 8 * 4
    assert large.parameters > small.parameters


def test_measuring_does_not_change_the_forecaster() -> None:
    """The mode and the weights of a network are afterwards what they were."""
    forecaster = Forecaster("gru", LogReturn(), KINDS["gru"]()).train()
    before = {k: v.clone() for k, v in forecaster.state_dict().items()}
    measure(forecaster, seconds=0.0, refits=0)
    assert forecaster.training
    assert all(torch.equal(v, before[k]) for k, v in forecaster.state_dict().items())
