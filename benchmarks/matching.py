"""Gradient matching's cost: CPU time of a step over that of a training step, in one process.

    python benchmarks/matching.py [--rounds 15] [--only ViT]

One thread, one example of 32x32, interleaved rounds, the median of each. Prints a JSON line for
each network and a table.
"""

import argparse
import json

import torch

from seepage.papers.matching_cost import NETWORKS, measured


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    rows = [{"network": n, **measured(n, args.rounds)} for n in NETWORKS if args.only in (None, n)]
    for row in rows:
        print(json.dumps(row))
    print(
        f"{'network':12s} {'step/training':>14s} {'goal':>5s} {'plain/step':>11s} {'backward':>17s}"
    )
    for row in rows:
        print(
            f"{row['network']:12s} {row['step']:14.2f} {row['goal']:5.1f} "
            f"{row['plain']:11.2f} {row['backward']:17.2f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=NETWORKS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
