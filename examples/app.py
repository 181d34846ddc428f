"""A model and its data, for `seepage audit --model app.py:build --data app.py:loader`.

Replace both with your own: `build` returns the network, its loss and the form of one example, and
`loader` the batches of one client.
"""

from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from seepage import Images, zoo


def build() -> tuple[nn.Module, nn.Module, Images]:
    """A small network on 32x32 photographs, untrained, as a server broadcasts it in round one."""
    network = zoo.mlp(3 * 32 * 32, 64, 8, activation="tanh", seed=0)
    return network, nn.CrossEntropyLoss(), Images((3, 32, 32), classes=8)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """One client's private photographs, four at a time."""
    batch = zoo.photos(8, 32).batch
    return DataLoader(TensorDataset(batch.x, batch.target), batch_size=4)
