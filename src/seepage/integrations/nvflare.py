"""Seepage in NVFlare: a filter on what a client sends, tested against nvflare 2.9.

Put it among a client's task result filters, after any that change the update: it attacks the
WEIGHT_DIFF that leaves, and blocks it, or puts a defense of ours on it.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.filter import ContentBlockedException

from seepage.clients import FedSGD, Given
from seepage.core import Attack, Batch, Client, Model, check_update
from seepage.errors import InvalidInput
from seepage.trials import Trial, run

__all__ = ["AuditFilter", "DefendFilter"]


class AuditFilter(DXOFilter):  # type: ignore[misc]  # NVFlare is untyped
    """Attack the own update before it leaves; above `limit` it is blocked.

    `seepage.recovered` in the DXO's meta is the largest share of the examples that an attack
    recovered. NVFlare's differences are after minus before, the negative of ours.
    """

    def __init__(
        self,
        model: Model,
        data: Callable[[], Batch],
        attacks: Sequence[Attack],
        client: Client = FedSGD(),  # noqa: B008 (a frozen value)
        limit: float | None = None,
    ) -> None:
        super().__init__([DataKind.WEIGHT_DIFF], [DataKind.WEIGHT_DIFF])
        self.model, self.data, self.attacks = model, data, tuple(attacks)
        self.client, self.limit = client, limit

    def process_dxo(self, dxo: DXO, shareable: Any, fl_ctx: Any) -> DXO:
        batch, update = self.data(), _update(dxo)
        try:
            check_update(update, self.model, "the outgoing difference")
        except InvalidInput as error:
            raise ContentBlockedException(str(error)) from None
        rows = [run(Trial(self.model, batch, Given(update), a, self.client)) for a in self.attacks]
        shares = [sum(r["recovered"]) / len(batch) for r in rows if r["status"] == "done"]
        worst = max(shares, default=float("nan"))
        if self.limit is not None and not worst <= self.limit:
            raise ContentBlockedException(
                f"withheld by the audit: {worst:.0%} of the examples could be recovered "
                f"(limit {self.limit:.0%}; nan%: no attack finished)."
            )
        dxo.set_meta_prop("seepage.recovered", worst)
        return dxo


class DefendFilter(DXOFilter):  # type: ignore[misc]  # NVFlare is untyped
    """Put a defense on the outgoing difference: `DefendFilter(lambda c: Clip(c, 1.0), model)`."""

    def __init__(self, wrapper: Callable[[Client], Client], model: Model) -> None:
        super().__init__([DataKind.WEIGHT_DIFF], [DataKind.WEIGHT_DIFF])
        self.wrapper, self.model = wrapper, model

    def process_dxo(self, dxo: DXO, shareable: Any, fl_ctx: Any) -> DXO:
        update = _update(dxo)
        rng = torch.Generator().manual_seed(secrets.randbits(62))
        nothing = Batch(torch.zeros(1, *self.model.form.shape))
        made = self.wrapper(Given(update))(self.model, nothing, rng)
        for name, before in update.items():
            left = made.get(name, torch.zeros_like(before))
            dxo.data[name] = numpy.asarray(-left.detach().cpu(), dtype=dxo.data[name].dtype)
        return dxo


def _update(dxo: DXO) -> dict[str, torch.Tensor]:
    """What the server will add, with the sign of what it would subtract; floats only."""
    arrays = {name: numpy.array(array) for name, array in dxo.data.items()}
    return {name: -torch.from_numpy(a) for name, a in arrays.items() if a.dtype.kind == "f"}
