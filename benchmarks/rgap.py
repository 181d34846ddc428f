"""R-GAP on the networks and pairs of its specification: JSON lines, then a table.

python benchmarks/rgap.py [GROUP ...] [--fresh]: groups are chains, dense, large, short, joint,
noise. --fresh takes pairs 6 and up.
"""

import json
import resource
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn

from seepage import zoo
from seepage.attacks import RGap
from seepage.papers.hgap import noised
from seepage.papers.rgap import Pair, pair, paired, ran

Make = Callable[[], nn.Module]
Row = dict[str, object]


def windows(*convs: tuple[int, int, int, int, int, int], last: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for out, *rest in convs:
        kernel, padding, stride, dilation, groups = rest
        shape = (kernel, stride, padding, dilation, groups)
        layers += [nn.Conv2d(channels, out, *shape, bias=False), nn.LeakyReLU(0.2)]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last, 10, bias=False))


def dilated() -> nn.Module:
    return windows((12, 4, 2, 2, 1, 1), (20, 3, 2, 1, 2, 1), (36, 3, 1, 2, 1, 1), last=900)


def grouped() -> nn.Module:
    return windows((12, 4, 2, 2, 1, 1), (20, 3, 1, 2, 1, 2), (36, 3, 1, 2, 1, 1), last=324)


def row(what: str, i: int, given: Pair, attack: RGap | None = None) -> Row:
    run = ran(attack or RGap(), given)
    answer = run.answer
    label = answer.y is not None and bool(torch.equal(answer.y, given.y))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "what": what, "pair": i, "psnr": round(run.psnr, 1), "residual": float(answer.residual),
        "belief": run.belief, "label": label, "cpu": round(run.seconds, 2),
        "peak_gb": round(peak, 2),
    }  # fmt: skip


def chains(fresh: int) -> Iterator[Row]:
    plans: list[tuple[str, Make, int, int]] = [
        ("CNN6", zoo.cnn6, 12, 32),
        ("CNN6 C=10", lambda: zoo.cnn6(10), 4, 32),
        ("LeNet leaky", zoo.lenet_leaky, 3, 32),
        ("LeNet sigmoid", lambda: zoo.lenet(strides=(2, 2, 1), spread=None), 3, 32),
        ("LeNet sigmoid U(.5)", lambda: zoo.lenet(strides=(2, 2, 1)), 3, 32),
        ("dilation", dilated, 1, 16),
        ("groups", grouped, 1, 16),
    ]
    for what, make, count, size in plans:
        for i in range(fresh, fresh + count):
            yield row(what, i, pair(make, i, size))
    for i in range(fresh, fresh + 6):
        wrong = pair(lambda: zoo.three_conv(12, 20, 1), i, 16)
        right = paired(lambda: zoo.three_conv(12, 20, 1), wrong.x, i, -int(wrong.y))
        yield row("S(12,20) C=1, right label", i, right)


def dense(fresh: int) -> Iterator[Row]:
    digits = zoo.digits(fresh + 3, 28).batch.x
    for output in ("identity", "leaky"):
        for i in range(fresh, fresh + 3):
            for y in (-1, 1):

                def make(output: str = output) -> nn.Module:
                    return nn.Sequential(nn.Flatten(), zoo.fcn3(output))  # type: ignore[arg-type]

                yield row(f"FCN3 {output} y={y}", i, paired(make, digits[i : i + 1], i, y))


def large(fresh: int) -> Iterator[Row]:
    for size in (64, 128, 224):
        given = pair(lambda size=size: zoo.strided2(size=size), fresh, size)
        yield row(f"Strided2 {size}", fresh, given)


def short(fresh: int) -> Iterator[Row]:
    alone = RGap(joint=False)
    for i in range(fresh, fresh + 6):
        yield row("CNN6-d, joint=False", i, pair(zoo.cnn6_d, i), alone)
    for second in (10, 8, 7):
        for i in range(fresh, fresh + 6):
            given = pair(lambda second=second: zoo.three_conv(12, second), i, 16)
            yield row(f"S(12,{second})", i, given)


def joint(fresh: int) -> Iterator[Row]:
    for i in range(fresh, fresh + 6):
        yield row("CNN6-d", i, pair(zoo.cnn6_d, i))


def noise(fresh: int) -> Iterator[Row]:
    for level in (1e-4, 1e-3, 3e-3, 1e-2):
        for i in range(fresh, fresh + 6):
            given = pair(lambda: zoo.three_conv(12, 20), i, 16, 0)
            yield row(f"S(12,20) noise {level:g}", i, noised(given, level, i))


GROUPS = {f.__name__: f for f in (chains, dense, large, short, joint, noise)}


def main(args: list[str]) -> None:
    torch.set_num_threads(1)
    fresh = 6 if "--fresh" in args else 0
    rows = []
    for group in [a for a in args if a in GROUPS] or list(GROUPS):
        for made in GROUPS[group](fresh):
            print(json.dumps(made), flush=True)
            rows.append(made)
    print("\n| what | pair | PSNR | residual | belief | CPU s |\n|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['what']} | {r['pair']} | {r['psnr']} | {r['residual']:.1e} | {r['belief']} "
              f"| {r['cpu']} |")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
