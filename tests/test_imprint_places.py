"""Rows inside a ResNet, before tables and behind embedded words."""

import itertools

import pytest
import torch
from crafted import CLASSES, PUBLIC, attacked, cells, people, private, psnr, wrong
from torch import Tensor, nn

from seepage import zoo
from seepage.analysis import expected
from seepage.attacks import Imprint
from seepage.attacks.imprint.block import block_of
from seepage.attacks.imprint.carry import pack, unpack
from seepage.clients import FedSGD, Only
from seepage.core import Batch, Model, stream
from seepage.forms import Column, Table, Tokens
from seepage.metrics.match import distances


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


def test_batch_statistics_in_the_update_undo_what_train_mode_did_to_carried_images() -> None:
    sample = private(12, 14)
    net = zoo.resnet18("cifar", classes=CLASSES, seed=0)
    model = sample.model(net)
    attack = Imprint(bins=48, at="layer3", public=zoo.photos(96, 32, seed=15).normalised().x)
    _, exact = attacked(attack, model, sample.batch, FedSGD("train"))
    kept_back = Only(FedSGD("train"), "!*.running_*")
    _, rough = attacked(attack, model, sample.batch, kept_back)
    assert sum(exact.trace["certified"]) >= 4
    assert wrong(exact, sample.x) == 0
    assert wrong(rough, sample.x) == 0
    assert int((psnr(exact, sample) > 60).sum()) > int((psnr(rough, sample) > 60).sum())
    assert float(psnr(rough, sample).max()) > 15
