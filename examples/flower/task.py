"""The network, each client's photographs, and one round of local training: replace with your own.

`build` is what `seepage attack --model examples/flower/task.py:build` calls.
"""

import torch
from torch import Tensor, nn

from seepage import Batch, Images, zoo

CLIENTS, RATE, SIDE = 4, 0.1, 32


def build() -> tuple[nn.Module, nn.Module, Images]:
    """A small network on 32x32 photographs, as the server broadcasts it in round one."""
    network = zoo.mlp(3 * SIDE * SIDE, 64, 8, activation="tanh", seed=0)
    return network, nn.CrossEntropyLoss(), Images((3, SIDE, SIDE), classes=8)


def photographs(client: int) -> Batch:
    """The private photographs of one of the clients: one, two, three, or four of them."""
    everything = zoo.photos(CLIENTS * (CLIENTS + 1) // 2, SIDE).batch
    first = client * (client + 1) // 2
    return everything[first : first + client + 1]


def train(state: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """One step of gradient descent from the broadcast state."""
    network, loss, _ = build()
    network.load_state_dict(state)
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE)
    loss(network(batch.x), batch.target).backward()
    optimiser.step()
    return dict(network.state_dict())
