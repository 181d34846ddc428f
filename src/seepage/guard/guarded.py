"""A client that looks at the broadcast model first, and shares nothing if it finds a reason."""

from typing import Protocol

from torch import Generator

from seepage.core import Batch, Client, Model
from seepage.guard.findings import Refused, Report
from seepage.guard.scan import Scan
from seepage.tree import Tensors
from seepage.values import value

__all__ = ["Check", "Guarded"]


class Check(Protocol):
    """Anything that looks at a model and the client's own batch."""

    def __call__(self, model: Model, batch: Batch) -> Report: ...


@value
class Guarded:
    """u = inner(model, batch), or `Refused(findings)` where any check finds a reason.

    `SelfAudit` is for batches of some dozens: a batch of one is given away by every model.

    >>> from seepage import zoo
    >>> from seepage.clients import FedSGD
    >>> import torch
    >>> model, batch = zoo.example()
    >>> sorted(Guarded(FedSGD())(model, batch, torch.Generator()))
    ['bias', 'weight']
    """

    inner: Client
    checks: tuple[Check, ...] = (Scan(),)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        findings = tuple(f for check in self.checks for f in check(model, batch).findings)
        if findings:
            raise Refused(findings)
        return self.inner(model, batch, rng)
