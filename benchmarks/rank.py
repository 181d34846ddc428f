"""The counts against numbers: layers by SVD, whole networks by the rank of their Jacobian.

python benchmarks/rank.py [LAYERS] [NETWORKS]: JSON lines of every network (the count from shapes,
the same with each layer confirmed by numbers, the same with the signs of the example, and the rank
of the Jacobian there), then a table of how often they agree. NETWORKS random ones come beside the
zoo's at 16 x 16, each on noise and on a photograph.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator

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


def measured(network: nn.Module, side: int, x: Tensor) -> dict[str, int]:
    """The counts and the numeric rank at x."""
    with torch.no_grad():
        classes = network(x).shape[1]
    loss = zoo.logistic_loss if classes == 1 else functional.cross_entropy
    model = Model.of(network, loss, Images((3, side, side), max(classes, 2)))
    double = dataclasses.replace(model, params=tree.mapped(Tensor.double, model.params))
    batch = Batch(x.double(), torch.tensor([1]))
    return {
        "shapes": network_ranks(walk(model))[0],
        "confirmed": rank.table(model)[0].network,
        "at": rank.table(model, batch=batch)[0].network,
        "rank": rank.jacobian(double, batch, sketch=None).rank,
    }


def known_networks() -> dict[str, Callable[[], nn.Module]]:
    """The zoo's at 16 x 16, and one whose channels share signs on photographs."""

    def shared() -> nn.Module:
        convs = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        convs += [nn.Conv2d(8, 6, 3, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(96, 10, bias=False))

    made: dict[str, Callable[[], nn.Module]] = {
        f"S({a},{b})": lambda a=a, b=b: zoo.three_conv(a, b)
        for a, b in ((12, 20), (12, 10), (12, 8), (12, 4), (4, 20), (3, 8))
    }
    return made | {
        "CNN6": lambda: zoo.cnn6(10, 16),
        "CNN6, one output": lambda: zoo.cnn6(1, 16),
        "CNN6-d": lambda: zoo.cnn6_d(10, 16),
        "LeNet leaky": lambda: zoo.lenet_leaky(10, 16),
        "LeNet sigmoid": lambda: zoo.lenet(10, (3, 16, 16), (2, 2, 1), spread=None),
        "Strided2": lambda: zoo.strided2(10, 16),
        "FCN": lambda: nn.Sequential(nn.Flatten(), zoo.mlp(768, 100, 10, activation="leaky")),
        "(8,3,1,2)(6,3,1,2)": shared,
    }


def networks(count: int) -> Iterator[tuple[str, str, int, int, nn.Module]]:
    """Name, kind, side and number of every network."""
    for i, (name, make) in enumerate(known_networks().items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(i)
            yield name, "zoo", 16, i, make().eval()
    for act in (lambda: nn.LeakyReLU(0.2), nn.Tanh):
        for i in range(count):
            network, text, side = random_network(i, act)
            yield f"{text} {type(act()).__name__}", "random", side, i, network


def verdict(count: int, found: int) -> str:
    return "equal" if count == found else "over" if count > found else "BELOW"


def main(layers: int, count: int) -> None:
    torch.set_num_threads(1)
    tally: Counter[str] = Counter()
    for i in range(layers):
        layer = random_layer(i)
        counted, found = layer_rank(layer), layer_rank_found(layer)
        tally[f"layers {verdict(counted, found)}"] += 1
        if counted != found:
            print(json.dumps({"window": str(layer.window), "in": layer.inputs,
                              "out": layer.outputs, "count": counted, "svd": found}))  # fmt: skip
    for name, kind, side, i, network in networks(count):
        noise = torch.rand(1, 3, side, side, generator=stream(i, "noise"))
        for what, x in (("noise", noise), ("photo", zoo.photos(i + 1, side).batch.x[i:])):
            got = measured(network, side, x)
            for rule in ("shapes", "confirmed", "at"):
                tally[f"{kind}, {what}, {rule}: {verdict(got[rule], got['rank'])}"] += 1
            row = {"net": name, "side": side, "x": what, "n": 3 * side**2}
            print(json.dumps(row | got), flush=True)
    print("\n| what | how many |\n|---|---|")
    for what in sorted(tally):
        print(f"| {what} | {tally[what]} |")


if __name__ == "__main__":
    main(*(int(a) for a in (sys.argv[1:] + ["300", "32"][len(sys.argv) - 1 :])))
