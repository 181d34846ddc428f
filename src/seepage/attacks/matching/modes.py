"""Trying whether the client normalised in eval or in train mode, where nobody told."""

import dataclasses
from typing import Any

import torch
from torch import Generator

from seepage.attacks.matching.invert import Invert
from seepage.clients import FedSGD
from seepage.core import Client, Mode, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value


@value
class EitherMode:
    """A twentieth of the steps in each of BatchNorm's modes, then all in the one that fits better.

    For captured updates of networks with BatchNorm whose client is not known; the note says which
    mode was taken.
    """

    inner: Invert = Invert()

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        seeds = torch.randint(2**62, (3,), generator=rng).tolist()
        short = dataclasses.replace(self.inner, steps=max(1, self.inner.steps // 20), finish=None)
        modes: tuple[Mode, ...] = ("eval", "train")
        views = [dataclasses.replace(seen, client=_in_mode(seen.client, mode)) for mode in modes]
        tried = [
            short(view, Generator().manual_seed(seed))
            for view, seed in zip(views, seeds, strict=False)
        ]
        best = max(range(2), key=lambda i: float(tried[i].belief.mean()))
        answer = self.inner(views[best], Generator().manual_seed(seeds[2]))
        note = f"{answer.note}; BatchNorm taken to be in {modes[best]} mode, which fits better"
        return dataclasses.replace(answer, note=note)


def _in_mode(client: Client, mode: Mode) -> Client:
    if isinstance(client, FedSGD):
        return FedSGD(mode)
    inner: Any = getattr(client, "inner", None)
    if inner is None or not dataclasses.is_dataclass(client):
        raise InvalidInput(
            f"EitherMode sets the mode of a FedSGD, and {client!r} holds none. Use Invert."
        )
    return dataclasses.replace(client, inner=_in_mode(inner, mode))
