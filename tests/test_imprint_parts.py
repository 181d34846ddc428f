"""Certificates, edges, errors, and attacks as values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from crafted import CLASSES, PUBLIC, attacked, people, private, small
from torch import nn

from seepage import expr, zoo
from seepage.attacks import Counted, Imprint, OneShot, SparseImprint, Trap
from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import gradients
from seepage.attacks.imprint.certificate import Grid, Levels
from seepage.attacks.imprint.invert import invert
from seepage.clients import FedSGD, Only
from seepage.core import Batch, Model, observe, stream
from seepage.errors import InvalidInput
from seepage.forms import Images


def test_a_mixture_of_two_photographs_is_never_on_the_grid() -> None:
    sample = private(40, 25)
    grid = Grid(sample.form)  # type: ignore[arg-type]
    share = torch.rand(20, 1, generator=stream(0, "share"))
    left, right = sample.x[:20].flatten(1), sample.x[20:].flatten(1)
    assert bool((grid(share * left + (1 - share) * right)[0] > 1).all())
    off, snapped = grid(left + 1e-5)
    assert bool((off < 1).all())
    assert torch.allclose(snapped, left, atol=1e-6)


def test_inversion_is_the_quotient_of_neighbouring_rows_and_leaves_the_update_alone() -> None:
    sample = zoo.photos(24, 96, seed=33).relabelled(CLASSES, seed=33).normalised()
    net = nn.Sequential(nn.AdaptiveAvgPool2d(32), small())
    public = zoo.photos(200, 96, seed=34).normalised()
    crafted = Imprint(bins=32, public=public.x).craft(sample.model(net), stream(0, "craft"))
    seen = observe(crafted, sample.batch, FedSGD(), stream(0, "client"))
    weight, bias, notes = gradients(seen)
    before = weight.clone()
    found = invert(weight, bias, notes, None)
    assert torch.equal(weight, before)
    # Rows come out of `craft` in the order of their edges.
    rows = torch.cat([weight, weight[:1] * 0]).double()
    counts = torch.cat([bias, bias[:1] * 0]).double()
    quotients = rows.diff(dim=0) / counts.diff()[:, None]
    exact = quotients[found.bin]
    assert int(found.certified.sum()) >= 8
    assert int((~found.certified).sum()) >= 2
    assert torch.allclose(found.x.double(), exact, atol=1e-2)
    mixed = ~found.certified & (found.size > 1e-3 * found.size.max())
    assert torch.allclose(found.x[mixed].double(), exact[mixed], rtol=1e-3, atol=1e-4)
    # Sizes are estimated by a glance: they only order the candidates.
    lengths = rows.diff(dim=0)[found.bin].norm(dim=1)
    assert torch.allclose(found.size[:8], lengths[:8], rtol=0.3)
    assert bool((found.residual[found.certified] < 1e-3).all())
    assert bool((found.residual[mixed] > 1e-3).all())


@pytest.mark.parametrize(
    ("form", "enter"),
    [
        (Images((3, 16, 16), 2), lambda levels: levels / 255),
        (Images((3, 16, 16), 2, low=-1.0), lambda levels: levels / 127.5 - 1),
        (Images((3, 16, 16), 2, high=255.0), lambda levels: levels),
        (
            Images((1, 16, 16), 2, mean=(0.3,), std=(0.7,)),
            lambda levels: (levels[:, :1] / 255 - 0.3) / 0.7,
        ),
    ],
)
def test_snapped_images_are_the_clients_own_bits(form: Images, enter: Any) -> None:
    levels = torch.randint(256, (4, 3, 16, 16), generator=stream(0, "levels")).float()
    x = enter(levels).flatten(1)
    noise = 1e-6 * x.std() * torch.randn(x.shape, generator=stream(1, "noise"))
    off, snapped = Grid(form)(x + noise)
    assert bool((off < 1).all())
    assert torch.equal(snapped, x)


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
