"""Ask before sharing: which of my own examples could be read off this very update?"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seepage.checks import positive
from seepage.core import Batch, Model
from seepage.guard.findings import Finding, Report
from seepage.guard.narrow import narrowest
from seepage.values import value

__all__ = ["SelfAudit", "isolated", "self_audit", "signal"]

_DOMINANT = 0.95  # share of a row that one example must hold to be read off it
_FAINT = 1e-7  # of the largest row: below, a row holds nothing
_LEFT = 1e-4  # of a row: what a difference must leave to be more than rounding
_SAMPLED = 512  # rows; pairs cost their square

BLIND = (
    "a single clamped row (one-shot): it is empty in most batches, so a clean batch says nothing "
    "about the next; two parallel rows are seen by the narrow bin between them",
    "convolutions and layers applied at each position: only layers that see an example as one "
    "vector are audited",
    "intent: well-trained honest networks isolate examples too, and that leak is as real; of "
    "batches under 16 examples honest and malicious models give away as many, so none is judged",
    "the gradient's signal-to-noise ratio (D-SNR) stays low for imprints in large batches (below "
    ".2 at 64 examples, .64 was seen at 16): it is printed, not judged",
)


@value
class SelfAudit:
    """Examples alone in a row, or in the difference of two rows, of the update's own gradient.

    C_it = |D_it| |x_t| is what example t puts into row i. Row i gives t away where t holds 95 % of
    it; rows i and j give t away where D_i - m D_j, m the median ratio over examples active in
    both, leaves 95 % to t. `isolated` and `rare` are the shares of examples given away, and of
    rows firing for at most four, from which on it is a finding. `narrow` is the mass of a bin
    between parallel rows, times the batch's size, below which it waits for one example of many
    batches: where the figure is p, a sum over 1/p examples isolates one in 1/e of rounds.
    Batches of fewer than `least` examples are measured and not judged: there honest models give
    away as many.

    D-SNR: max_t |g_t| / sum of the others (Garov et al. 2023, arXiv 2306.03013).
    """

    isolated: float = 0.27
    rare: float = 0.5
    narrow: float = 0.1
    least: int = 16

    def __post_init__(self) -> None:
        for name in ("isolated", "rare", "narrow"):
            positive(f"SelfAudit.{name}", getattr(self, name))

    def __call__(self, model: Model, batch: Batch) -> Report:
        findings: list[Finding] = []
        figures: dict[str, dict[str, float]] = {}
        union: set[int] = set()
        n = len(batch)
        for layer, (x, z, d) in _traced(model, batch).items():
            given, rows = isolated(d, x)
            union |= given
            mass, between = _narrowest(model, layer, x)
            share, rare = len(given) / n, _rare(z)
            figures[layer] = {"isolated": len(given), "rare": rare, "D-SNR": signal(d, x)}
            figures[layer]["narrowest bin"] = mass
            if mass < self.narrow / n:
                limit = self.narrow / n
                findings.append(Finding("narrow", layer, between, mass, limit, _NARROW))
            if share > self.isolated and n >= self.least:
                findings.append(
                    Finding("isolated", layer, rows, share, self.isolated, _ISOLATED.format(n=n))
                )
            if rare > self.rare and n >= self.least:
                findings.append(Finding("rare", layer, (), rare, self.rare, _RARE))
        return Report(tuple(findings), figures, BLIND, tuple(sorted(union)))


_ISOLATED = (
    "This share of your {n} examples stands alone in a row, or in the difference of two rows, of "
    "the update: whoever receives it divides by the bias and has them."
)
_NARROW = (
    "This is the share of examples like yours that fall between two parallel rows: far less than "
    "one a batch, so they wait for one example out of many batches."
)
_RARE = "Most rows fire for at most four of your examples, as rows tuned to the batch size do."


def self_audit(model: Model, batch: Batch) -> Report:
    """Which of the client's own examples its update would give away, with the usual limits.

    >>> from seepage import zoo
    >>> self_audit(*zoo.example()).isolated
    (0,)
    """
    return SelfAudit()(model, batch)


def isolated(d: Tensor, x: Tensor) -> tuple[set[int], tuple[int, ...]]:
    """The examples alone in a row or in a difference of two rows, and the rows that show them.

    `d` (k, n) are gradients before the activation, `x` (n, N) what the rows see.
    """
    length = x.norm(dim=1)
    held = d.abs() * length
    size = held.sum(1)
    alive = torch.nonzero(size > _FAINT * size.max().clamp_min(1e-300)).flatten()
    alive = alive[:: max(1, -(-len(alive) // _SAMPLED))]
    d, held, size = d[alive], held[alive], size[alive]
    given: set[int] = set()
    rows: list[int] = []
    for i in range(len(d)):
        found = _alone(held[i : i + 1]) | _alone_in_pairs(d, i, length, float(size[i]))
        given |= found
        rows += [int(alive[i])] if found else []
    return given, tuple(rows)


def signal(d: Tensor, x: Tensor) -> float:
    """D-SNR of one layer: its largest example against the sum of all others."""
    size = d.norm(dim=0) * x.norm(dim=1)
    largest, rest = float(size.max()), float(size.sum() - size.max())
    if largest == 0:
        return 0.0
    return largest / rest if rest > 0 else float("inf")


def _alone(held: Tensor) -> set[int]:
    """The examples that hold 95 % of one of these rows."""
    top, who = held.max(1)
    return set(who[(top > _DOMINANT * held.sum(1)) & (top > 0)].tolist())


def _alone_in_pairs(d: Tensor, i: int, length: Tensor, size: float) -> set[int]:
    """Row i less each other row, scaled to agree where both are active."""
    both = (d[i] != 0) & (d != 0)
    ratio = torch.where(both, d[i] / torch.where(both, d, 1), torch.nan)
    middle = ratio.nanmedian(1).values
    usable = both.sum(1) >= 3
    usable[i] = False
    rest = (d[i] - middle[usable, None] * d[usable]).abs() * length
    rest = rest[rest.sum(1) > _LEFT * size]
    return _alone(rest) if len(rest) else set()


def _narrowest(model: Model, layer: str, x: Tensor) -> tuple[float, tuple[int, ...]]:
    prefix = f"{layer}." if layer else ""
    weight, bias = (model.state.get(prefix + leaf) for leaf in ("weight", "bias"))
    if weight is None or bias is None or len(x) < 2:
        return 1.0, ()
    return narrowest(weight.detach(), bias.detach(), x)


def _rare(z: Tensor) -> float:
    """The share of rows that fire (z > 0) for at least one and at most four examples."""
    fires = (z > 0).sum(0)
    return float(((fires > 0) & (fires <= 4)).double().mean())


def _traced(model: Model, batch: Batch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each linear layer on one vector an example: inputs (n, N), z (n, k), dL/dz (k, n)."""
    module = model.shell()
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(_recorder(name, inputs, outputs))
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    with torch.enable_grad():
        risk = dataclasses.replace(model, module=module).risk(leaves, batch)
        once = [name for name, seen in inputs.items() if len(seen) == 1 and seen[0].ndim == 2]
        usable = [name for name in once if outputs[name][0].requires_grad]
        wanted = [outputs[name][0] for name in usable]
        gradients = torch.autograd.grad(risk.sum(), wanted, materialize_grads=True)
    return {
        name: (inputs[name][0].detach().double(), z.detach(), g.detach().double().T)
        for name, z, g in zip(usable, wanted, gradients, strict=True)
        if len(z) == len(batch)
    }


def _recorder(
    name: str, inputs: dict[str, list[Tensor]], outputs: dict[str, list[Tensor]]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        inputs.setdefault(name, []).append(given[0])
        outputs.setdefault(name, []).append(made)

    return record
