"""R-GAP: its parts against closed forms and dense algebra, its recoveries, what it refuses."""

import dataclasses
import importlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage import (
    Batch,
    Clip,
    FedAvg,
    FedSGD,
    Images,
    InvalidInput,
    Model,
    Noise,
    Observation,
    Only,
    Reconstruction,
    RGap,
    SecureSum,
    observe,
    stream,
    tree,
    zoo,
)
from seepage.attacks.rgap import heads
from seepage.attacks.rgap.losses import recognised
from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.chains import Layer, Window, walk
from seepage.chains.activations import Activation, gap, relu

Convolution = tuple[int, int, int, int, int, int]  # out, kernel, padding, stride, dilation, groups


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a.double() - b.double()).square().mean().log10())


def chain_of(
    convs: list[Convolution],
    classes: int = 10,
    size: int = 16,
    act: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2),
    bias: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, side = 3, size
    for out, kernel, padding, stride, dilation, groups in convs:
        shape = (kernel, stride, padding, dilation, groups)
        layers += [nn.Conv2d(channels, out, *shape, bias=bias), act()]
        channels = out
        side = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    last = nn.Linear(channels * side * side, classes, bias=bias)
    return nn.Sequential(*layers, nn.Flatten(), last)


def seeded(i: int, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(i)
        return make()


Seen = tuple[Observation, Tensor, Tensor]


def pair(network: nn.Module, i: int = 0, size: int = 16, y: int | None = None) -> Seen:
    """The update of natural crop i, misclassified: class 3, or the sign that the output lacks."""
    x = zoo.photos(i + 1, size).batch.x[i : i + 1].to(next(network.parameters()))
    with torch.no_grad():
        output = network.eval()(x)
    one = output.shape[1] == 1
    loss = zoo.logistic_loss if one else functional.cross_entropy
    label = torch.tensor([y]) if y is not None else torch.tensor([3])
    if one and y is None:
        label = -output[0].sign().long()
    model = Model.of(network, loss, Images((3, size, size), classes=max(output.shape[1], 2)))
    return observe(model, Batch(x, label), FedSGD(), stream(i, "client"), tell=("n",)), x, label


def recovered(seen: Seen, attack: RGap | None = None) -> tuple[float, str]:
    """PSNR and the attack's own word; the label must be right."""
    observation, x, y = seen
    answer = (attack or RGap())(observation, stream(0, "attack"))
    if answer.y is not None and answer.trace["belief"] != "failed":
        assert torch.equal(answer.y, y)
    return psnr(answer.x, x), answer.trace["belief"]


# The parts.


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_lsmr_finds_the_minimum_norm_least_squares_solution(shape: tuple[int, int]) -> None:
    rng = stream(1, f"lsmr {shape}")
    a = torch.randn(shape, generator=rng, dtype=torch.float64)
    b = torch.randn(shape[0], generator=rng, dtype=torch.float64)
    found = lsmr(Operator(lambda v: a @ v, lambda u: a.T @ u), b, tol=1e-13)
    assert torch.allclose(found.x, torch.linalg.pinv(a) @ b, atol=1e-9)
    assert found.residual == pytest.approx(float((b - a @ found.x).norm() / b.norm()), abs=1e-12)


def test_lsmr_of_nothing_is_nothing() -> None:
    a = torch.eye(3, dtype=torch.float64)
    same = Operator(lambda v: a @ v, lambda u: a.T @ u)
    assert not lsmr(same, torch.zeros(3, dtype=torch.float64)).x.any()
    one = lsmr(same, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
    assert one.x.tolist() == [0, 2, 0]


WINDOWS = [
    (Window((3, 3), (1, 1), (1, 1)), 4, 6),
    (Window((4, 4), (2, 2), (2, 2)), 3, 5),
    (Window((3, 2), (2, 3), (1, 0), (2, 1)), 4, 4),
    (Window((2, 2), (3, 3), (0, 0)), 2, 3),
    (Window((3, 3), (2, 2), (1, 1), (1, 1), 2), 4, 6),
]


@pytest.mark.parametrize(("window", "channels", "outputs"), WINDOWS)
def test_the_maps_of_a_layer_are_those_of_autograd(
    window: Window, channels: int, outputs: int
) -> None:
    rng = stream(2, repr(window))

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    weight = draw(outputs, channels // window.groups, *window.kernel).requires_grad_()
    x = draw(channels, 9, 8).requires_grad_()
    slide = (window.stride, window.padding, window.dilation, window.groups)
    z = functional.conv2d(x[None], weight, None, *slide)[0]
    k, g = draw(*z.shape), draw(*weight.shape)
    layer = Layer(
        "", "", weight.detach(), None, window, (channels, 9, 8), tuple(z.shape), Activation()
    )
    of_weight, of_x = torch.autograd.grad(z, (weight, x), k)
    at = x.detach()
    assert torch.allclose(layer.linear(at), z)
    assert torch.allclose(layer.adjoint(k), of_x)
    assert torch.allclose(layer.gathered(at, k), of_weight)
    whole = float((layer.gathered(at, k) * g).sum())
    assert whole == pytest.approx(float((layer.scattered(g, k) * at).sum()), rel=1e-12)
    assert whole == pytest.approx(float((layer.convolved(at, g) * k).sum()), rel=1e-12)
    xs, ks = torch.stack([at, 2 * at]), torch.stack([k, -k])
    assert torch.allclose(layer.gathered(xs, ks), -of_weight)
    assert torch.allclose(layer.adjoint(ks)[1], -of_x)


@pytest.mark.parametrize("c", [-0.2784, -0.2, -1e-3, 0.0, 0.3, 2.0, 50.0, 900.0])
def test_margins_solve_their_equation(c: float) -> None:
    roots, note = heads.margins(c)
    assert len(roots) == (2 if -0.2784645 < c < 0 else 1)
    assert not note
    for m in roots:
        assert -m * torch.sigmoid(torch.tensor(-m, dtype=torch.float64)) == pytest.approx(c)


def test_a_margin_below_the_least_is_noted() -> None:
    roots, note = heads.margins(-0.3)
    assert roots == [pytest.approx(1.2784645)]
    assert "noisy" in note


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("classes", [3, 10])
def test_the_softmax_head_finds_the_scale(scale: float, classes: int) -> None:
    rng = stream(3, f"{scale} {classes}")
    weight = torch.randn(classes, 20, generator=rng, dtype=torch.float64) * 0.1
    x = torch.rand(20, generator=rng, dtype=torch.float64) * scale
    error = torch.softmax(weight @ x, 0)
    error[1] -= 1
    layer = Layer("", "", weight, None, None, (20,), (classes,), Activation())
    (head,) = heads.softmax(layer, torch.outer(error, x), None)
    assert head.label == 1
    assert torch.allclose(head.x, x, rtol=1e-8)
    assert torch.allclose(head.k, error, rtol=1e-8)
    (clipped,) = heads.softmax(layer, 0.03 * torch.outer(error, x), None, clipped=True)
    assert torch.allclose(clipped.x, x, rtol=1e-6)
    assert clipped.factor == pytest.approx(0.03, rel=1e-6)


def test_the_softmax_head_finds_the_scale_of_a_sure_mistake() -> None:
    rng = stream(3, "sure")
    weight = torch.randn(10, 20, generator=rng, dtype=torch.float64)
    x = torch.rand(20, generator=rng, dtype=torch.float64) * 300
    label = int((weight @ x).argmin())
    error = torch.softmax(weight @ x, 0)
    assert error.max() > 1 - 1e-12
    error[label] -= 1
    layer = Layer("", "", weight, None, None, (20,), (10,), Activation())
    (head,) = heads.softmax(layer, torch.outer(error, x).float().double(), None)
    assert head.label == label
    assert torch.allclose(head.x, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "outputs", "kind"),
    [
        (functional.cross_entropy, 4, "softmax"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), 4, "other"),
        (nn.MSELoss(), 1, "other"),
        (zoo.logistic_loss, 1, "logistic"),
        (lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y), 1, "logistic"),
    ],
)
def test_a_loss_is_known_by_its_gradient(
    loss: Callable[..., Tensor], outputs: int, kind: str
) -> None:
    assert recognised(loss, outputs, torch.zeros(1)).kind == kind


def test_the_label_of_a_logistic_loss_is_written_as_the_loss_reads_it() -> None:
    signed = recognised(zoo.logistic_loss, 1, torch.zeros(1))
    assert [signed.encode(s).tolist() for s in (-1, 1)] == [[-1], [1]]
    zero_one = recognised(nn.BCEWithLogitsLoss(), 1, torch.zeros(1))
    assert [zero_one.encode(s).tolist() for s in (-1, 1)] == [[[0.0]], [[1.0]]]


ACTIVATIONS = [
    nn.LeakyReLU(0.2),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Softplus(2.0),
    nn.ELU(0.7),
    nn.PReLU(),
]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_activations_turn_around(module: nn.Module) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), module, nn.Linear(9, 3))
    chain = walk(Model.of(network, functional.cross_entropy, Images((3, 2, 2), classes=3)))
    after = chain.layers[0].after
    z = torch.linspace(-3, 3.1, 9, dtype=torch.float64).requires_grad_()
    x = after.apply(z)
    turned = after.turned(x.detach())
    (slope,) = torch.autograd.grad(x.sum(), z)
    assert torch.allclose(turned.z, z.detach())
    assert torch.allclose(turned.derivative, slope)


def test_the_gap_of_a_relu_parts_rounding_from_values() -> None:
    x = torch.tensor([0.9, 0.2, 0.01, 3e-8, -2e-8, 1e-9])
    assert 3e-8 < gap(x) < 0.01
    assert gap(torch.tensor([0.9, 0.2, 0.1])) == 0


# The recoveries.


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("classes", [1, 10])
def test_cnn6_is_recovered_to_the_precision_of_its_gradient(i: int, classes: int) -> None:
    quality, belief = recovered(pair(seeded(i, lambda: zoo.cnn6(classes)), i, 32))
    assert quality >= 95
    assert belief == "exact"


@pytest.mark.parametrize("i", [0, 1, 2])
def test_lenets_are_recovered(i: int) -> None:
    assert recovered(pair(seeded(i, lambda: zoo.lenet_leaky(1)), i, 32))[0] >= 95
    strides = (2, 2, 1)
    lenet = seeded(i, lambda: zoo.lenet(strides=strides, spread=None))
    assert recovered(pair(lenet, i, 32))[0] >= 85


def test_dilation_and_groups_are_recovered() -> None:
    dilated = [(12, 4, 2, 2, 1, 1), (20, 3, 2, 1, 2, 1), (36, 3, 1, 2, 1, 1)]
    grouped = [(12, 4, 2, 2, 1, 1), (20, 3, 1, 2, 1, 2), (36, 3, 1, 2, 1, 1)]
    for convs in (dilated, grouped):
        assert recovered(pair(seeded(0, lambda convs=convs: chain_of(convs))))[0] >= 95


@pytest.mark.parametrize("output", ["identity", "leaky"])
@pytest.mark.parametrize("y", [-1, 1])
def test_dense_networks_are_recovered_whatever_the_label(output: str, y: int) -> None:
    dense = seeded(4, lambda: zoo.fcn3(output, inputs=192))  # type: ignore[arg-type]
    network = nn.Sequential(nn.Flatten(), dense)
    observation, x, label = pair(network, 3, 8, y)
    answer = RGap()(observation, stream(0, "attack"))
    assert psnr(answer.x, x) >= 120
    assert torch.equal(answer.y, label)


def test_the_form_parts_the_two_roots_of_a_right_label() -> None:
    network = seeded(1, lambda: zoo.three_conv(12, 20, classes=1))
    observation, x, y = pair(network, 1)
    batch, rng = Batch(x, -y), stream(0, "client")
    right = observe(observation.model, batch, FedSGD(), rng, tell=("n",))
    answer = RGap()(right, stream(0, "attack"))
    assert psnr(answer.x, x) >= 110
    assert torch.equal(answer.y, -y)
    rows = [c for c in answer.trace["candidates"] if not c["note"]]
    assert len(rows) == 2
    assert max(row["residual"] for row in rows) < 1e-5
    assert [row["kept"] for row in rows].count(True) == 1


def test_twins_within_the_form_are_said_to_be_ambiguous() -> None:
    network = seeded(1, lambda: zoo.three_conv(12, 20, classes=1))
    observation, x, y = pair(network, 1)
    wide = dataclasses.replace(observation.model, form=Images((3, 16, 16), 2, -1e4, 1e4))
    right = observe(wide, Batch(x, -y), FedSGD(), stream(0, "client"))
    answer = RGap()(right, stream(0, "attack"))
    assert answer.trace["belief"] == "ambiguous"
    best = max(psnr(twin, x[0]) for twin in answer.trace["twins"])
    assert best >= 110


def test_entries_between_the_windows_of_the_layer_after_are_not_needed() -> None:
    skipping = [(24, 4, 2, 2, 1, 1), (36, 4, 0, 2, 1, 1)]  # the second skips a row and a column
    assert recovered(pair(seeded(2, lambda: chain_of(skipping)), 2))[0] >= 95


def test_pixels_that_nothing_sees_are_not_called_exact() -> None:
    blind = [(20, 3, 1, 2, 1, 1), (36, 3, 0, 2, 1, 1)]
    observation, x, _ = pair(seeded(2, lambda: chain_of(blind)), 2)
    answer = RGap()(observation, stream(0, "attack"))
    assert float(answer.residual) < 1e-5
    assert psnr(answer.x, x) < 30
    assert answer.trace["belief"] == "ambiguous"
    assert "directions of the input open" in answer.note


def test_odd_networks_have_a_mirrored_twin() -> None:
    convs = [(12, 4, 2, 2, 1, 1), (20, 3, 1, 2, 1, 1), (36, 3, 1, 1, 1, 1)]
    observation, x, y = pair(seeded(2, lambda: chain_of(convs, 1, act=nn.Tanh)), 2)
    answer = RGap()(observation, stream(0, "attack"))
    assert psnr(answer.x, x) >= 90
    assert torch.equal(answer.y, y)
    labels = {row["label"] for row in answer.trace["candidates"] if row["residual"] < 1e-4}
    assert labels == {-1, 1}


def test_a_relu_is_held_at_zero_where_its_input_is_rounding() -> None:
    z = torch.tensor([0.7, -0.4, 3e-9, -2e-9, 0.02], dtype=torch.float64)
    held = Activation((relu(),)).frozen_at(z, 1e-7)
    assert held.apply(10 * z).tolist() == pytest.approx([7.0, 0.0, 0.0, 0.0, 0.2])
    assert held.smooth


def test_two_classes_are_one_logistic_problem() -> None:
    observation, x, y = pair(seeded(3, lambda: zoo.three_conv(12, 20, classes=2)), 3, y=1)
    answer = RGap()(observation, stream(0, "attack"))
    assert psnr(answer.x, x) >= 100
    assert torch.equal(answer.y, y)


def test_batch_norm_in_eval_mode_folds_into_the_activation() -> None:
    def make() -> nn.Module:
        first, second = nn.BatchNorm2d(12), nn.BatchNorm2d(20)
        for norm in (first, second):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.8, 1.2)
        convs = [nn.Conv2d(3, 12, 4, 2, 2), first, nn.LeakyReLU(0.2)]
        convs += [nn.Conv2d(12, 20, 3, 2, 1), second, nn.Tanh()]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(500, 10))

    assert recovered(pair(seeded(5, make), 5))[0] >= 95


class Residual(nn.Module):
    """f(x + B(x)), as in residual networks; `first` stands before the branch."""

    def __init__(
        self, channels: int, middle: int = 12, act: nn.Module | None = None,
        norm: bool = False, first: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.act = nn.LeakyReLU(0.2) if act is None else act
        norms = [nn.BatchNorm2d(middle), nn.BatchNorm2d(channels)] if norm else [nn.Identity()] * 2
        one = nn.Conv2d(channels, middle, 3, padding=1, bias=norm)
        two = nn.Conv2d(middle, channels, 3, padding=1, bias=False)
        before = [] if first is None else [first]
        self.branch = nn.Sequential(*before, one, norms[0], self.act, two, norms[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.branch(x))


@pytest.mark.parametrize(
    ("act", "norm"), [(nn.LeakyReLU(0.2), False), (nn.LeakyReLU(0.2), True), (nn.Tanh(), False)]
)
def test_residual_blocks_are_recovered(act: nn.Module, norm: bool) -> None:
    def make() -> nn.Module:
        blocks = [Residual(12, 8, act, norm), Residual(12, 16, act, norm)]
        stem = nn.Conv2d(3, 12, 4, 2, 2, bias=False)
        return nn.Sequential(stem, act, *blocks, nn.Flatten(), nn.Linear(972, 10, bias=False))

    quality, belief = recovered(pair(seeded(9, make), 9))
    assert quality >= 100
    assert belief == "exact"


class Halving(nn.Module):
    """f(W3 x + W2 f(W1 x)) with a stride, as where a residual network halves its image."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False)
        self.two = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(channels, 2 * channels, 1, 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(2 * channels), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.short(x) + self.two(self.act(self.norm(self.one(x)))))


# The sum and the last layers are short of 72 equations for 972 unknowns where 12 channels enter.
@pytest.mark.parametrize(("channels", "act"), [(12, nn.LeakyReLU(0.2)), (36, nn.ReLU())])
def test_a_block_that_halves_the_image_is_recovered(channels: int, act: nn.Module) -> None:
    def make() -> nn.Module:
        stem = nn.Conv2d(3, channels, 4, 2, 2, bias=False)
        last = nn.Linear(50 * channels, 10, bias=False)
        return nn.Sequential(stem, act, Halving(channels, act), nn.Flatten(), last)

    quality, belief = recovered(pair(seeded(11, make), 11))
    assert quality >= 110
    assert belief == "exact"


def test_a_network_that_begins_with_a_residual_block_is_recovered() -> None:
    make = headed(Residual(3), width=768)
    observation, x, y = pair(seeded(10, make), 10)
    answer = RGap()(observation, stream(0, "attack"))
    assert psnr(answer.x, x) >= 100
    assert torch.equal(answer.y, y)
    assert [row["kind"] for row in answer.trace["layers"]] == ["Block", "Linear"]
    several_ = dataclasses.replace(observation, n=2)
    with pytest.raises(InvalidInput, match="residual blocks"):
        RGap()(several_, stream(0, "attack"))


def test_a_relu_network_is_recovered_where_its_residual_certifies_it() -> None:
    convs = [(12, 4, 2, 2, 1, 1), (36, 3, 1, 2, 1, 1), (36, 3, 1, 1, 1, 1)]
    good = [recovered(pair(seeded(i, lambda: chain_of(convs, act=nn.ReLU)), i)) for i in range(3)]
    assert any(belief == "exact" for _, belief in good)
    assert all(quality >= 95 for quality, belief in good if belief == "exact")


def test_a_network_written_with_functions_is_walked() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 4, 2, 2)
            self.last = nn.Linear(12 * 81, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.leaky_relu(self.conv(x), 0.2)
            return self.last(x.view(x.size(0), -1))

    assert recovered(pair(seeded(6, Written), 6))[0] >= 95


def test_control_flow_falls_back_to_hooks() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 12, 4, 2, 2), nn.Tanh()
            self.last = nn.Linear(12 * 81, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(x))
            return self.last(x.flatten(1)) if x.detach().sum() < 1e9 else x

    seen = pair(seeded(7, Branching), 7)
    assert recovered(seen)[0] >= 85
    assert not seen[0].model.module.conv._forward_hooks


def test_an_unknown_loss_is_enough_where_the_last_layer_has_a_bias() -> None:
    convs = [(12, 4, 2, 2, 1, 1)]
    network = seeded(8, lambda: chain_of(convs, 4, bias=True))
    x = zoo.photos(9, 16).batch.x[8:]
    model = Model.of(network, nn.MSELoss(), Images((3, 16, 16), 4))
    target = torch.tensor([[0.3, 0.1, -0.5, 1.0]])
    seen = observe(model, Batch(x, target), FedSGD(), stream(0, "client"))
    answer = RGap()(seen, stream(0, "attack"))
    assert psnr(answer.x, x) >= 95
    assert answer.y is None
    assert float(answer.residual) < 1e-5


def test_one_local_step_of_federated_averaging_is_a_gradient() -> None:
    observation, x, y = pair(seeded(0, lambda: zoo.three_conv(12, 20).double()), 0)
    client = FedAvg(lr=0.05, weight_decay=0.01)
    seen = observe(observation.model, Batch(x, y), client, stream(0, "client"))
    assert recovered((seen, x, y))[0] >= 95


@pytest.mark.parametrize("bias", [False, True])
def test_a_clipped_gradient_tells_its_factor(bias: bool) -> None:
    convs = [(12, 4, 2, 2, 1, 1), (20, 3, 1, 2, 1, 1)]
    observation, x, y = pair(seeded(1, lambda: chain_of(convs, bias=bias)), 1)
    length = float(tree.norm(observation.update))
    client = Clip(FedSGD(), norm=0.1 * length)
    seen = observe(observation.model, Batch(x, y), client, stream(0, "client"))
    answer = RGap()(seen, stream(0, "attack"))
    assert psnr(answer.x, x) >= 90
    assert answer.trace["factor"] == pytest.approx(0.1, rel=1e-4)


def test_two_layers_are_solved_together_where_one_is_short() -> None:
    seen = pair(seeded(0, lambda: zoo.three_conv(12, 8)), 0)
    quality, belief = recovered(seen)
    assert quality >= 100
    assert belief == "exact"
    observation, x, _ = seen
    alone = RGap(joint=False)(observation, stream(0, "attack"))
    assert psnr(alone.x, x) < 40
    assert alone.note.startswith("not recovered")
    assert "'conv2'" in alone.note


@pytest.mark.parametrize("i", [0, 3])
def test_noise_is_survived_by_repair_and_refinement(i: int) -> None:
    observation, x, y = pair(seeded(i, lambda: zoo.three_conv(12, 20)), i)
    client = Noise(FedSGD(), std=1e-4, relative=True)
    seen = observe(observation.model, Batch(x, y), client, stream(i, "client"))
    quality, belief = recovered((seen, x, y))
    assert quality >= 75
    assert belief == "exact"


def test_matching_from_the_recursions_answer_improves_it() -> None:
    observation, x, y = pair(seeded(1, lambda: zoo.three_conv(12, 20)), 1)
    client = Noise(FedSGD(), std=3e-3, relative=True)
    seen = observe(observation.model, Batch(x, y), client, stream(1, "client"))
    plain = RGap(repair=False, refine="none")(seen, stream(0, "attack"))
    matched = RGap(repair=False, refine="match")(seen, stream(0, "attack"))
    assert float(matched.residual) < 0.5 * float(plain.residual)
    assert psnr(matched.x, x) > psnr(plain.x, x) + 1


def test_deficient_networks_are_said_to_have_failed() -> None:
    observation, x, _ = pair(seeded(0, zoo.cnn6_d), 0, 32)
    answer = RGap(joint=False, refine="none")(observation, stream(0, "attack"))
    assert answer.trace["belief"] == "failed"
    assert psnr(answer.x, x) < 15
    assert "'conv2'" in answer.note


def test_the_trace_has_a_row_for_every_layer() -> None:
    observation, _, _ = pair(seeded(0, lambda: zoo.three_conv(12, 20)), 0)
    answer = RGap()(observation, stream(0, "attack"))
    rows = answer.trace["layers"]
    assert [row["name"] for row in rows] == ["conv1", "conv2", "conv3", "linear"]
    assert [row["unknowns"] for row in rows] == [768, 972, 500, 900]
    assert all(math.isfinite(row["residual"]) for row in rows)


def test_a_combination_is_never_called_a_recovery() -> None:
    observation, _, _ = pair(seeded(0, lambda: zoo.three_conv(12, 20)), 0)
    batch = Batch(zoo.photos(2, 16).batch.x, torch.tensor([1, 2]))
    seen = observe(observation.model, batch, FedSGD(), stream(0, "client"), tell=("n",))
    answer = RGap(combination=True)(seen, stream(0, "attack"))
    assert answer.note.startswith("not recovered")
    assert answer.residual.isnan().all()


def several(network: nn.Module, labels: list[int], i: int = 0, size: int = 16) -> Seen:
    """The update of a batch of other crops than those of `pair`."""
    n = len(labels)
    x, y = zoo.photos(40 + i + n, size).batch.x[40 + i :], torch.tensor(labels)
    model = Model.of(network.eval(), functional.cross_entropy, Images((3, size, size), 10))
    seen = observe(model, Batch(x, y), FedSGD(), stream(i, "client"), tell=("n",))
    return seen, x, y


def worst(answer: Reconstruction, x: Tensor) -> float:
    """The least PSNR of the originals, each against the candidate nearest to it."""
    errors = (answer.x[:, None] - x[None]).double().square().flatten(2).mean(2)
    return float(-10 * errors.min(0).values.max().log10())


@pytest.mark.parametrize("told", [("n",), (), ("n", "y")])
def test_examples_fewer_than_the_classes_are_parted(told: tuple[str, ...]) -> None:
    network = seeded(3, lambda: zoo.three_conv(12, 36))
    observation, x, y = several(network, [7, 2, 5, 1, 4, 0])
    batch, rng = Batch(x, y), stream(0, "client")
    seen = observe(observation.model, batch, FedSGD(), rng, tell=told)  # type: ignore[arg-type]
    answer = RGap()(seen, stream(0, "attack"))
    assert worst(answer, x) >= 100
    assert sorted(answer.y.tolist()) == sorted(y.tolist())
    assert answer.trace["belief"] == "exact"
    assert answer.trace["layers"][0]["unknowns"] == 6 * 768


def test_two_examples_of_one_label_are_parted_in_a_shallow_network() -> None:
    seen, x, _ = several(seeded(4, lambda: zoo.three_conv(12, 36)), [3, 3], 3)
    answer = RGap()(seen, stream(0, "attack"))
    assert worst(answer, x) >= 80
    assert answer.y.tolist() == [3, 3]


def test_two_examples_of_cnn6_are_parted() -> None:
    seen, x, _ = several(seeded(5, lambda: zoo.cnn6(10)), [8, 3], 5, 32)
    answer = RGap()(seen, stream(0, "attack"))
    assert worst(answer, x) >= 80


def test_a_batch_for_which_a_layer_is_short_is_not_recovered() -> None:
    seen, x, _ = several(seeded(6, lambda: zoo.three_conv(12, 20)), [1, 2, 3, 4], 6)
    answer = RGap()(seen, stream(0, "attack"))
    assert answer.trace["belief"] == "failed"
    assert "'conv2' is short of" in answer.note
    assert "for 4 examples" in answer.note
    assert worst(answer, x) < 30


def test_as_many_examples_as_classes_are_refused() -> None:
    network = seeded(7, lambda: zoo.three_conv(12, 20))
    seen, _, _ = several(network, list(range(10)), 7)
    with pytest.raises(InvalidInput, match="combination=True"):
        RGap()(seen, stream(0, "attack"))
    unknown = dataclasses.replace(seen, n=None)
    assert "more than one example" in RGap(refine="none")(unknown, stream(0, "attack")).note


# What it refuses.


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(1536, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, self.conv(x)], 1).flatten(1))


def headed(*layers: nn.Module, width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 4, bias=False))


REFUSED = [
    (headed(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), width=196), "'1' \\(MaxPool2d\\) cannot be inv"),
    (headed(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), width=196), "AvgPool2d"),
    (headed(nn.Conv2d(3, 4, 3), nn.GELU(), width=784), "GELU"),
    (headed(nn.Conv2d(3, 4, 3), nn.LeakyReLU(-0.2), width=784), "one-to-one"),
    (headed(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), width=1024), "circular"),
    (headed(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), width=784), "GroupNorm"),
    (Joined, "concatenation"),
    (headed(Residual(3, act=nn.ReLU(), first=nn.Tanh()), width=768), "needs a layer first"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_a_network_that_is_no_chain_is_refused(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        RGap()(pair(seeded(0, make))[0], stream(0, "attack"))
    assert "Invert()" in str(caught.value)


def test_other_protocols_are_refused() -> None:
    convs = [(4, 3, 1, 1, 1, 1)]
    observation, x, y = pair(seeded(0, lambda: chain_of(convs)))
    several = Batch(x.expand(2, -1, -1, -1), y.expand(2))
    for client, reason in (
        (FedAvg(epochs=2), "one step"),
        (FedAvg(optimizer="adam"), "one step"),
        (SecureSum(FedSGD(), users=2), "sums 2 users"),
        (Only(FedSGD(), "!0.weight"), "no tensor '0.weight'"),
    ):
        seen = observe(observation.model, several, client, stream(0, "client"), tell=())
        with pytest.raises(InvalidInput, match=reason):
            RGap()(seen, stream(0, "attack"))


def test_batch_norm_in_train_mode_is_refused() -> None:
    network = seeded(0, headed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), width=784))
    observation, x, y = pair(network)
    seen = observe(observation.model, Batch(x, y), FedSGD("train"), stream(0, "client"))
    with pytest.raises(InvalidInput, match="train mode"):
        RGap()(seen, stream(0, "attack"))


def spoiled(observation: Observation, name: str, tensor: Tensor | None) -> Observation:
    update = {k: v for k, v in observation.update.items() if k != name}
    update |= {} if tensor is None else {name: tensor}
    return dataclasses.replace(observation, update=update)


def test_damaged_updates_are_refused() -> None:
    observation, _, _ = pair(seeded(0, lambda: zoo.three_conv(12, 20)))
    nan = torch.full_like(observation.update["conv2.weight"], torch.nan)
    zero = torch.zeros_like(observation.update["linear.weight"])
    for name, tensor, reason in (
        ("conv2.weight", None, "conv2.weight"),
        ("conv2.weight", nan, "NaN"),
        ("conv2.weight", torch.zeros(3), "mis-shaped"),
        ("linear.weight", zero, "fitted perfectly"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            RGap()(spoiled(observation, name, tensor), stream(0, "attack"))


def test_a_loss_that_it_does_not_know_is_refused_without_a_bias() -> None:
    observation, x, y = pair(seeded(0, lambda: zoo.three_conv(12, 20)))
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    model = dataclasses.replace(observation.model, loss=smoothed)
    seen = observe(model, Batch(x, y), FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match="smooths labels"):
        RGap()(seen, stream(0, "attack"))


def test_fields_are_checked() -> None:
    for wrong in ({"tol": 0.0}, {"noise": -1.0}, {"refine": "always"}):
        with pytest.raises(InvalidInput):
            RGap(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rgap", "rgap_rank", "hgap"])
def test_the_papers_findings_are_found_again(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"seepage.papers.{name}")
    claims = list(module.reproduce(True, tmp_path))
    assert len(claims) >= 1
    expected = {"a layer that is short of equations raises security": "not confirmed"}
    for claim in claims:
        if claim.claimed != "not available" and claim.verdict != "not run":
            assert claim.verdict == expected.get(claim.what, "confirmed"), claim
    assert list(tmp_path.glob("*.png"))
