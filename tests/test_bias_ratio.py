"""BiasRatio against closed forms, autograd, and what its certificates promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from seepage import tree, zoo
from seepage.attacks import BiasRatio
from seepage.attacks.softmax_head import Head, solve
from seepage.clients import FedAvg, FedSGD, Only, SecureSum
from seepage.core import Batch, Client, Model, Observation, Reconstruction, observe, stream
from seepage.defenses import Clip, Noise, Prune
from seepage.errors import InvalidInput
from seepage.expr import read
from seepage.forms import Column, Images, Table, Tokens
from seepage.metrics.score import Context, score
from seepage.tree import Tensors
from seepage.values import value


def attacked(
    sample: zoo.Sample,
    net: nn.Module,
    attack: BiasRatio = BiasRatio(),  # noqa: B008 (a frozen value)
    client: Client = FedSGD(),  # noqa: B008
    tell: Any = ("n",),
) -> tuple[Reconstruction, Tensor]:
    """The answer and the PSNR of each truth."""
    seen = observe(sample.model(net), sample.batch, client, stream(0, "client"), tell=tell)
    found = attack(seen, stream(0, "attack"))
    context = Context(None, stream(0, "score"))
    scores = score(sample.form, sample.batch, found.x, found.y, context)
    return found, torch.tensor(scores.scores["psnr"])


def crops(n: int, classes: int, seed: int = 0, size: int = 8) -> zoo.Sample:
    return zoo.photos(n, size, seed=seed).normalised().distinct(classes)


def labelled(sample: zoo.Sample, y: list[int]) -> zoo.Sample:
    return zoo.Sample(Batch(sample.x, torch.tensor(y)), sample.form)


def zero_head(inputs: int, classes: int) -> nn.Module:
    net = zoo.linear(inputs, classes)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


# --- one example ---


@pytest.mark.parametrize("seed", range(5))
def test_one_example_is_exact_with_a_rank_one_certificate(seed: int) -> None:
    sample = zoo.digits(1, seed=seed)
    net = zoo.mlp(64, 32, 10, activation="tanh", seed=seed)
    found, psnr = attacked(sample, net)
    assert float(psnr) >= 120
    assert found.note == "1 of 1 examples certified"
    assert float(found.residual) < 1e-6
    assert found.y is not None
    assert torch.equal(found.y, sample.y)
    assert found.x.shape == (1, 1, 8, 8)


def test_the_certificate_is_what_one_example_leaves_of_the_weight_gradient() -> None:
    sample = zoo.digits(1, seed=7)
    net = zoo.mlp(64, 16, 10, activation="tanh", seed=7)
    found, _ = attacked(sample, net, client=Noise(FedSGD(), 1e-3))
    seen = observe(
        sample.model(net), sample.batch, Noise(FedSGD(), 1e-3), stream(0, "client"), tell=("n",)
    )
    weight, bias = (seen.update[f"linear1.{name}"].double() for name in ("weight", "bias"))
    best = torch.linalg.lstsq(bias[:, None], weight).solution[0]
    left = (weight - bias[:, None] * best).norm() / weight.norm()
    assert found.trace["rank one"] == pytest.approx(float(left), rel=1e-6)
    torch.testing.assert_close(found.x.flatten(), best.float())
    assert float(found.residual) >= float(left) * (1 - 1e-5)


def test_two_examples_passed_off_as_one_are_not_recovered() -> None:
    sample = zoo.digits(2, seed=3)
    model = sample.model(zoo.mlp(64, 32, 10, activation="tanh", seed=3))
    update = FedSGD()(model, sample.batch, Generator())
    found = BiasRatio()(Observation(model, FedSGD(), update, n=1), stream(0, "attack"))
    assert found.note.startswith("not recovered")
    assert float(found.residual) > 0.05


@value
class Signs:
    """A client that shares only signs: of rank one for positive inputs, and empty of them."""

    inner: Client

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        return tree.mapped(torch.sign, self.inner(model, batch, rng))


def test_signs_are_of_rank_one_and_still_not_taken_for_an_example() -> None:
    """The rank-one certificate alone would pass them."""
    form = Images((1, 8, 8), classes=10)
    x = 0.1 + 0.8 * torch.rand(1, 1, 8, 8, generator=stream(0, "test"))
    model = Model.of(zoo.mlp(64, 32, 10, seed=1), functional.cross_entropy, form)
    seen = observe(
        model, Batch(x, torch.tensor([4])), Signs(FedSGD()), stream(0, "client"), FedSGD()
    )
    found = BiasRatio()(seen, stream(0, "attack"))
    assert found.trace["rank one"] < 1e-6
    assert found.note.startswith("not recovered")


def test_one_row_gives_the_example_and_says_that_nothing_certifies_it() -> None:
    sample = zoo.digits(1, seed=2).signed()
    model = sample.model(zoo.linear(64, 1, seed=2), zoo.logistic_loss)
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"))
    found = BiasRatio()(seen, stream(0, "attack"))
    torch.testing.assert_close(found.x, sample.x, atol=1e-6, rtol=0)
    assert bool(found.residual.isnan().all())
    assert "nothing certifies it" in found.note


def test_an_untold_number_of_one_for_losses_whose_labels_cannot_be_tried() -> None:
    sample = zoo.digits(1, seed=2).signed()
    model = sample.model(zoo.mlp(64, 16, 1, activation="tanh", seed=2), zoo.logistic_loss)
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"), tell=())
    found = BiasRatio()(seen, stream(0, "attack"))
    torch.testing.assert_close(found.x, sample.x, atol=1e-6, rtol=0)
    assert float(found.residual) < 1e-6
    assert found.y is None


@pytest.mark.parametrize(
    "client",
    [
        FedAvg(lr=0.1),
        FedAvg(lr=0.1, epochs=5),
        FedAvg(lr=0.1, momentum=0.9, epochs=3),
        FedAvg(lr=0.1, weight_decay=0.1),
        SecureSum(FedSGD(), 1),
        Clip(FedSGD(), 1e-3),
        Prune(FedSGD(), 0.5),
    ],
)
def test_one_example_survives_what_keeps_ratios(client: Client) -> None:
    sample = zoo.digits(1, seed=4)
    net = zoo.mlp(64, 32, 10, activation="tanh", seed=4)
    found, psnr = attacked(sample, net, client=client)
    assert float(psnr) > 100
    assert found.note == "1 of 1 examples certified"


def test_a_clip_that_the_attacker_does_not_know_of_changes_nothing() -> None:
    sample = zoo.digits(1, seed=4)
    model = sample.model(zoo.mlp(64, 32, 10, activation="tanh", seed=4))
    seen = observe(model, sample.batch, Clip(FedSGD(), 1e-3), stream(0, "client"), FedSGD())
    assert BiasRatio()(seen, stream(0, "attack")).note == "1 of 1 examples certified"


# --- logistic regression ---


@pytest.mark.parametrize("seed", [0, 1])
def test_absent_rows_are_exact_for_a_zero_head_and_the_paper_is_not(seed: int) -> None:
    sample = crops(16, 200, seed)
    net = zero_head(192, 200)
    _, plain = attacked(sample, net, BiasRatio(absent=False, rounds=0))
    found, better = attacked(sample, net, BiasRatio(rounds=0))
    assert float(plain.max()) < 60
    assert float(better.min()) >= 120
    assert found.note == "16 of 16 examples certified"


def test_the_plain_ratio_is_the_published_formula() -> None:
    sample = crops(8, 50)
    net = zoo.linear(192, 50, seed=0)
    model = sample.model(net)
    found, _ = attacked(sample, net, BiasRatio(absent=False, rounds=0))
    chances = model.predict(sample.x).double().softmax(1)
    slope = (chances - functional.one_hot(sample.y, 50)).double()
    wanted = (slope.T @ sample.x.flatten(1).double() / slope.sum(0)[:, None])[:8]
    assert found.y is not None
    torch.testing.assert_close(
        found.x[found.y.argsort()].flatten(1).double(), wanted, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize(("n", "classes"), [(16, 200), (16, 32), (16, 18)])
def test_rounds_solve_any_head_with_absent_classes(n: int, classes: int) -> None:
    """With few classes some of those seen have a positive slope: they are found by counting."""
    sample = crops(n, classes, seed=3)
    found, psnr = attacked(sample, zoo.linear(192, classes, seed=3))
    assert float(psnr.min()) > 100
    assert found.note == f"{n} of {n} examples certified"
    assert found.y is not None
    assert sorted(found.y.tolist()) == list(range(n))
    assert float(found.residual.max()) < 1e-4


@pytest.mark.parametrize("classes", [16, 17, 18])
def test_with_hardly_an_absent_class_no_wrong_example_is_certified(classes: int) -> None:
    """The rows sum to zero, so that a single absent one is explained by any candidates."""
    for seed in range(5):
        sample = crops(16, classes, seed)
        found, psnr = attacked(sample, zoo.linear(192, classes, seed=seed))
        assert int((found.residual < 0.05).sum()) <= int((psnr > 60).sum())


def test_one_label_for_all_is_not_recovered_and_decided_without_the_truth() -> None:
    sample = labelled(crops(16, 200), [5] * 16)
    for net in (zoo.linear(192, 200, seed=0), zero_head(192, 200)):
        found, psnr = attacked(sample, net)
        assert found.note.startswith("not recovered: every class seen has several examples")
        assert "(class 5: 16)" in found.note
        assert float(found.residual) == pytest.approx(1 - 1 / 16, abs=1e-6)
        assert int((psnr > 30).sum()) <= 1
        mean = sample.x.mean(0)
        assert float((found.x[0] - mean).norm() / mean.norm()) < 0.05


def test_repeated_labels_are_named_and_the_unique_ones_still_recovered() -> None:
    sample = labelled(crops(16, 200, seed=5), [*range(8), 50, 50, 50, 51, 51, 52, 52, 52])
    found, psnr = attacked(sample, zoo.linear(192, 200, seed=5))
    assert found.note == "8 of 16 examples certified"
    assert int((psnr[:8] > 30).sum()) == 8
    counts = dict(zip(found.trace["classes"], found.trace["counts"], strict=True))
    assert counts == {**dict.fromkeys(range(8), 1.0), 50: 3.0, 51: 2.0, 52: 3.0}
    assert found.y is not None
    repeated = found.residual[found.y >= 50]
    assert sorted(repeated.tolist()) == pytest.approx([1 / 2, 2 / 3, 2 / 3], abs=1e-5)
    assert found.belief.tolist() == sorted(found.belief.tolist(), reverse=True)


def test_no_absent_class_is_said_and_nothing_is_certified() -> None:
    sample = crops(16, 16, seed=2)
    found, _ = attacked(sample, zoo.linear(192, 16, seed=2))
    assert found.note.startswith("not recovered")
    sample = zoo.digits(40, seed=2)
    found, psnr = attacked(sample, zoo.linear(64, 10, seed=2))
    assert found.note.startswith("not recovered")
    assert int((psnr > 30).sum()) == 0


def test_an_untold_number_is_the_fewest_that_explain_the_update() -> None:
    sample = crops(12, 100, seed=6)
    net = zoo.linear(192, 100, seed=6)
    found, psnr = attacked(sample, net, tell=())
    assert "n not told" in found.note
    assert float(psnr.min()) > 100
    twice = labelled(sample, [i // 2 for i in range(12)])
    found, _ = attacked(twice, net, tell=())
    assert found.note.startswith("not recovered")  # means do not explain the absent rows
    once = labelled(sample, [3] * 12)
    assert attacked(once, net, tell=())[0].note.startswith("not recovered")


def test_told_labels_are_used() -> None:
    sample = crops(12, 14, seed=8)
    found, psnr = attacked(sample, zoo.linear(192, 14, seed=8), tell=("n", "y"))
    assert float(psnr.min()) > 60
    assert found.note == "12 of 12 examples certified"


@pytest.mark.parametrize(
    "client",
    [
        FedAvg(lr=0.1),
        FedAvg(lr=0.01, weight_decay=0.1),
        FedAvg(lr=1e-3, epochs=2, batch_size=4),
        SecureSum(FedSGD(), 4),
        SecureSum(FedAvg(lr=0.01), 4),
        Clip(FedSGD(), 0.1),
        Prune(FedSGD(), 0.3),
    ],
)
def test_logistic_regression_survives_what_keeps_ratios(client: Client) -> None:
    sample = crops(16, 100, seed=9)
    found, psnr = attacked(sample, zoo.linear(192, 100, seed=9), client=client)
    assert int((psnr > 40).sum()) == 16
    assert int(found.note.split(" ")[0]) >= 14


def test_under_noise_the_residual_is_the_error_to_expect() -> None:
    sample = crops(16, 200, seed=1)
    for std in (1e-4, 1e-3):
        found, _ = attacked(sample, zoo.linear(192, 200, seed=1), client=Noise(FedSGD(), std))
        assert found.y is not None
        truth = sample.x[found.y]
        error = (found.x - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
        ratio = found.residual / error
        assert 0.5 < float(ratio.median()) < 2
    found, _ = attacked(sample, zoo.linear(192, 200, seed=1), client=Noise(FedSGD(), 0.1))
    assert found.note.startswith("not recovered")


def test_signs_of_a_classifier_are_not_recovered() -> None:
    sample = crops(16, 200, seed=1)
    model = sample.model(zoo.linear(192, 200, seed=1))
    seen = observe(model, sample.batch, Signs(FedSGD()), stream(0, "client"), FedSGD())
    assert BiasRatio()(seen, stream(0, "attack")).note.startswith("not recovered")


def test_the_rows_are_the_mixture_that_the_solution_says() -> None:
    """At the true examples M X is the gradient of autograd."""
    sample = crops(6, 20, seed=4)
    model = sample.model(zoo.linear(192, 20, seed=4).double())
    model = Model.of(model.module, model.loss, model.form)
    batch = Batch(sample.x.double(), sample.y)
    update = FedSGD()(model, batch, Generator())
    gradient = {name: update[f"linear1.{name}"] for name in ("weight", "bias")}
    weight, bias = model.params["linear1.weight"], model.params["linear1.bias"]
    found, history = solve(Head(weight, bias, gradient, 6, None), absent=True, rounds=40)
    torch.testing.assert_close(found.x, batch.x.flatten(1), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.mixture @ batch.x.flatten(1), gradient["weight"][:6])
    assert float(found.scale) == pytest.approx(1)
    assert history == sorted(history, reverse=True)


# --- other batches ---


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("classes", [2, 10])
def test_whatever_is_certified_is_right(n: int, classes: int) -> None:
    """With two classes rows of the same examples agree always: agreement alone proves nothing."""
    certified = 0
    for seed in range(4):
        sample = zoo.digits(n, seed=seed)
        sample = zoo.Sample(Batch(sample.x, sample.y % classes), Images((1, 8, 8), classes=classes))
        found, psnr = attacked(sample, zoo.mlp(64, 256, classes, seed=seed))
        ok = found.residual < 1e-3
        gaps = torch.cdist(found.x.flatten(1).double(), sample.x.flatten(1).double()).min(1).values
        assert float(gaps[ok].max() if ok.any() else 0) < 1e-3
        # Where no row is shown to be alone the note says so, and mixtures come back as they are.
        assert ok.any() != found.note.startswith("not recovered")
        assert int(ok.sum()) <= int((psnr > 60).sum())
        certified += int(ok.sum())
    assert certified >= 4


@pytest.mark.parametrize(
    "client",
    [
        FedAvg(lr=0.1),
        FedAvg(lr=0.1, weight_decay=0.01),
        SecureSum(FedSGD(), 2),
        Clip(FedSGD(), 0.01),
        Prune(FedSGD(), 0.3),
    ],
)
def test_examples_alone_in_rows_survive_what_keeps_ratios(client: Client) -> None:
    for seed in (0, 1):
        sample = zoo.digits(4, seed=seed)
        found, psnr = attacked(sample, zoo.mlp(64, 256, 10, seed=seed), client=client)
        assert int(found.note.split(" ")[0]) >= 2
        assert int((psnr > 100).sum()) >= int(found.note.split(" ")[0])


def test_smooth_activations_mix_every_row() -> None:
    sample = zoo.digits(8, seed=1)
    found, psnr = attacked(sample, zoo.mlp(64, 64, 10, activation="tanh", seed=1))
    assert found.note.startswith("not recovered: no row of layer 'linear1'")
    assert int((psnr > 30).sum()) == 0
    assert len(found) == 64


@pytest.mark.parametrize("client", [FedSGD(), Clip(FedSGD(), 0.01)])
def test_mixtures_that_happen_to_agree_are_not_certified(client: Client) -> None:
    """In a wide smooth network several rows mix two examples nearly alike."""
    for seed in range(8):
        sample = zoo.digits(2, seed=seed)
        model = sample.model(zoo.mlp(64, 256, 10, activation="tanh", seed=seed))
        seen = observe(model, sample.batch, client, stream(0, "client"), FedSGD())
        found = BiasRatio()(seen, stream(0, "attack"))
        assert found.note.startswith("not recovered")


def test_equal_rows_are_one_candidate() -> None:
    """A row that two examples move differently is another; equal rows merge."""
    sample = zoo.digits(2, seed=5)
    net = zoo.mlp(64, 8, 10, seed=5)
    with torch.no_grad():
        net.linear1.weight[1] = net.linear1.weight[0]
        net.linear1.bias[:2] = 5.0
        net.linear2.weight[:, 1] = net.linear2.weight[:, 0]
    found, _ = attacked(sample, net)
    flat = found.x.flatten(1)
    apart = torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))
    assert float(apart.min()) > 1e-4 * float(flat.norm(dim=1).max())
    assert sum(found.trace["rows"]) == found.trace["live rows"]


# --- what it refuses, and what it leaves alone ---


class Centred(nn.Module):
    """A network that normalises inside, before its only layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1) - 0.5)
        return out


class Twice(nn.Module):
    """A network that uses its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.head(x.flatten(1)))
        return out


@pytest.mark.parametrize(
    ("net", "attack", "message"),
    [
        (lambda: zoo.lenet(10, (1, 8, 8)), BiasRatio(), r"takes inputs of shape .* Span or Invert"),
        (Centred, BiasRatio(), r"layer 'head' takes 64 entries computed from the example"),
        (Twice, BiasRatio(), r"layer 'head' is used 2 times"),
        (
            lambda: zoo.mlp(64, 8, 10),
            BiasRatio("linear2"),
            r"'linear2' takes inputs of shape \(8,\)",
        ),
        (lambda: zoo.mlp(64, 8, 10), BiasRatio("fc"), r"layer='fc' .*: use 'linear1', 'linear2'"),
        (lambda: zoo.mlp(64, 8, 10, bias=False), BiasRatio(), r"'linear1' has no bias.*Span"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()),
            BiasRatio(),
            "no fully connected layer",
        ),
    ],
)
def test_refusals_name_the_layer_and_the_remedy(
    net: Callable[[], nn.Module], attack: BiasRatio, message: str
) -> None:
    sample = zoo.digits(1)
    seen = observe(sample.model(net()), sample.batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match=message):
        attack(seen, stream(0, "attack"))


def test_tokens_are_refused() -> None:
    form = Tokens(4, 10, pad=0)
    net = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(12, 10))
    model = Model.of(net, functional.cross_entropy, form)
    batch = Batch(torch.ones(1, 4, dtype=torch.long), torch.tensor([1]))
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match="tokens"):
        BiasRatio()(seen, stream(0, "attack"))


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (FedAvg(optimizer="adam"), "Adam"),
        (Only(FedSGD(), "*.weight"), r"does not share linear1\.bias"),
        (Only(FedSGD(), "linear2.*"), r"linear1\.weight and linear1\.bias"),
    ],
)
def test_updates_without_ratios_are_not_recovered(client: Client, why: str) -> None:
    sample = zoo.digits(1)
    found, _ = attacked(sample, zoo.mlp(64, 8, 10, seed=0), client=client)
    assert len(found) == 0
    assert found.note.startswith("not recovered")
    with pytest.raises(AssertionError, match=why):
        assert not found.note, found.note


def test_a_dead_layer_is_not_recovered() -> None:
    sample = zoo.digits(1)
    net = zoo.mlp(64, 8, 10, seed=0)
    nn.init.constant_(net.linear1.bias, -100.0)
    assert "is zero" in attacked(sample, net)[0].note


def test_a_named_layer_of_several_that_read_the_example() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            out: Tensor = self.left(flat) + self.right(flat).tanh()
            return out

    torch.manual_seed(0)
    net, sample = Branches(), zoo.digits(1, seed=3)
    for name in (None, "left", "right"):
        found, psnr = attacked(sample, net, BiasRatio(name))
        assert found.trace["layer"] == (name or "left")
        assert float(psnr) > 120


def test_tables_come_back_in_their_form_and_in_the_parameters_type() -> None:
    form = Table((Column("age"), Column("smokes", ("no", "yes"))), classes=2)
    net = zoo.mlp(3, 16, 2, activation="tanh", seed=0).double()
    x = torch.tensor([[0.3, 0.0, 1.0]], dtype=torch.float64)
    model = Model.of(net, functional.cross_entropy, form)
    seen = observe(model, Batch(x, torch.tensor([1])), FedSGD(), stream(0, "client"))
    found = BiasRatio()(seen, stream(0, "attack"))
    assert found.x.dtype == found.residual.dtype == torch.float64
    torch.testing.assert_close(found.x, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize(
    "net", [lambda: zoo.linear(64, 40, seed=0), lambda: zoo.mlp(64, 32, 40, seed=0)]
)
def test_the_truth_the_model_and_the_global_stream_are_left_alone(
    n: int, net: Callable[[], nn.Module]
) -> None:
    sample = zoo.digits(n, seed=1).distinct(40)
    model = sample.model(net())
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"))
    first = BiasRatio()(seen, stream(0, "attack"))
    sample.x.fill_(torch.nan)
    sample.y.fill_(-1)
    before, state = tree.fingerprint(model.state), torch.get_rng_state()
    second = BiasRatio()(seen, stream(0, "attack"))
    for name in ("x", "y", "belief", "residual"):
        assert torch.equal(getattr(first, name).nan_to_num(9), getattr(second, name).nan_to_num(9))
    assert first.note == second.note
    assert tree.fingerprint(model.state) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_its_text_is_its_configuration() -> None:
    for attack in (BiasRatio(), BiasRatio(layer="fc", absent=False, rounds=3)):
        assert read(repr(attack)) == attack
    with pytest.raises(InvalidInput, match="rounds"):
        BiasRatio(rounds=-1)
