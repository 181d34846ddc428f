"""Defenses in rising strength, from one that costs nothing to one that ruins the task."""

from collections.abc import Iterable, Sequence

from seepage.clients import FedSGD
from seepage.core import Client
from seepage.defenses import DPSGD, Dropout, Noise, Prune, Quantize, Sign

__all__ = ["Families", "grouped", "standard"]

Families = dict[str, Sequence[Client]]

_PLAIN = FedSGD()


def standard(quick: bool = False) -> Families:
    """The families that are compared where none are asked for; every second strength if quick.

    >>> list(standard())
    ['Noise', 'Prune', 'Quantize', 'Dropout of units', 'Dropout of entries', 'DPSGD']
    """
    rounded = [Quantize(_PLAIN, bits) for bits in (8, 4, 3, 2)]
    found: Families = {
        "Noise": [Noise(_PLAIN, std, relative=True) for std in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)],
        "Prune": [Prune(_PLAIN, share) for share in (0.5, 0.9, 0.97, 0.99, 0.997, 0.999)],
        "Quantize": [*rounded, Sign(_PLAIN)],
        "Dropout of units": [Dropout(_PLAIN, keep) for keep in (0.9, 0.7, 0.5, 0.2, 0.1)],
        "Dropout of entries": [
            Dropout(_PLAIN, keep, "entries") for keep in (0.5, 0.1, 0.03, 0.01, 0.003)
        ],
        "DPSGD": [DPSGD(1.0, z) for z in (0.01, 0.1, 0.5, 1.0, 2.0, 4.0)],
    }
    return {name: clients[1::2] if quick else clients for name, clients in found.items()}


def grouped(clients: Iterable[Client]) -> Families:
    """Clients of one outermost defense make a family.

    >>> {name: len(members) for name, members in grouped([Sign(_PLAIN), Sign(_PLAIN)]).items()}
    {'Sign': 2}
    """
    found: dict[str, list[Client]] = {}
    for client in clients:
        found.setdefault(type(client).__name__, []).append(client)
    return dict(found)
