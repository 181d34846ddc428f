"""Average pooling, which RGap refuses: can the input of a pooled layer be solved for?

python benchmarks/pooling.py [KIND ...]: kinds are tanh, sigmoid, leaky. JSON lines.
The recursion is that of R-GAP, with one small
Gauss-Newton problem for convolution, activation and pooling in place of a linear one.
Pairs 0-2 are those on which the steepness was tuned, 3-5 are fresh.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from further import given, quality, seeded
from torch import Tensor, nn
from torch.nn import functional

from seepage import zoo
from seepage.attacks.rgap import heads, joint
from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.chains import Layer, Window
from seepage.chains.activations import Activation, Elementwise, leaky, sigmoid, tanh

Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class Study:
    """What is known of a network's convolutions: their layers, and the gradient of each."""

    layers: dict[str, Layer]
    gradient: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, x: Tensor, act: Elementwise) -> "Study":
        """The convolutions as layers, the shapes as hooks see them."""
        shapes: dict[str, tuple[int, ...]] = {}
        convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        hooks = [
            m.register_forward_hook(lambda _m, a, _z, n=n: shapes.__setitem__(n, a[0].shape[1:]))
            for n, m in convs.items()
        ]
        update = given(network, x, [3]).update
        for hook in hooks:
            hook.remove()
        layers = {n: _layer(n, m, shapes[n], act) for n, m in convs.items()}
        return cls(layers, {n: u.double() for n, u in update.items()})


def _layer(name: str, conv: nn.Conv2d, inputs: tuple[int, ...], act: Elementwise) -> Layer:
    (a, b), (c, d), (e, f) = conv.kernel_size, conv.stride, conv.padding  # type: ignore[misc]
    window = Window((a, b), (c, d), (int(e), int(f)))
    weight = conv.weight.detach().double()
    plain = Layer(name, "Conv2d", weight, None, window, tuple(inputs), (), Activation())
    outputs = tuple(plain.forward(torch.zeros(tuple(inputs)).double()).shape)
    return Layer(name, "Conv2d", weight, None, window, tuple(inputs), outputs, Activation((act,)))


def head_of(last: nn.Linear, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The last layer's input, and the error signal behind it."""
    weight = last.weight.detach().double()
    shape, classes = (weight.shape[1],), (len(weight),)
    layer = Layer("last", "Linear", weight, None, None, shape, classes, Activation())
    (head,) = heads.softmax(layer, gradient, None)
    return head.x, weight.T @ head.k


def pooled(act: Callable[[], nn.Module]) -> nn.Module:
    convs = [nn.Conv2d(3, 12, 5, 1, 2, bias=False), act(), nn.AvgPool2d(2)]
    convs += [nn.Conv2d(12, 16, 3, 1, 1, bias=False), act(), nn.AvgPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(256, 10, bias=False))


def pooling(wanted: list[str]) -> Iterator[Row]:
    kinds = (("tanh", nn.Tanh, tanh()), ("sigmoid", nn.Sigmoid, sigmoid()),
             ("leaky", lambda: nn.LeakyReLU(0.2), leaky(0.2)))  # fmt: skip
    for name, act, step in (kind for kind in kinds if kind[0] in wanted):
        for seed in range(6):
            network = seeded(lambda act=act: pooled(act), seed)
            x = zoo.photos(seed + 1, 16).batch.x[seed:]
            study = Study.of(network, x, step)
            start = time.process_time()
            last: nn.Linear = network[-1]  # type: ignore[index, assignment]
            y, k = head_of(last, study.gradient["7.weight"])
            for conv in ("3", "0"):
                side = study.layers[conv].outputs[1] // 2
                y, k = through_pool(study, conv, y.view(-1, side, side), k.view(-1, side, side))
            spent = time.process_time() - start
            what = f"average pooling, {name}, seed {seed}"
            yield {"what": what, "psnr": quality(y[None], x), "cpu": round(spent, 1)}


def pool(shape: tuple[int, ...]) -> Operator:
    channels, height, width = shape

    def adjoint(u: Tensor) -> Tensor:
        small = u.view(1, channels, height // 2, width // 2)
        return functional.interpolate(small, scale_factor=2).flatten() / 4

    return Operator(
        lambda v: functional.avg_pool2d(v.view(1, channels, height, width), 2).flatten(), adjoint
    )


def through_pool(study: Study, name: str, y: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The input of y = P f(W x), P the pooling, and the error signal at it.

    The signal behind the pooling is exact, P^T k. Left are P f(W x) = y and, with
    kappa = P^T k f'(W x), K(kappa) x = g: as many unknowns as one layer, no longer linear. Where f
    has a kink it is softened as in the joint solve of two layers.
    """
    layer, g = study.layers[name], study.gradient[f"{name}.weight"]
    down = pool(layer.outputs)
    behind = down.adjoint(k.flatten()).view(layer.outputs)
    spread = functional.interpolate(y[None], scale_factor=2)[0]
    wide = Operator(lambda v: layer.linear(v.view(layer.inputs)).flatten(),
                    lambda u: layer.adjoint(u.view(layer.outputs)).flatten())  # fmt: skip
    start = lsmr(wide, layer.after.turned(spread).z.flatten(), 1e-9, 500).x.view(layer.inputs)
    step = layer.after.steps[0]
    if step.kind == "smooth":
        x = smoothed(layer, down, (y, behind, g), start)
    else:
        x = softened(layer, down, (y, behind, g), start)
    return x, layer.adjoint(behind * step.derivative(step.apply(layer.linear(x))))


def smoothed(
    layer: Layer, down: Operator, known: tuple[Tensor, Tensor, Tensor], x: Tensor
) -> Tensor:
    """Levenberg-Marquardt on both halves."""
    y, behind, g = known
    weight = float(layer.weight.norm() / behind.norm())

    def slopes(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (one,) = torch.autograd.grad(layer.after.apply(leaf).sum(), leaf, create_graph=True)
            (two,) = torch.autograd.grad(one.sum(), leaf)
        return one.detach(), two

    def misfit(at: Tensor) -> Tensor:
        z = layer.linear(at)
        rows = down.forward(layer.after.apply(z).flatten()) - y.flatten()
        return torch.cat([rows, weight * (layer.gathered(at, behind * slopes(z)[0]) - g).flatten()])

    def tangent(at: Tensor) -> Operator:
        one, two = slopes(layer.linear(at))

        def forward(v: Tensor) -> Tensor:
            dx = v.view_as(at)
            dz = layer.linear(dx)
            change = layer.gathered(dx, behind * one) + layer.gathered(at, behind * two * dz)
            return torch.cat([down.forward((one * dz).flatten()), weight * change.flatten()])

        def adjoint(u: Tensor) -> Tensor:
            e = u[y.numel() :].view_as(g)
            back = one * down.adjoint(u[: y.numel()]).view_as(one)
            back = back + weight * behind * two * layer.convolved(at, e)
            return (layer.adjoint(back) + weight * layer.scattered(e, behind * one)).flatten()

        return Operator(forward, adjoint)

    damping, before = 1e-3, math.inf
    for _ in range(60):
        x, damping, moved = joint._damped(misfit, tangent, x, damping)
        size = float(misfit(x).norm())
        if not moved or size > 0.999 * before:
            break
        before = size
    return x


@dataclass(frozen=True, eq=False)
class _Pooling:
    """The pooling in the place of the second layer of a joint solve."""

    down: Operator

    def operator(self) -> Operator:
        return self.down


def softened(
    layer: Layer, down: Operator, known: tuple[Tensor, Tensor, Tensor], x: Tensor
) -> Tensor:
    """The misfit of the joint solve, its sigmoids steeper from round to round."""
    y, behind, g = known
    slope = layer.after.steps[0].slope
    pair = joint.Pair(layer, _Pooling(down), y.flatten(), g, behind, slope)  # type: ignore[arg-type]
    x = joint._stage_one(pair, x)
    for beta in [2 * 1.3**j for j in range(26)] + [1e5] * 3:
        spread = float(pair.states(x)[0].std())

        def misfit(at: Tensor, beta: float = beta, spread: float = spread) -> Tensor:
            k, _ = pair.gate(pair.states(at)[0], beta, spread)
            return torch.cat([pair.deep(at), pair.shallow(at, k)])

        x = descended(misfit, lambda at: joint._full_tangent(pair, at, beta, spread), x)  # noqa: B023
    return x


def descended(
    misfit: Callable[[Tensor], Tensor], tangent: Callable[[Tensor], Operator], x: Tensor
) -> Tensor:
    """Four steps of Levenberg-Marquardt by the normal equations: some hundred unknowns are few."""
    damping, one = 1e-3, torch.eye(x.numel()).double()
    for _ in range(4):
        f, operator = misfit(x), tangent(x)
        jacobian = torch.stack([operator.forward(e) for e in one], 1)
        matrix, right = jacobian.T @ jacobian, jacobian.T @ f
        for _ in range(12):
            step = torch.linalg.solve(matrix + damping * one, right)
            moved = x - step.view_as(x)
            if float(misfit(moved).norm()) < float(f.norm()):
                break
            damping *= 10
        else:
            break
        x, damping = moved, max(damping / 5, 1e-12)
    return x


def main(args: list[str]) -> None:
    torch.set_num_threads(1)
    for made in pooling(args or ["tanh", "sigmoid", "leaky"]):
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
