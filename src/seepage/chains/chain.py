"""A network whose layers are one chain."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from seepage.chains.activations import Activation
from seepage.chains.layers import Layer


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers 1..d, each with the activation after it, and what comes before the first.

    >>> from torch import nn
    >>> from seepage import Images, Model
    >>> from seepage.chains import walk
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> chain = walk(Model.of(net, nn.functional.cross_entropy, Images((1, 8, 8), classes=2)))
    >>> [(layer.name, layer.inputs, layer.after.name) for layer in chain.layers]
    [('0', (1, 8, 8), 'LeakyReLU'), ('3', (144,), 'Identity')]
    """

    layers: tuple[Layer, ...]
    before: Activation
    shape: tuple[int, ...]

    @property
    def homogeneous(self) -> bool:
        """f(c x) = c f(x) for every c > 0: no bias, and nothing but slopes."""
        return not self._biased and all(a.homogeneous for a in self._between)

    @property
    def odd(self) -> bool:
        """f(-x) = -f(x)."""
        return not self._biased and all(a.odd for a in self._between)

    @property
    def smooth(self) -> bool:
        return all(a.smooth for a in self._between)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for one example, in float64."""
        x = self.before.apply(x)
        for layer in self.layers:
            x = layer.after.apply(layer.forward(x.reshape(layer.inputs)))
        return x

    def states(self, x: Tensor) -> list[Tensor]:
        """The input of every layer, and the output last."""
        inputs = [self.before.apply(x)]
        for layer in self.layers:
            inputs[-1] = inputs[-1].reshape(layer.inputs)
            inputs.append(layer.after.apply(layer.forward(inputs[-1])))
        return inputs

    def frozen(self, x: Tensor) -> "Chain":
        """The network whose kinks keep the slopes that they have at x: smooth near x."""
        states = self.states(x)
        layers = [
            dataclasses.replace(layer, after=layer.after.frozen(output))
            for layer, output in zip(self.layers, _outputs(self, states), strict=True)
        ]
        return dataclasses.replace(self, layers=tuple(layers))

    @property
    def _between(self) -> list[Activation]:
        return [self.before, *(layer.after for layer in self.layers)]

    @property
    def _biased(self) -> bool:
        return any(layer.bias is not None for layer in self.layers)


def _outputs(chain: Chain, states: list[Tensor]) -> list[Tensor]:
    pairs = zip(chain.layers, states[1:], strict=True)
    return [state.reshape(layer.outputs) for layer, state in pairs]
