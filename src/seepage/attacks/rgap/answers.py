"""What R-GAP says of its candidates: the best of them, what it believes, and how it got there."""

import math
from typing import Any

import torch

from seepage.attacks.rgap import candidates as found
from seepage.attacks.rgap.candidates import Candidate
from seepage.attacks.rgap.certificate import clamped, verdict
from seepage.attacks.rgap.problem import Problem
from seepage.chains import layer_rank, network_ranks
from seepage.core import Observation, Reconstruction


def answered(made: Problem, answers: list[Candidate], seen: Observation) -> Reconstruction:
    """The best candidate that nothing rules out, with all of its equals in the trace."""
    kept, outside = found.chosen(answers, seen.model.form)
    best = kept[0]
    belief = verdict(best.residual, best.problem.relative)
    first = made.chain.layers[0]
    open_ = first.unknowns - network_ranks(made.chain)[0]
    if belief != "failed" and (len(kept) > 1 or open_):
        belief = "ambiguous"
    notes = [_failure(made, best, seen)] if belief == "failed" else []
    notes += [f"{len(kept)} answers explain the update equally well"] * (len(kept) > 1)
    notes += [f"one gradient leaves at least {open_} directions of the input open"] * (open_ > 0)
    notes += [text for text in (outside, best.head.note) if text]
    trace = _trace(made, best, answers, kept, seen)
    return _one(best, seen, best.residual, "; ".join(notes), trace | {"belief": belief})


def mixture(best: Candidate, seen: Observation) -> Reconstruction:
    """Of a batch, sum_b (k . k_b) x_b / (B |k|^2): a picture, never a recovery."""
    note = f"not recovered: one combination of the {seen.n or 'unknown number of'} examples"
    return _one(best, seen, math.nan, note, {"belief": "combination"})


def _one(
    best: Candidate, seen: Observation, residual: float, note: str, trace: dict[str, Any]
) -> Reconstruction:
    like = next(iter(seen.model.params.values()))
    x = clamped(best.x, seen.model.form).to(like)[None]
    label = best.problem.answer(best.head.label)
    certificate = like.new_tensor([residual])
    return Reconstruction(x, label, -certificate, certificate, note, trace)


def _failure(made: Problem, best: Candidate, seen: Observation) -> str:
    start = f"not recovered (residual {best.residual:.1e})"
    for layer in reversed(made.chain.layers):
        short = layer.unknowns - layer_rank(layer)
        if short > 0:
            return f"{start}: layer '{layer.name}' is short of {short} equations"
    if seen.n is None and made.rank > 1:
        return f"{start}: the last gradient has rank {made.rank}: it is of more than one example"
    if any(layer.after.rectified for layer in made.chain.layers):
        return f"{start}: too few active units behind a ReLU"
    return f"{start}: signs lost to noise"


def _trace(
    made: Problem,
    best: Candidate,
    answers: list[Candidate],
    kept: list[Candidate],
    seen: Observation,
) -> dict[str, Any]:
    return {
        "layers": [
            step.row(layer, layer_rank(layer) - layer.unknowns)
            for layer, step in zip(made.chain.layers, best.trail, strict=False)
        ],
        "candidates": [
            {
                "label": c.head.label,
                "margin": None if math.isnan(c.head.margin) else c.head.margin,
                "residual": c.residual,
                "kept": c in kept,
                "best": c is best,
                "note": c.note,
            }
            for c in answers
        ],
        "sigma": made.sigma,
        "factor": best.head.factor,
        "twins": torch.stack([c.x for c in answers if not c.note]).to(
            next(iter(seen.model.params.values()))
        ),
    }
