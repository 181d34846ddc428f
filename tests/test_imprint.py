"""Malicious servers: what the crafted rows give back, and that a certificate is never wrong."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seepage import expr, zoo
from seepage.analysis import expected
from seepage.attacks import Counted, Imprint, OneShot, SparseImprint, Trap
from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import block_of
from seepage.attacks.imprint.carry import pack, unpack
from seepage.attacks.imprint.certificate import Grid, Levels
from seepage.attacks.imprint.placement import disarmed
from seepage.clients import FedAvg, FedSGD, Only, SecureSum
from seepage.core import Batch, Model, Reconstruction, observe, stream
from seepage.defenses import Noise
from seepage.errors import InvalidInput
from seepage.forms import Column, Images, Table, Tokens
from seepage.metrics.match import assign, distances

CLASSES = 100
PUBLIC = zoo.photos(800, 32, split="public", seed=77).normalised()


def private(n: int, seed: int) -> zoo.Sample:
    return zoo.photos(n, 32, seed=seed).relabelled(CLASSES, seed=seed).normalised()


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, CLASSES),
    )


def attacked(
    attack: Any, model: Model, batch: Batch, client: Any = None, seed: int = 0
) -> tuple[Model, Reconstruction]:
    crafted = attack.craft(model, stream(seed, "craft"))
    seen = observe(crafted, batch, client or FedSGD(), stream(seed, "client"))
    return crafted, attack(seen, stream(seed, "attack"))


def psnr(found: Reconstruction, sample: zoo.Sample) -> Tensor:
    """(n,) of each truth's own candidate, -inf where it has none."""
    form = sample.form
    assert isinstance(form, Images)
    errors = distances(form.show(sample.x), form.show(found.x))
    matched = assign(errors)
    values = -10 * errors.clamp_min(1e-20).log10()
    best = values.gather(1, matched.clamp_min(0)[:, None])[:, 0]
    return best.masked_fill(matched < 0, -torch.inf)


def wrong(found: Reconstruction, x: Tensor) -> int:
    """Certified candidates that are no private example."""
    sure = torch.tensor(found.trace["certified"], dtype=torch.bool)
    nearest = (
        distances(found.x[sure].double(), x.double()).amin(1) if sure.any() else x.new_zeros(0)
    )
    return int((nearest > 1e-9).sum())


def cells(crafted: Model, x: Tensor) -> Tensor:
    """(P, n) the bin of each private example in each direction, by brute force."""
    _, _, notes = block_of(crafted.module)
    h = x.flatten(1).double() @ notes.measures.T
    rows = [
        torch.searchsorted(notes.lower[notes.direction == p].sort().values, h[:, p].contiguous())
        for p in range(len(notes.measures))
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("connection", ["add", "linear"])
@pytest.mark.parametrize("measure", ["fine", "randn", "avg", "dct:32"])
def test_certified_are_the_singletons_and_nothing_else(measure: str, connection: Any) -> None:
    sample = private(32, 1)
    attack = Imprint(bins=64, measure=measure, connection=connection, public=PUBLIC.x)
    crafted, found = attacked(attack, sample.model(small()), sample.batch)
    alone = expected.peeled(cells(crafted, sample.x))
    sure = sum(found.trace["certified"])
    assert abs(sure - alone) <= 1
    assert wrong(found, sample.x) == 0
    assert abs(int((psnr(found, sample) > 60).sum()) - alone) <= 1
    assert alone >= 8


def test_singletons_follow_the_occupancy_law_over_many_batches() -> None:
    k, n = 64, 32
    attack = Imprint(bins=k, public=PUBLIC.x)
    crafted = attack.craft(private(1, 0).model(small()), stream(0, "craft"))
    counts = [expected.peeled(cells(crafted, private(n, seed).x)) for seed in range(20, 32)]
    mean = sum(counts) / len(counts)
    error = (expected.variance(n, k) / len(counts)) ** 0.5
    assert abs(mean - expected.singletons(n, k)) < 4 * error


def test_certified_images_are_exact_to_the_bit_of_their_grid() -> None:
    sample = private(16, 3)
    _, found = attacked(Imprint(bins=64, public=PUBLIC.x), sample.model(small()), sample.batch)
    sure = torch.tensor(found.trace["certified"])
    errors = distances(found.x[sure], sample.x)
    assert float(errors.amin(1).max()) < 1e-12
    assert bool(sure[: int(sure.sum())].all())
    assert bool((found.belief[:-1] >= found.belief[1:]).all())


@pytest.mark.parametrize("seed", range(3))
def test_three_directions_find_what_the_combinatorial_peel_finds(seed: int) -> None:
    sample = private(64, 40 + seed)
    attack = Imprint(bins=128, directions=3, public=PUBLIC.x)
    crafted, found = attacked(attack, sample.model(small()), sample.batch, seed=seed)
    sure = sum(found.trace["certified"])
    assert sure >= expected.peeled(cells(crafted, sample.x)) - 1
    assert sure >= 62
    assert wrong(found, sample.x) == 0


def test_rows_left_over_go_to_the_first_directions() -> None:
    crafted = Imprint(bins=32, directions=3, public=PUBLIC.x).craft(
        private(1, 0).model(small()), stream(0, "craft")
    )
    _, _, notes = block_of(crafted.module)
    assert torch.bincount(notes.direction).tolist() == [11, 11, 10]


@pytest.mark.parametrize("variant", [{"permute": True}, {"decoys": 8, "measure": "avg"}])
def test_disguised_rows_still_read_most_singletons(variant: dict[str, Any]) -> None:
    sample = private(32, 5)
    plain = Imprint(bins=64, measure=variant.get("measure", "fine"), public=PUBLIC.x)
    hidden = dataclasses.replace(plain, **variant)
    model = sample.model(small())
    _, found = attacked(plain, model, sample.batch)
    _, disguised = attacked(hidden, model, sample.batch)
    exact = int((psnr(found, sample) > 60).sum())
    assert int((psnr(disguised, sample) > 25).sum()) >= 0.75 * exact
    assert wrong(disguised, sample.x) == 0


def test_decoys_give_the_rows_full_rank() -> None:
    crafted = Imprint(bins=32, measure="avg", decoys=4, public=PUBLIC.x).craft(
        private(1, 0).model(small()), stream(0, "craft")
    )
    values = torch.linalg.svdvals(crafted.params["block.linear.weight"])
    assert int((values > 1e-5 * values[0]).sum()) == 36


def test_a_disarmed_model_has_ordinary_rows_and_can_be_armed_by_parameters() -> None:
    sample = private(16, 6)
    attack = Imprint(bins=64, public=PUBLIC.x)
    armed = attack.craft(sample.model(small()), stream(0, "craft"))
    dormant = disarmed(armed, stream(0, "disarm"))
    rows = dormant.params["block.linear.weight"]
    assert torch.linalg.matrix_rank(rows) == len(rows)
    seen = observe(dormant, sample.batch, FedSGD(), stream(0, "client"))
    assert attack(seen, stream(0, "attack")).note.startswith("not recovered")
    again = dormant.with_params(armed.params)
    seen = observe(again, sample.batch, FedSGD(), stream(0, "client"))
    assert "certified" in attack(seen, stream(0, "attack")).note


def test_a_crafted_model_trains_and_predicts_like_any_other() -> None:
    sample = private(16, 7)
    crafted = Imprint(bins=32, public=PUBLIC.x).craft(sample.model(small()), stream(0, "craft"))
    module = crafted.module.train()
    plan = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        plan.zero_grad()
        loss = nn.functional.cross_entropy(module(sample.x), sample.y)
        loss.backward()
        plan.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert crafted.predict(sample.x).shape == (16, CLASSES)


def test_craft_keeps_the_users_model_and_its_current_parameters() -> None:
    sample = private(4, 8)
    model = sample.model(small())
    moved = model.with_params({name: p + 0.1 for name, p in model.params.items()})
    before = {name: p.clone() for name, p in moved.params.items()}
    crafted = Imprint(bins=8, public=PUBLIC.x).craft(moved, stream(0, "craft"))
    for name, p in moved.params.items():
        assert torch.equal(p, before[name])
        assert torch.equal(crafted.params[f"inner.{name}"], p)


def test_gradients_of_several_users_summed_give_the_same_images() -> None:
    sample = private(32, 9)
    attack = Imprint(bins=64, public=PUBLIC.x)
    model = sample.model(small())
    _, alone = attacked(attack, model, sample.batch)
    _, summed = attacked(attack, model, sample.batch, SecureSum(FedSGD(), users=4))
    assert sum(summed.trace["certified"]) == sum(alone.trace["certified"]) > 8


def test_noise_voids_the_certificate_and_the_attack_says_so() -> None:
    sample = private(16, 10)
    noisy = Noise(FedSGD(), std=1e-2, relative=True)
    attack = Imprint(bins=32, public=PUBLIC.x)
    _, found = attacked(attack, sample.model(small()), sample.batch, noisy)
    assert found.note.startswith("not recovered")
    assert not any(found.trace["certified"])


def test_a_pair_of_moments_stands_for_public_data() -> None:
    sample = private(32, 11)
    w = torch.randn(3 * 32 * 32, generator=stream(0, "w")) / 3072
    h = PUBLIC.x.flatten(1) @ w
    pair = float(h.mean()), float(h.std())
    by_samples, by_pair = (
        attacked(Imprint(bins=64, measure=w, public=p), sample.model(small()), sample.batch)[1]
        for p in (PUBLIC.x, pair)
    )
    counts = [sum(found.trace["certified"]) for found in (by_samples, by_pair)]
    assert abs(counts[0] - counts[1]) <= 3
    assert min(counts) >= 8


@pytest.mark.parametrize("at", ["layer3", "layer4", "avgpool"])
def test_a_resnet_carries_the_image_to_deep_layers_by_parameters_alone(at: str) -> None:
    sample = private(6, 12)
    net = zoo.resnet18("cifar", classes=CLASSES, seed=0)
    attack = Imprint(bins=16, at=at, public=PUBLIC.x[:64])
    crafted, found = attacked(attack, sample.model(net), sample.batch)
    _, _, notes = block_of(crafted.module)
    reached: list[Tensor] = []
    block = crafted.module.get_submodule(f"{at}.block")
    handle = block.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    with torch.no_grad():
        crafted.module(sample.x)
    handle.remove()
    carried = notes.reader.examples(reached[0].flatten(1))
    assert float((carried - sample.x.flatten(1)).abs().max()) < 1e-5
    assert sum(found.trace["certified"]) >= 1
    assert wrong(found, sample.x) == 0


def test_a_pooling_stem_loses_resolution_and_certifies_nothing_false() -> None:
    sample = zoo.photos(4, 64, seed=13).relabelled(CLASSES).normalised()
    public = zoo.photos(48, 64, split="public", seed=5).normalised()
    net = zoo.resnet18("imagenet", classes=CLASSES, seed=0)
    _, found = attacked(
        Imprint(bins=16, at="layer2", public=public.x), sample.model(net), sample.batch
    )
    assert found.x.shape[1:] == (3, 64, 64)
    assert wrong(found, sample.x) == 0
    assert 8 < float(psnr(found, sample).max()) < 40


def test_packing_keeps_every_pixel() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(unpack(pack(x)), x)
    conv = nn.functional.conv2d(x, _phase_weights(), stride=2, padding=1)
    assert torch.allclose(conv, pack(x))


def _phase_weights() -> Tensor:
    weights = torch.zeros(12, 3, 3, 3)
    for dy, dx, c in itertools.product((0, 1), (0, 1), range(3)):
        weights[(2 * dy + dx) * 3 + c, c, 1 + dy, 1 + dx] = 1
    return weights


def people(n: int, seed: int, numbers: int = 5) -> tuple[Batch, Table]:
    groups = tuple(Column(f"g{i}", ("a", "b", "c", "d")) for i in range(5))
    form = Table((*(Column(f"x{i}") for i in range(numbers)), *groups), classes=2)
    rng = stream(seed, "people")
    parts = [torch.randn(n, numbers, generator=rng)] + [
        nn.functional.one_hot(torch.randint(4, (n,), generator=rng), 4).float() for _ in groups
    ]
    return Batch(torch.cat(parts, 1), torch.randint(2, (n,), generator=rng)), form


def test_tables_are_certified_by_their_one_hot_groups() -> None:
    batch, form = people(64, 0)
    public, _ = people(3000, 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(25, 16), nn.Tanh(), nn.Linear(16, 2))
    model = Model.of(net, nn.functional.cross_entropy, form)
    attack = Imprint(bins=128, public=public.x)
    crafted, found = attacked(attack, model, batch)
    alone = expected.peeled(cells(crafted, batch.x))
    assert abs(sum(found.trace["certified"]) - alone) <= 1
    assert wrong(found, batch.x) == 0


def test_a_table_of_numbers_alone_has_no_certificate_and_says_so() -> None:
    form = Table(tuple(Column(f"x{i}") for i in range(6)), classes=2)
    x = torch.randn(8, 6, generator=stream(0, "x"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    model = Model.of(net, nn.functional.cross_entropy, form)
    public = torch.randn(500, 6, generator=stream(1, "x"))
    _, found = attacked(Imprint(bins=64, public=public), model, Batch(x, torch.arange(8) % 2))
    assert "no grid" in found.note
    assert int((distances(x, found.x).amin(1) < 1e-9).sum()) >= 3


def test_sentences_are_read_from_embedded_words() -> None:
    length, width, vocab = 8, 12, 50
    form = Tokens(length, vocab, pad=0, classes=3)
    torch.manual_seed(0)
    net = Sentences(vocab, length, width)
    rng = stream(0, "ids")
    ids, public = (torch.randint(vocab, (m, length), generator=rng) for m in (32, 1500))
    model = Model.of(net, nn.functional.cross_entropy, form)
    batch = Batch(ids, torch.randint(3, (32,), generator=rng))
    attack = Imprint(bins=64, at="head", public=public)
    _, found = attacked(attack, model, batch)
    sure = torch.tensor(found.trace["certified"])
    assert int(sure.sum()) >= 8
    assert found.x.dtype == torch.long
    assert all(bool((ids == row).all(1).any()) for row in found.x[sure])


class Sentences(nn.Module):
    """Words and positions embedded, then one hidden layer."""

    def __init__(self, vocab: int, length: int, width: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(length * width, 16), nn.Tanh())
        self.out = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.words(ids) + self.places.weight
        result: Tensor = self.out(self.head(embedded))
        return result


def held(attack: OneShot, model: Model, x: Tensor) -> int:
    """How many private examples fall into the one narrow bin."""
    _, _, notes = block_of(attack.craft(model, stream(0, "craft")).module)
    h = x.flatten(1).double() @ notes.measures[0]
    return int(((h >= notes.lower[0]) & (h < notes.upper[0])).sum())


@pytest.mark.parametrize("rows", ["clamp", "pair"])
def test_one_shot_reads_an_example_out_of_hundreds_when_one_is_in_its_bin(rows: Any) -> None:
    attack = OneShot(n=300, rows=rows, measure="randn", public=PUBLIC.x)
    drawn = (private(300, seed) for seed in range(60, 75))
    model = private(1, 0).model(small())
    sample = next(s for s in drawn if held(attack, model, s.x) == 1)
    client = SecureSum(FedSGD(), users=3)
    _, found = attacked(attack, model, sample.batch, client)
    assert len(found) == 1
    assert float(psnr(found, sample).max()) > (145 if rows == "clamp" else 80)
    assert wrong(found, sample.x) == 0


def test_one_shot_says_when_its_bin_holds_several_or_none() -> None:
    attack = OneShot(n=60, measure="randn", public=PUBLIC.x)
    model = private(1, 0).model(small())
    for seed in range(5):
        sample = private(60, 80 + seed)
        _, found = attacked(attack, model, sample.batch)
        sure = held(attack, model, sample.x) == 1
        assert found.note.startswith("not recovered") != sure


@pytest.mark.parametrize("offset", ["frozen", "buffer"])
def test_sparse_rows_survive_federated_averaging_in_single_precision(offset: Any) -> None:
    sample = private(32, 20)
    client = FedAvg(epochs=1, batch_size=8, lr=1e-4)
    model = sample.model(small())
    # The same photographs here: average brightness does not carry over to others.
    public = zoo.photos(800, 32, seed=78).normalised()
    fitted = SparseImprint(bins=64, measure="avg", offset=offset, public=public.x)
    plain = dataclasses.replace(fitted, gain=1.0, offset="bias", scale="bias")
    exact, poor = (
        psnr(attacked(attack, model, sample.batch, client)[1], sample) for attack in (fitted, plain)
    )
    assert int((exact > 60).sum()) >= 8
    assert int((exact > 60).sum()) > int((poor > 60).sum())


@pytest.mark.parametrize("offset", ["buffer", "feature", "bias"])
def test_rescaling_leaves_the_function_of_the_network_unchanged(offset: Any) -> None:
    sample = private(8, 21)
    model = sample.model(small())
    attack = SparseImprint(bins=32, public=PUBLIC.x, offset=offset, gain=1.0)
    outputs = [
        dataclasses.replace(attack, gain=gain).craft(model, stream(0, "craft")).predict(sample.x)
        for gain in (1.0, 300.0)
    ]
    assert torch.allclose(*outputs, atol=1e-3)


@pytest.mark.parametrize("offset", ["frozen", "buffer"])
def test_sparse_rows_undo_momentum_and_weight_decay_and_refuse_adam(offset: Any) -> None:
    sample = private(24, 22)
    model = sample.model(small())
    public = zoo.photos(800, 32, seed=78).normalised()
    attack = SparseImprint(bins=64, measure="avg", offset=offset, public=public.x)
    kinds = {"momentum": 0.9}, {"weight_decay": 5e-4}
    for kind in kinds:
        client = FedAvg(epochs=1, batch_size=8, lr=1e-4, **kind)
        _, found = attacked(attack, model, sample.batch, client)
        assert int((psnr(found, sample) > 40).sum()) >= 6
    client = FedAvg(epochs=1, batch_size=8, lr=1e-4, optimizer="adam")
    _, found = attacked(attack, model, sample.batch, client)
    assert found.note.startswith("not recovered: Adam")


def test_three_directions_are_peeled_under_federated_averaging_too() -> None:
    sample = private(64, 28)
    client = FedAvg(epochs=2, batch_size=8, lr=1e-3, momentum=0.9)
    attack = SparseImprint(bins=128, directions=3, public=PUBLIC.x)
    _, found = attacked(attack, sample.model(small()), sample.batch, client)
    assert sum(found.trace["certified"]) >= 58
    assert wrong(found, sample.x) == 0


def test_counts_certify_data_without_a_grid() -> None:
    sample = private(64, 29)
    x = sample.x + 0.05 * torch.randn(sample.x.shape, generator=stream(0, "augmented"))
    model, batch = sample.model(small()), Batch(x, sample.y)
    _, grid = attacked(Imprint(bins=128, directions=3, public=PUBLIC.x), model, batch)
    assert not any(grid.trace["certified"])
    crafted, found = attacked(Counted(bins=128, public=PUBLIC.x), model, batch)
    sure = torch.tensor(found.trace["certified"])
    assert int(sure.sum()) >= expected.peeled(cells(crafted, x)) - 1
    assert int(sure.sum()) >= 60
    assert float(distances(found.x[sure], x).amin(1).max()) < 1e-6
    assert float(crafted.risk(crafted.params, batch)) > 30


def test_counts_need_the_number_of_examples_and_a_classifier() -> None:
    sample = private(4, 30)
    attack = Counted(bins=8, directions=1, public=PUBLIC.x)
    crafted = attack.craft(sample.model(small()), stream(0, "craft"))
    seen = observe(crafted, sample.batch, FedSGD(), stream(0, "client"), tell=())
    with pytest.raises(InvalidInput, match="number of examples"):
        attack(seen, stream(0, "attack"))
    maps = nn.Sequential(nn.Conv2d(3, 2, 1))
    with pytest.raises(InvalidInput, match="classifier"):
        attack.craft(sample.model(maps), stream(0, "craft"))


def test_several_directions_are_refused_where_the_image_is_carried() -> None:
    sample = private(2, 31)
    net = zoo.resnet18("cifar", classes=CLASSES, seed=0)
    attack = Imprint(bins=8, directions=2, at="layer1", public=PUBLIC.x[:32])
    with pytest.raises(InvalidInput, match="at the input"):
        attack.craft(sample.model(net), stream(0, "craft"))


def test_traps_isolate_examples_and_certify_no_mixture() -> None:
    sample = private(64, 23)
    attack = Trap(n=64, rows=128, public=PUBLIC.x)
    _, found = attacked(attack, sample.model(small()), sample.batch)
    assert sum(found.trace["certified"]) >= 8
    assert wrong(found, sample.x) == 0


def test_cah_rows_need_inputs_between_zero_and_one() -> None:
    centred = private(32, 24)
    raw = zoo.photos(32, 32, seed=24).relabelled(CLASSES)
    public = zoo.photos(800, 32, seed=79)
    attack = Trap(n=32, kind="cah", public=public.x)
    _, found = attacked(attack, raw.model(small()), raw.batch)
    assert sum(found.trace["certified"]) >= 4
    assert wrong(found, raw.x) == 0
    attack = dataclasses.replace(attack, public=PUBLIC.x)
    _, found = attacked(attack, centred.model(small()), centred.batch)
    assert "cah" in found.note


def test_a_mixture_of_two_photographs_is_never_on_the_grid() -> None:
    sample = private(40, 25)
    grid = Grid(sample.form)  # type: ignore[arg-type]
    share = torch.rand(20, 1, generator=stream(0, "share"))
    left, right = sample.x[:20].flatten(1), sample.x[20:].flatten(1)
    assert bool((grid(share * left + (1 - share) * right)[0] > 1).all())
    off, snapped = grid(left + 1e-5)
    assert bool((off < 1).all())
    assert torch.allclose(snapped, left, atol=1e-6)


def test_levels_refuse_what_is_not_one_hot() -> None:
    batch, form = people(6, 3)
    off, snapped = Levels(form)(batch.x)
    assert bool((off <= 1).all())
    assert torch.equal(snapped, batch.x)
    assert bool((Levels(form)((batch.x + batch.x.flip(0)) / 2)[0] > 1).all())


def test_edges_make_equal_bins_of_the_public_law_whatever_its_scale() -> None:
    h = 7 + 0.01 * torch.randn(20_000, generator=stream(0, "h"), dtype=torch.float64)
    cut = edges.cut(h, 16)
    share = torch.bincount(torch.searchsorted(cut.edges, h), minlength=17)[1:] / len(h)
    assert float((share - 1 / 16).abs().max()) < 0.01
    few = edges.cut(h[:100], 16)
    share = torch.bincount(torch.searchsorted(few.edges, h), minlength=17)[1:] / len(h)
    assert float((share - 1 / 16).abs().max()) < 0.06


def test_equal_edges_are_merged_and_said() -> None:
    h = torch.tensor([0.0] * 900 + [1.0] * 100, dtype=torch.float64)
    cut = edges.cut(h, 8)
    assert cut.merged > 0
    assert bool((cut.edges.diff() > 0).all())


def bad(**fields: Any) -> Callable[[], object]:
    sample = private(2, 0)
    fields = {"bins": 16, "public": PUBLIC.x} | fields
    return lambda: Imprint(**fields).craft(sample.model(small()), stream(0, "craft"))


@pytest.mark.parametrize(
    ("wrong_use", "words"),
    [
        (bad(public=None), "public"),
        (bad(public=PUBLIC.x[:3], bins=128), "too few"),
        (bad(public=PUBLIC.x[:1].expand(50, -1, -1, -1)), "constant"),
        (bad(public=(0.0, 0.0)), "constant"),
        (bad(public=PUBLIC.x[:, :, :8]), r"\(m, 3, 32, 32\)"),
        (bad(public=PUBLIC.x * float("nan")), "NaN"),
        (bad(at="layer9"), "no layer"),
        (bad(at="2"), "at=''"),
        (bad(bins=1), "bins"),
        (bad(bins=4, directions=3), "directions"),
        (bad(measure="median"), "measure"),
        (bad(measure="avg", directions=2), "directions"),
        (bad(measure=torch.ones(5)), "measure"),
        (lambda: OneShot(public=(0.0, 1.0)), "OneShot.n"),
        (lambda: Trap(public=PUBLIC.x), "Trap.n"),
    ],
)
def test_bad_input_names_the_field_and_the_remedy(
    wrong_use: Callable[[], object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        wrong_use()


def test_a_form_that_does_not_fit_the_network_is_refused() -> None:
    model = Model.of(small(), nn.functional.cross_entropy, Images((3, 40, 40), classes=CLASSES))
    with pytest.raises(InvalidInput, match="form"):
        Imprint(bins=8, public=(0.0, 1.0)).craft(model, stream(0, "craft"))


def test_an_update_without_the_rows_or_an_honest_model_is_refused() -> None:
    sample = private(4, 26)
    model = sample.model(small())
    attack = Imprint(bins=8, public=PUBLIC.x)
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match="craft"):
        attack(seen, stream(0, "attack"))
    with pytest.raises(InvalidInput, match="did not share"):
        attacked(attack, model, sample.batch, Only(FedSGD(), "inner.*"))


ATTACKS = [
    Imprint(bins=8, public=(0.0, 0.3)),
    Imprint(bins=12, directions=2, permute=True, public=(0.0, 0.3)),
    OneShot(n=4, public=(0.0, 0.3)),
    SparseImprint(bins=8, public=(0.0, 0.3)),
    SparseImprint(bins=8, offset="bias", gain=3.0, public=(0.0, 0.3)),
    Counted(bins=8, directions=2, public=(0.0, 0.3)),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_attacks_are_values_that_repeat_themselves_and_keep_type(attack: Any) -> None:
    assert expr.read(repr(attack)) == attack
    sample = private(4, 27)
    model = sample.model(small().double())
    batch = Batch(sample.x.double(), sample.y)
    first, again = (attacked(attack, model, batch)[1] for _ in range(2))
    assert torch.equal(first.x, again.x)
    assert first.x.dtype == torch.float64
    assert first.note == again.note
