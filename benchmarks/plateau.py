"""The plateau of ReLU networks with BatchNorm: what goes beyond inverting_gradients at equal cost.

    python benchmarks/plateau.py [--width 8] [--seconds 5] [--crops 5] [--seeds 3] [--only cosine]

Every arm on every crop and seed of network and start, labels told, the same CPU time each; `--only`
may be given several times. Prints a JSON line for each cell, then each arm's mean, crop by crop
too, and how often it beats inverting_gradients.
"""

import argparse
import dataclasses
import json
import statistics

import torch
from torch import Generator

from seepage import zoo
from seepage.attacks import TV, Adam, Cosine, Gray, Invert, Learned, StartFrom, inverting_gradients
from seepage.core import Observation, Reconstruction
from seepage.papers.rounds import Setting, played

BASE = inverting_gradients(tv=1e-3, steps=100_000)
assert isinstance(BASE, Invert)
SMOOTH = dataclasses.replace(BASE, schedule="cosine")
LEARNED = dataclasses.replace(
    SMOOTH, priors=(), generator=Learned(zoo.generator(), (96,)), optimiser=Adam(0.05)
)


@dataclasses.dataclass(frozen=True)
class Then:
    """The second search begins where the first ended; each has half of the time."""

    first: Invert
    second: Invert
    seconds: float | None = None

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        half = None if self.seconds is None else self.seconds / 2
        found = dataclasses.replace(self.first, seconds=half)(seen, rng)
        return dataclasses.replace(self.second, seconds=half, start=StartFrom(found.x))(seen, rng)


ARMS: dict[str, Invert | Then] = {
    "inverting_gradients": BASE,
    "cosine": SMOOTH,
    "cosine, first layers first": dataclasses.replace(SMOOTH, objective=Cosine("linear")),
    "cosine, grey start, TV 3e-3": dataclasses.replace(SMOOTH, start=Gray(), priors=(TV(3e-3),)),
    "learned generator": LEARNED,
    "generator, then pixels": Then(
        LEARNED, dataclasses.replace(SMOOTH, optimiser=Adam(0.02, sign="hard"))
    ),
}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    found: dict[str, dict[tuple[int, int], float]] = {}
    for name, arm in ARMS.items():
        if not args.only or name in args.only:
            found[name] = _arm(name, dataclasses.replace(arm, seconds=args.seconds), args)
    base = found.get("inverting_gradients", {})
    print(f"{'arm':30s} {'mean dB':>8s} {'beats inverting_gradients':>26s}  crop by crop")
    for name, cells in found.items():
        wins = f"{sum(cells[key] > base[key] for key in cells)} of {len(cells)}" if base else ""
        crops = [_mean(cells, crop) for crop in range(args.crops)]
        each = ", ".join(f"{mean:.1f}" for mean in crops)
        print(f"{name:30s} {statistics.mean(cells.values()):8.2f} {wins:>26s}  {each}")


def _mean(cells: dict[tuple[int, int], float], crop: int) -> float:
    return statistics.mean(found for (at, _), found in cells.items() if at == crop)


def _arm(
    name: str, attack: Invert | Then, args: argparse.Namespace
) -> dict[tuple[int, int], float]:
    cells = {}
    for crop in range(args.crops):
        sample = zoo.photos(1, 32, seed=crop)
        for seed in range(args.seeds):
            net = zoo.convnet(args.width, sample.form.classes, seed=seed).eval()
            outcome = played(Setting(sample, net, labels=True), attack, 1000 + seed)
            cells[crop, seed] = outcome.decibels
            row = {"arm": name, "crop": crop, "seed": seed, "psnr": round(outcome.decibels, 2)}
            print(json.dumps(row | {"note": outcome.answer.note}), flush=True)
    return cells


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind, usual in (("width", int, 8), ("seconds", float, 5.0)):
        parser.add_argument(f"--{name}", type=kind, default=usual)
    for name, usual in (("crops", 5), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--only", choices=ARMS, action="append")
    return parser.parse_args()


if __name__ == "__main__":
    main()
