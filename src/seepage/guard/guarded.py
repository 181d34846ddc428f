"""A client that looks at the broadcast model first, and shares nothing if it finds a reason."""

from typing import Protocol

from torch import Generator

from seepage.core import Batch, Client, Model
from seepage.guard.findings import Refused, Report
from seepage.guard.scan import Screened
from seepage.guard.self_audit import SelfAudit
from seepage.tree import Tensors
from seepage.values import value

__all__ = ["Check", "Guarded"]


class Check(Protocol):
    """Anything that looks at a model and the client's own batch."""

    def __call__(self, model: Model, batch: Batch) -> Report: ...


@value
class Guarded:
    """u = inner(model, batch), or `Refused(findings)` where any check finds a reason.

    The scan alone is passed by servers that know it; the self-audit judges batches of at least 16.

    >>> from seepage import zoo
    >>> from seepage.clients import FedSGD
    >>> import torch
    >>> model, batch = zoo.example()
    >>> sorted(Guarded(FedSGD())(model, batch, torch.Generator()))
    ['bias', 'weight']
    """

    inner: Client
    checks: tuple[Check, ...] = (Screened(), SelfAudit())

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        findings = tuple(f for check in self.checks for f in check(model, batch).findings)
        if findings:
            raise Refused(findings)
        return self.inner(model, batch, rng)
