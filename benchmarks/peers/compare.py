"""S2, S3, S5, S7 beside a peer: statecast, the other library and the bare floor, in turn in one process.

- one price: a new price of a series, or of a thousand, until its one-step forecast is there (S2, S3);
- walk: 1,000 one-step forecasts of one series, one fit (S7);
- fit: a whole fit of three epochs, 64 series, chunks of 64, 64 of them a step, per target in a loss (S5). A target
  counts as often as it is in a loss, as each library's own loss counts it; targets of validation do not.

Before anything is timed, every library's forecasts must be of the asked time of the asked series, finite and near the
last price. The same prices for all, networks of 64x2, one thread, CPU seconds. `nodes` are the recurrent nodes of
statecast's own file alone, states carried; `torch` is the same network in eager torch, states carried, and in a fit
the bare loop. `statecast` is the whole file in its session, the walk in torch, the whole fit; `file` the walk with
the file.

    make bench-peers                                            # builds an environment for each peer, and runs this
    PYTHONPATH=.:benchmarks python benchmarks/peers/compare.py darts [--claims one-price walk fit] [--json FILE]
"""

from __future__ import annotations

import logging
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module

import numpy as np
import ours
import torch
from peer import CONTEXT, LANES, Peer, checked, walks
from record import Call, Case, Target, interleaved, options, tell, timed_case

PEERS = ("darts", "neuralforecast", "statsforecast", "river", "skforecast", "gluonts")
"""The libraries that there is a module and a file of pins for."""

ORIGINS, LENGTH, EPOCHS = 1000, 2048, 3
"""Forecasts of a walk; prices of a series that a fit learns from, and how often."""


def timed(calls: dict[str, Call], rounds: int, seconds: float = 0.02) -> dict[str, float]:
    """Give the median CPU seconds of each, all in turn, a quick one as often in each round as fills some seconds."""
    often = {name: max(1, int(seconds / once(call))) for name, call in calls.items()}
    many = {name: repeated(call, often[name]) for name, call in calls.items()}
    taken = interleaved(many, rounds=rounds, clock=time.process_time)
    return {name: value / often[name] for name, value in taken.items()}


def once(call: Call) -> float:
    """Give the seconds of a call, after one that is not counted."""
    call()
    start = time.process_time()
    call()
    return max(time.process_time() - start, 1e-6)


def repeated(call: Call, times: int) -> Call:
    """Give a call that calls so many times."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def one_price(peer: Peer, kind: str, rows: int, rounds: int) -> Case:
    """Measure S2 or S3."""
    prices = walks(rows, CONTEXT + 2)
    target, last = np.full(rows, prices.shape[1]), prices[:, -1]
    works = {"statecast": ours.stepped(kind, prices), peer.name: peer.forecast(kind, prices)}
    calls = ours.one_price_floors(kind, rows)
    calls |= {name: checked(name, work, target, last) for name, work in works.items()}
    targets = [Target(of=peer.name, over="statecast", least=peer.least.get("one" if rows == 1 else "many"))]
    targets += [Target(of="statecast", over=floor) for floor in ("nodes", "torch", "numpy") if floor in calls]
    return timed_case(
        "peers",
        f"{peer.name}, one price, {kind}, {rows:,} series",
        timed(calls, rounds),
        unit="us",
        targets=targets,
        each=rows,
    )


def walk(peer: Peer, kind: str, rounds: int) -> Case:
    """Measure S7."""
    prices = walks(1, ORIGINS + 2 * CONTEXT + 2)[0]
    target = np.arange(len(prices) - ORIGINS, len(prices))
    works = ours.walked(kind, prices, ORIGINS) | {peer.name: peer.walk(kind, prices, ORIGINS)}
    calls = ours.walk_floor(kind, ORIGINS)
    calls |= {name: checked(name, work, target, prices[target - 1]) for name, work in works.items()}
    targets = [Target(of=peer.name, over="statecast", least=peer.least.get("walk")), Target(of=peer.name, over="file")]
    targets += [Target(of="statecast", over=floor) for floor in ("nodes",) if floor in calls]
    return timed_case(
        "peers", f"{peer.name}, walk, {kind}, {ORIGINS:,} origins", timed(calls, rounds), unit="ms", targets=targets
    )


def fit(peer: Peer, kind: str, rounds: int) -> Case:
    """Measure S5: CPU seconds of a whole fit over the targets in its losses."""
    assert peer.train is not None
    prices = walks(LANES, round(LENGTH / ours.TRAINED_ON))
    fits = ours.trained(kind, prices, EPOCHS) | {peer.name: peer.train(kind, prices[:, :LENGTH], EPOCHS)}
    seconds = interleaved({name: one.call for name, one in fits.items()}, rounds=rounds, clock=time.process_time)
    each = {name: seconds[name] / one.targets() for name, one in fits.items()}
    print("  targets: " + ", ".join(f"{name} {one.targets():,} in {seconds[name]:.2f} s" for name, one in fits.items()))
    targets = [Target(of="statecast", over="torch"), Target(of=peer.name, over="statecast")]
    return timed_case("peers", f"{peer.name}, fit, {kind}, a target", each, unit="us", targets=targets)


def cases(peer: Peer, claims: list[str], rounds: int) -> Iterator[Case]:
    """Measure what a peer offers, kind by kind."""
    print(f"{peer.name} {peer.differs}")
    for kind in peer.kinds:
        print(f"parameters of {kind}: statecast {ours.count(kind):,}, {peer.name} {peer.parameters(kind):,}")
        for claim in claims if peer.train else [claim for claim in claims if claim != "fit"]:
            print(f"... {claim}, {kind}", flush=True)
            if claim == "one-price":
                yield from (one_price(peer, kind, rows, rounds) for rows in (1, 1000))
            elif claim == "walk":
                yield walk(peer, kind, rounds)
            else:
                yield fit(peer, kind, min(rounds, 3))


def arguments(parser: ArgumentParser) -> None:
    """Add what there is to choose."""
    claims = ("one-price", "walk", "fit")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--claims", nargs="*", choices=claims, default=claims)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count; of fits, three at most")


def main() -> None:
    """Measure one peer, and tell."""
    given = options(__doc__, arguments)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    peer = import_module(f"by_{given.peer}").PEER
    tell(cases(peer, given.claims, given.rounds), given.json)


if __name__ == "__main__":
    main()
