"""What the crafted rows give back, and that a certificate is never wrong."""

import dataclasses
from typing import Any

import pytest
import torch
from crafted import CLASSES, PUBLIC, attacked, cells, private, psnr, small, wrong
from torch import nn

from seepage import zoo
from seepage.analysis import expected
from seepage.attacks import Imprint
from seepage.attacks.imprint.block import block_of
from seepage.attacks.imprint.peel import on_grid, peel
from seepage.attacks.imprint.placement import disarmed
from seepage.clients import FedSGD, SecureSum
from seepage.core import observe, stream
from seepage.defenses import Noise
from seepage.metrics.match import distances


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


def test_batch_normalisation_in_training_mode_hides_nothing_from_rows_at_the_input() -> None:
    sample = private(32, 32)
    model = sample.model(zoo.convnet(4, classes=CLASSES, seed=0))
    attack = Imprint(bins=64, public=PUBLIC.x)
    crafted, found = attacked(attack, model, sample.batch, FedSGD("train"))
    alone = expected.peeled(cells(crafted, sample.x))
    assert abs(sum(found.trace["certified"]) - alone) <= 1
    assert wrong(found, sample.x) == 0


def test_small_gradients_are_read_once_the_weights_of_the_others_are_fitted() -> None:
    sample = private(192, 33)
    attack = Imprint(bins=288, directions=3, public=PUBLIC.x)
    crafted = attack.craft(private(1, 0).model(small()), stream(3, "craft"))
    _, _, notes = block_of(crafted.module)
    x = sample.x.flatten(1)
    above = (notes.measures @ x.double().T)[notes.direction] >= notes.lower[:, None]
    rng = stream(3, "gradients")
    g = (torch.rand(192, generator=rng) + 0.5) * (torch.randint(2, (192,), generator=rng) * 2 - 1)
    g[::24] = 0.004
    fired = above.float() * g
    found = peel((fired @ x, fired.sum(1)), notes, 192, nested=True, rule=on_grid(notes))
    missing = distances(sample.x, found.x[found.certified].view(-1, 3, 32, 32)).amin(1) > 1e-12
    assert int(missing.sum()) <= 192 - expected.peeled(cells(crafted, sample.x))
    assert not bool(missing[::24].any())
    careless = peel(
        (fired @ x, fired.sum(1)),
        notes,
        192,
        nested=True,
        rule=dataclasses.replace(on_grid(notes), exact=False),
    )
    assert int(careless.certified.sum()) < int(found.certified.sum())
