"""What believing in the right client is worth: prune, noise and local steps, simulated or ignored.

Geiping et al. 2020 attack local steps by simulating them; the same holds for every deterministic
defense. Digits, tanh MLP 64-128-10, one example, labels told, unsigned Adam, 300 steps.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage import zoo
from seepage.attacks import Adam, Cosine, Invert, Told
from seepage.clients import FedAvg, FedSGD
from seepage.core import Client
from seepage.defenses import Noise, Prune, Sign
from seepage.papers.claims import Claim
from seepage.papers.rounds import Setting, played

ATTACK = Invert(
    Cosine(),
    (),
    Told(),
    optimiser=Adam(0.1),
    schedule="constant",
    steps=300,
    units="raw",
)
CLIENTS: dict[str, Client] = {
    "none": FedSGD(),
    "Prune(0.9)": Prune(FedSGD(), ratio=0.9),
    "Prune(0.99)": Prune(FedSGD(), ratio=0.99),
    "FedAvg(8 epochs)": FedAvg(epochs=8, lr=0.5),
    "Sign": Sign(FedSGD()),
    "FedAvg with Adam(4 epochs)": FedAvg(epochs=4, lr=0.01, optimizer="adam"),
}


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """Each client believed and not; the quick form takes two seeds, the full one ten."""
    seeds = range(2 if quick else 10)
    for name, client in CLIENTS.items():
        known, naive = (_mean(client, one, seeds) for one in (client, FedSGD()))
        yield Claim(
            f"{name}: believed against taken for plain FedSGD",
            "simulating the client recovers more (derived)",
            f"{known:.1f} dB against {naive:.1f} dB",
            "measured" if name == "none" else "confirmed" if known > naive else "not confirmed",
            f"{len(seeds)} seeds, digits, MLP 64-128-10 tanh, 300 steps",
        )
    noisy = Noise(FedSGD(), std=0.01)
    stripped = _mean(noisy, noisy, seeds)
    yield Claim(
        "Noise(0.01): its random part stripped",
        "not available",
        f"{stripped:.1f} dB",
        "measured",
        f"{len(seeds)} seeds; only the deterministic part of a client is ever simulated",
    )


def _mean(client: Client, believed: Client, seeds: range) -> float:
    found = []
    for seed in seeds:
        net = zoo.mlp(64, 128, 10, activation="tanh", seed=seed)
        setting = Setting(zoo.digits(1, seed=seed), net, client, believed, labels=True)
        found.append(played(setting, ATTACK, seed).decibels)
    return sum(found) / len(found)
