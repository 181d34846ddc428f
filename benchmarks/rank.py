"""The counts against numbers: layers by SVD, whole networks by the rank of their Jacobian.

python benchmarks/rank.py [LAYERS] [NETWORKS]: JSON lines, then a table of how often they agree.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from seepage import Batch, Images, Model, stream, tree, zoo
from seepage.analysis import rank
from seepage.analysis.confirm import layer_rank_found
from seepage.chains import Layer, Window, layer_rank, network_ranks, walk
from seepage.chains.activations import Activation


def draw(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=rng))


def random_layer(i: int) -> Layer:
    """A convolution as networks have them: square kernels of 2-5, strides 1-3, padding."""
    rng = stream(i, "benchmark layer")
    groups = 2 if draw(rng, 0, 7) == 0 else 1
    channels, outputs = groups * draw(rng, 1, 4), groups * draw(rng, 1, 8)
    side, kernel = draw(rng, 9, 14), draw(rng, 2, 5)
    stride, padding = draw(rng, 1, min(3, kernel)), draw(rng, 0, kernel // 2)
    window = Window((kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), groups)
    shape = (outputs, channels // groups, kernel, kernel)
    weight = torch.randn(shape, generator=rng, dtype=torch.float64)
    x = torch.zeros(1, channels, side, side, dtype=torch.float64)
    z = functional.conv2d(x, weight, None, stride, padding, 1, groups)
    outputs_shape = tuple(z.shape[1:])
    return Layer(f"{i}", "Conv2d", weight, None, window, (channels, side, side), outputs_shape,
                 Activation())  # fmt: skip


def random_network(i: int, act: Callable[[], nn.Module]) -> tuple[nn.Module, str, int]:
    """Two or three convolutions with kernels of 3-5 and a linear layer, on images of 8 to 10."""
    rng = stream(i, "benchmark network")
    side, classes = draw(rng, 8, 10), (1, 4)[draw(rng, 0, 1)]
    layers: list[nn.Module] = []
    channels, here, text = 3, side, ""
    for _ in range(draw(rng, 2, 3)):
        out, kernel, stride = draw(rng, 2, 12), draw(rng, 3, 5), draw(rng, 1, 2)
        padding = draw(rng, 0, 2)
        if here + 2 * padding < kernel + 2:
            break
        layers += [nn.Conv2d(channels, out, kernel, stride, padding, bias=False), act()]
        channels, here = out, (here + 2 * padding - kernel) // stride + 1
        text += f"({out},{kernel},{padding},{stride})"
    last = nn.Linear(channels * here * here, classes, bias=False)
    network = nn.Sequential(*layers, nn.Flatten(), last)
    for p in network.parameters():
        with torch.no_grad():
            p.copy_((torch.rand(p.shape, generator=rng) * 2 - 1) / p[0].numel() ** 0.5)
    return network, text + f"->{classes}", side


def measured(network: nn.Module, side: int, x: Tensor) -> tuple[int, int]:
    """The count and the numeric rank at x."""
    classes = network[-1].out_features  # type: ignore[index]
    loss = zoo.logistic_loss if classes == 1 else functional.cross_entropy
    model = Model.of(network, loss, Images((3, side, side), max(classes, 2)))
    double = dataclasses.replace(model, params=tree.mapped(Tensor.double, model.params))
    y = torch.tensor([1])
    found = rank.jacobian(double, Batch(x.double(), y), sketch=None)
    return network_ranks(walk(model))[0], found.rank


def main(layers: int, networks: int) -> None:
    torch.set_num_threads(1)
    tally: Counter[str] = Counter()
    for i in range(layers):
        layer = random_layer(i)
        count, found = layer_rank(layer), layer_rank_found(layer)
        verdict = "equal" if count == found else "over" if count > found else "BELOW"
        tally[f"layers {verdict}"] += 1
        if verdict != "equal":
            print(json.dumps({"window": str(layer.window), "in": layer.inputs,
                              "out": layer.outputs, "count": count, "svd": found}))  # fmt: skip
    for act in (lambda: nn.LeakyReLU(0.2), nn.Tanh):
        for i in range(networks):
            network, text, side = random_network(i, act)
            noise = torch.rand(1, 3, side, side, generator=stream(i, "noise"))
            for kind, x in (("noise", noise), ("photo", zoo.photos(i + 1, side).batch.x[i:])):
                count, found = measured(network, side, x)
                name = type(act()).__name__
                verdict = "equal" if count == found else "over" if count > found else "BELOW"
                tally[f"{name}, {kind}: {verdict}"] += 1
                row = {"net": text, "side": side, "act": name, "x": kind, "n": 3 * side**2}
                print(json.dumps(row | {"count": count, "rank": found}), flush=True)
    print("\n| what | how many |\n|---|---|")
    for what in sorted(tally):
        print(f"| {what} | {tally[what]} |")


if __name__ == "__main__":
    main(*(int(a) for a in (sys.argv[1:] + ["300", "32"][len(sys.argv) - 1 :])))
