"""R-GAP beyond the paper: batches, trained weights, noise in a deep network, larger images,
residual blocks, ReLU, gradient matching from where it ended.

python benchmarks/further.py [GROUP ...]: groups are batches, training, noise, larger,
residual, rectified, match. JSON lines. Average pooling is in pooling.py.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage import Batch, FedSGD, Images, Model, Noise, Observation, observe, stream, zoo
from seepage.attacks import RGap
from seepage.papers.rgap import psnr
from seepage.papers.rgap_rank import digits_halves, photograph_halves, trained

Row = dict[str, object]
ALONE = RGap(repair=False, refine="none")
CNN6: Callable[[], nn.Module] = lambda: zoo.cnn6(10)  # noqa: E731


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def given(network: nn.Module, x: Tensor, y: list[int], noise: float = 0) -> Observation:
    size = x.shape[-1]
    model = Model.of(network, functional.cross_entropy, Images((3, size, size), 10))
    client = Noise(FedSGD(), std=noise, relative=True) if noise else FedSGD()
    return observe(model, Batch(x, torch.tensor(y)), client, stream(0, "client"), tell=("n",))


def quality(found: Tensor, x: Tensor) -> list[float]:
    """The PSNR of every original, each against the candidate nearest to it."""
    return [round(max(psnr(f, one) for f in found), 1) for one in x]


def attacked(what: str, seen: Observation, x: Tensor, attack: RGap | None = None) -> Row:
    start = time.process_time()
    answer = (attack or RGap())(seen, stream(0, "attack"))
    spent = time.process_time() - start
    return {
        "what": what,
        "psnr": quality(answer.x, x),
        "residual": float(answer.residual.max()),
        "belief": answer.trace["belief"],
        "cpu": round(spent, 1),
        "note": answer.note,
    }


def batches() -> Iterator[Row]:
    plans: list[tuple[str, Callable[[], nn.Module], int, list[int]]] = [
        ("S(12,20)", lambda: zoo.three_conv(12, 20), 16, [4, 1]),
        ("S(12,20)", lambda: zoo.three_conv(12, 20), 16, [4, 1, 7]),
        ("S(12,36)", lambda: zoo.three_conv(12, 36), 16, [4, 1, 7, 0]),
        ("S(12,36)", lambda: zoo.three_conv(12, 36), 16, [4, 1, 7, 0, 9, 2, 5, 3]),
        ("S(12,36)", lambda: zoo.three_conv(12, 36), 16, [3, 3]),
        ("S(12,36)", lambda: zoo.three_conv(12, 36), 16, [3, 3, 5]),
        ("CNN6", CNN6, 32, [4, 1]),
        ("CNN6", CNN6, 32, [4, 1, 7]),
        ("CNN6", CNN6, 32, [4, 1, 7, 0]),
        ("CNN6", CNN6, 32, [3, 3]),
    ]
    for name, make, size, y in plans:
        for seed in range(3):
            x = zoo.photos(20 * seed + 20, size).batch.x[20 * seed :][: len(y)]
            yield attacked(f"{name}, labels {y}, seed {seed}", given(seeded(make, seed), x, y), x)


def training() -> Iterator[Row]:
    """CNN6 of ten classes along its training, on three examples that it has not seen."""
    for task, data in (("digits", digits_halves()), ("photographs", photograph_halves())):
        for steps in (50, 400):
            done = trained(zoo.cnn6, data, 0, steps)
            form = Images((3, 32, 32), 10, mean=(0.5,) * 3, std=(1.0,) * 3)
            model = Model.of(done.network, functional.cross_entropy, form)
            for i in range(3):
                x, y = data[2][i : i + 1] - 0.5, int(data[3][i])
                with torch.no_grad():
                    chance = float(done.network(x).softmax(1)[0, y])
                for label, kind in ((y, "right"), ((y + 1) % 8, "wrong")):
                    batch = Batch(x, torch.tensor([label]))
                    seen = observe(model, batch, FedSGD(), stream(0, "client"))
                    row = attacked(
                        f"{task}, {steps} steps, {kind} label, example {i}", seen, x, ALONE
                    )
                    yield row | {"accuracy": done.accuracy, "chance": chance}


def noise() -> Iterator[Row]:
    for level in (1e-6, 1e-5, 1e-4, 1e-3):
        for i in range(2):
            x = zoo.photos(i + 1, 32).batch.x[i:]
            seen = given(seeded(CNN6, i), x, [3], level)
            for name, attack in (("plain", ALONE), ("repair", RGap(refine="none"))):
                yield attacked(f"CNN6, noise {level:g}, pair {i}, {name}", seen, x, attack)


def larger() -> Iterator[Row]:
    for i in range(2):
        x = zoo.photos(i + 1, 64).batch.x[i:]
        seen = given(seeded(lambda: zoo.cnn6(10, 64), i), x, [3])
        yield attacked(f"CNN6 at 64 x 64, joint, pair {i}", seen, x, RGap(refine="none"))


Plan = list[tuple[int, int]]


class Blocks(nn.Module):
    """A strided convolution, residual blocks f(x + W2 f(W1 x)), and a head.

    A block is its channels within, and its stride: one that halves the image doubles the channels,
    and its shortcut is a convolution, f(W3 x + W2 f(W1 x)).
    """

    def __init__(self, width: int, plan: Plan, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.act, side = nn.Conv2d(3, width, 4, 2, 2, bias=False), act, 9
        self.blocks = nn.ModuleList()
        for middle, stride in plan:
            out = width * stride
            layers = [nn.Conv2d(width, middle, 3, stride, 1, bias=False),
                      nn.Conv2d(middle, out, 3, 1, 1, bias=False)]  # fmt: skip
            if stride > 1:
                layers.append(nn.Conv2d(width, out, 1, stride, bias=False))
            self.blocks.append(nn.ModuleList(layers))
            width, side = out, (side - 1) // stride + 1
        self.last = nn.Linear(width * side**2, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for first, second, *short in self.blocks:  # type: ignore[misc]
            passed = short[0](x) if short else x
            x = self.act(passed + second(self.act(first(x))))
        return self.last(x.flatten(1))


def leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def residual() -> Iterator[Row]:
    plans: list[tuple[str, int, Plan, Callable[[Tensor], Tensor]]] = [
        ("leaky, 1 block", 12, [(12, 1)], leaky),
        ("leaky, 3 blocks", 12, [(12, 1)] * 3, leaky),
        ("leaky, 3 blocks, 4 within", 12, [(4, 1)] * 3, leaky),
        ("leaky, 3 blocks, 24 within", 12, [(24, 1)] * 3, leaky),
        ("leaky, 6 blocks", 12, [(12, 1)] * 6, leaky),
        ("leaky, 8 blocks", 12, [(12, 1)] * 8, leaky),
        ("leaky, 1 halving", 12, [(24, 2)], leaky),
        ("leaky, 1 block, 1 halving, 1 block, 1 halving", 12,
         [(12, 1), (24, 2), (24, 1), (48, 2)], leaky),
        ("ReLU, 1 block of 36", 36, [(36, 1)], functional.relu),
        ("ReLU, 3 blocks of 36", 36, [(36, 1)] * 3, functional.relu),
        ("ReLU, 1 block, 1 halving, 1 block of 36", 36,
         [(36, 1), (72, 2), (72, 1)], functional.relu),
    ]  # fmt: skip
    for what, width, plan, act in plans:
        for seed in range(6):
            network = seeded(lambda w=width, p=plan, a=act: Blocks(w, p, a), seed)
            x = zoo.photos(seed + 1, 16).batch.x[seed:]
            yield attacked(f"{what}, seed {seed}", given(network, x, [3]), x)


def rectified() -> Iterator[Row]:
    """S(12, b) with ReLU in the place of LeakyReLU."""
    for second in (20, 36):
        for i in range(6, 12):

            def make(second: int = second) -> nn.Module:
                layers = zoo.three_conv(12, second)
                swapped = [nn.ReLU() if isinstance(m, nn.LeakyReLU) else m for m in layers]
                return nn.Sequential(*swapped)

            x = zoo.photos(i + 1, 16).batch.x[i:]
            yield attacked(f"S(12,{second}) with ReLU, pair {i}", given(seeded(make, i), x, [3]), x)


def match() -> Iterator[Row]:
    """Matching from where the recursion ended, beside repair and Gauss-Newton."""
    attacks = {"plain": ALONE, "match": RGap(repair=False, refine="match"), "all": RGap()}
    for level in (3e-3, 1e-2):
        for i in range(4, 8):
            network, x = (
                seeded(lambda: zoo.three_conv(12, 20), i),
                zoo.photos(i + 1, 16).batch.x[i:],
            )
            seen = given(network, x, [0], level)
            for name, attack in attacks.items():
                yield attacked(f"S(12,20), noise {level:g}, pair {i}, {name}", seen, x, attack)


KINDS = (batches, training, noise, larger, residual, rectified, match)
GROUPS = {f.__name__: f for f in KINDS}


def main(args: list[str]) -> None:
    torch.set_num_threads(1)
    for group in args or list(GROUPS):
        for made in GROUPS[group]():
            print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
