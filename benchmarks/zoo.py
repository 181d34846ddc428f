"""What the zoo's data can teach its networks, and what making the pictures costs."""

import json
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seepage import zoo


def accuracy(network: nn.Module, train: zoo.Sample, test: zoo.Sample, lr: float = 0.01) -> float:
    """The share of right answers on `test` after 200 full-batch steps of Adam on `train`."""
    optimizer = torch.optim.Adam(network.parameters(), lr)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(network(train.x), train.y).backward()
        optimizer.step()
    with torch.no_grad():
        right = network.eval()(test.x).argmax(1) == test.y
    return round(float(right.float().mean()), 3)


def learned() -> dict[str, float]:
    """Accuracy on private examples of networks trained on public ones."""
    return {
        "digits, 64-64-10": accuracy(
            zoo.mlp(64, 64, 10, seed=0), zoo.digits(898, split="public"), zoo.digits(899)
        ),
        "faces, 625-32-2": accuracy(
            zoo.mlp(625, 32, 2, seed=0), zoo.faces(100, "public"), zoo.faces(100)
        ),
        "table, linear": accuracy(
            zoo.linear(17, 2, seed=0), zoo.table(221, "public"), zoo.table(221)
        ),
        "photos of other seeds, LeNet": accuracy(
            zoo.lenet(8, activation="relu", spread=None, seed=0),
            zoo.photos(400, 32, seed=1),
            zoo.photos(200, 32, seed=2),
            lr=0.003,
        ),
    }


def cost(n: int, size: int) -> float:
    """CPU seconds of making photographs, once the files are decoded."""
    zoo.photos(8, 8)
    start = time.process_time()
    zoo.photos(n, size)
    return round(time.process_time() - start, 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = {
        **learned(),
        **{f"photos({n}, {s}), CPU s": cost(n, s) for n, s in ((64, 32), (64, 224))},
    }
    for name, got in rows.items():
        print(json.dumps({"name": name, "got": got}))
    for name, got in rows.items():
        print(f"| {name} | {got} |")
