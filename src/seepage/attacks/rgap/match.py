"""H-GAP: gradient matching that begins where the recursion ended."""

import dataclasses

import torch
from torch import Generator

from seepage.attacks.matching import L2, LBFGS, Invert, StartFrom
from seepage.attacks.rgap.candidates import Candidate, measured
from seepage.attacks.rgap.certificate import clamped
from seepage.core import Observation


def rematched(candidate: Candidate, seen: Observation, rng: Generator) -> Candidate:
    """The candidate after 40 steps of L-BFGS on |G(x) - g|^2, if it explains the update better."""
    label = candidate.problem.answer(candidate.head.label)
    if label is None or candidate.note:
        return candidate
    start = StartFrom(clamped(candidate.x, seen.model.form)[None])
    search = Invert(
        L2(),
        (),
        start=start,
        optimiser=LBFGS(),
        schedule="constant",
        steps=40,
        box=False,
        units="raw",
    )
    with torch.enable_grad():
        found = search(dataclasses.replace(seen, n=1, y=label), rng)
    x = found.x[0].to(candidate.x)
    return min(candidate, measured(dataclasses.replace(candidate, x=x)), key=lambda c: c.residual)
