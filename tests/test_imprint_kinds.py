"""One example of thousands, federated averaging, counts, and traps."""

import dataclasses
from typing import Any

import pytest
import torch
from crafted import CLASSES, PUBLIC, attacked, cells, private, psnr, small, wrong
from torch import Tensor, nn

from seepage import zoo
from seepage.analysis import expected
from seepage.attacks import Counted, Imprint, OneShot, SparseImprint, Trap
from seepage.attacks.imprint.block import block_of
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Batch, Model, observe, stream
from seepage.errors import InvalidInput
from seepage.metrics.match import distances


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


def test_counts_hold_before_networks_that_are_very_sure_of_themselves() -> None:
    sample = private(32, 34)
    network = small()
    nn.init.constant_(network[-1].bias, 0.0)  # type: ignore[index,arg-type]
    network[-1].weight.data *= 300  # type: ignore[index,union-attr]
    model = sample.model(network)
    assert float(model.predict(sample.x).amax(1).min()) > 30
    crafted, found = attacked(Counted(bins=64, directions=1, public=PUBLIC.x), model, sample.batch)
    sure = torch.tensor(found.trace["certified"])
    assert int(sure.sum()) == expected.peeled(cells(crafted, sample.x))
    assert float(distances(found.x[sure], sample.x).amin(1).max()) < 1e-6


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
