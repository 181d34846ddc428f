"""Labels read from the last layer's gradient."""

import pytest
import torch
from torch import nn

from seepage import tree, zoo
from seepage.attacks import IDLG, Chance, Counts, Impact, Joint, Told, Yin, labels
from seepage.attacks.head import head_of
from seepage.attacks.labels import Rule
from seepage.clients import FedAvg, FedSGD, Only
from seepage.core import Batch, Client, Model, Observation, observe, stream
from seepage.errors import InvalidInput
from seepage.forms import Column, Table

FORM = Table(tuple(Column(f"c{i}") for i in range(20)), classes=10)


def network(seed: int, *, bias: bool = True) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10, bias=bias))
    return Model.of(net, nn.functional.cross_entropy, FORM)


def round_of(
    model: Model, n: int, seed: int, client: Client | None = None
) -> tuple[Observation, torch.Tensor]:
    rng = stream(seed, "data")
    x = torch.randn(n, 20, generator=rng)
    y = torch.randint(10, (n,), generator=rng)
    client = client or FedSGD()
    return observe(model, Batch(x, y), client, stream(seed, "client")), y.sort().values


@pytest.mark.parametrize("rule", [IDLG(), Yin(), Impact(), Counts(), Counts("noise")])
@pytest.mark.parametrize("seed", range(5))
def test_one_example_is_exact(rule: Rule, seed: int) -> None:
    seen, y = round_of(network(seed), 1, seed)
    assert torch.equal(rule(seen, 1, stream(seed, "attack")), y)


@pytest.mark.parametrize("rule", [Counts(), Counts("noise"), Counts("features")])
@pytest.mark.parametrize("n", [8, 32])
def test_counts_of_an_untrained_network(rule: Rule, n: int) -> None:
    sample, scores = zoo.digits(200), []
    for seed in range(10):
        net = zoo.mlp(64, 128, 64, 10, activation="relu", seed=seed)
        model = Model.of(net, nn.functional.cross_entropy, sample.form)
        chosen = torch.randint(200, (n,), generator=stream(seed, "data"))
        batch = Batch(sample.x[chosen], sample.y[chosen])
        seen = observe(model, batch, FedSGD(), stream(seed, "client"))
        scores.append(labels.overlap(rule(seen, n, stream(seed, "attack")), batch.y))
    assert sum(scores) / len(scores) > 0.97
    assert sum(scores) / len(scores) > labels.chance(n, 10) + 0.2


def test_the_identity_is_exact_with_the_true_prediction() -> None:
    model = network(0)
    model = model.replaced(tree.mapped(lambda p: 3 * p, model.params))  # confident and wrong
    for seed in range(20):
        rng = stream(seed, "data")
        x, y = torch.randn(32, 20, generator=rng), torch.randint(10, (32,), generator=rng)
        seen = observe(model, Batch(x, y), FedSGD(), stream(seed, "client"))
        gradient = head_of(seen).bias_gradient
        found = labels.rounded(32 * (labels.mean_prediction(seen, x) - gradient), 32)
        assert torch.equal(found, y.sort().values)
        assert labels.certainty(32 * (labels.mean_prediction(seen, x) - gradient)) < 1e-4


def test_duplicates_defeat_yin_and_not_counts() -> None:
    model = network(1)
    y = torch.tensor([4, 4, 4, 4, 7, 7, 2, 2])
    x = torch.randn(8, 20, generator=stream(0, "data"))
    seen = observe(model, Batch(x, y), FedSGD(), stream(0, "client"))
    assert torch.equal(Counts()(seen, 8, stream(0, "a")), y.sort().values)
    assert labels.overlap(Yin()(seen, 8, stream(0, "a")), y) < 0.5


def test_without_a_bias_counts_still_beat_chance() -> None:
    scores = []
    for seed in range(10):
        seen, y = round_of(network(seed, bias=False), 8, seed)
        scores.append(labels.overlap(Counts()(seen, 8, stream(seed, "attack")), y))
    assert sum(scores) / len(scores) > 0.9


def test_the_bias_alone_is_enough() -> None:
    seen, y = round_of(network(2), 8, 3, Only(FedSGD(), "2.bias"))
    assert torch.equal(Counts()(seen, 8, stream(0, "a")), y)
    with pytest.raises(InvalidInput, match="does not hold it"):
        Yin()(seen, 8, stream(0, "a"))


def test_local_steps_are_divided_out() -> None:
    scores = []
    for seed in range(10):
        client = FedAvg(epochs=2, batch_size=4, lr=0.01)
        seen, y = round_of(network(seed), 8, seed, client)
        scores.append(labels.overlap(Counts()(seen, 8, stream(0, "a")), y))
    assert sum(scores) / len(scores) > 0.97


@pytest.mark.parametrize(("n", "classes"), [(1, 7), (8, 10), (32, 10)])
def test_chance_is_what_guessing_scores(n: int, classes: int) -> None:
    rng = stream(0, "chance")
    draws = torch.randint(classes, (4000, 2, n), generator=rng)
    measured = sum(labels.overlap(a, b) for a, b in draws) / len(draws)
    assert measured == pytest.approx(labels.chance(n, classes), abs=0.01)


def test_rounding_keeps_the_number_and_the_order() -> None:
    rng = stream(0, "rounding")
    for _ in range(200):
        n = int(torch.randint(1, 40, (), generator=rng))
        found = labels.rounded(5 * torch.randn(6, generator=rng), n)
        assert len(found) == n
        assert torch.equal(found, found.sort().values)


def test_told_chance_and_joint() -> None:
    model = network(0)
    seen, y = round_of(model, 4, 0)
    with pytest.raises(InvalidInput, match="tell=\\('n', 'y'\\)"):
        Told()(seen, 4, stream(0, "a"))
    told = Observation(model, FedSGD(), seen.update, 4, y)
    assert torch.equal(Told()(told, 4, stream(0, "a")), y)
    assert torch.equal(Chance()(seen, 4, stream(1, "a")), Chance()(seen, 4, stream(1, "a")))
    assert Joint()(seen, 4, stream(0, "a")).shape == (4, 10)


def test_refusals_name_the_remedy() -> None:
    seen, _ = round_of(network(0), 12, 0)
    with pytest.raises(InvalidInput, match="Use Counts"):
        Yin()(seen, 12, stream(0, "a"))
    with pytest.raises(InvalidInput, match="Use Counts"):
        IDLG()(seen, 12, stream(0, "a"))
    hidden, _ = round_of(network(0), 4, 0, Only(FedSGD(), "0.*"))
    with pytest.raises(InvalidInput, match="does not hold the last layer"):
        Counts()(hidden, 4, stream(0, "a"))
    with pytest.raises(InvalidInput, match="no such bias"):
        Counts("features")(round_of(network(0, bias=False), 4, 0)[0], 4, stream(0, "a"))
    with pytest.raises(InvalidInput, match="'uniform' or 'noise'"):
        Counts("truth")
