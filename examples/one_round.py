"""One round of plain federated learning, written to files as a server might keep them.

    python examples/one_round.py
    seepage attack update.safetensors --model examples/app.py:build --params before.safetensors \
        --attack "BiasRatio()"

Without `--client` the protocol is read off the update, and what was assumed is printed.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

from app import build, loader


def main() -> None:
    """Train one client for two epochs on one photograph, and save before and before minus after."""
    network, loss, _ = build()
    x, y = next(iter(loader()))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        loss(network(x[:1]), y[:1]).backward()
        optimiser.step()
    after = network.state_dict()
    save_file(before, "before.safetensors")
    save_file({name: before[name] - after[name] for name in before}, "update.safetensors")


if __name__ == "__main__":
    main()
