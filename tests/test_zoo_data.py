"""The zoo's data: repeatable, split so that nothing private is public, and of the form they say."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from seepage import zoo
from seepage.errors import InvalidInput
from seepage.forms import Images
from seepage.zoo import photographs


def test_photos_are_repeatable_eight_bit_pictures() -> None:
    before = torch.random.get_rng_state()
    (batch, form), again = zoo.photos(6, 32, seed=5), zoo.photos(6, 32, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(form, Images)
    assert batch.x.shape == (6, *form.shape)
    assert torch.equal(batch.x, again.x)
    levels = batch.x * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert 0 <= batch.x.min() < batch.x.max() <= 1
    assert min(image.std() for image in batch.x) > 0.01
    assert not torch.equal(batch.x, zoo.photos(6, 32, seed=6).x)


def test_more_photos_begin_with_the_fewer_and_sizes_share_their_squares() -> None:
    few, more = zoo.photos(2, 32), zoo.photos(20, 32)
    assert torch.equal(few.x, more.x[:2])
    small = functional.interpolate(zoo.photos(20, 64).x, (32, 32), mode="area")
    assert (small - more.x).abs().mean((1, 2, 3)).max() < 0.03


def test_photos_of_the_two_splits_share_no_photograph() -> None:
    private, public = (set(zoo.photos(40, 8, split).y.tolist()) for split in ("private", "public"))
    assert private == {0, 1, 2, 3}
    assert public == {4, 5, 6, 7}
    assert set(zoo.photos(80, 8, "both").y.tolist()) == private | public


def test_photograph_that_is_not_there_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"does not carry dog\.png"):
        photographs.photograph("dog.png")


@pytest.mark.parametrize(("data", "size"), [(zoo.faces, 25), (zoo.digits, 8)])
def test_splits_are_disjoint_and_complete(data: Callable[..., zoo.Sample], size: int) -> None:
    total = {25: 200, 8: 1797}[size]
    half = (total + 1) // 2
    private, public = data(half, split="private"), data(total - half, split="public")
    rows = [tuple(x.flatten().tolist()) for x in torch.cat([private.x, public.x])]
    shuffled = data(half, split="private", seed=1)
    assert {tuple(x.flatten().tolist()) for x in shuffled.x} == set(rows[:half])
    assert len(set(rows)) == total
    assert private.x.shape[1:] == private.form.shape == (1, size, size)
    assert len(private.y.unique()) == private.form.classes
    with pytest.raises(InvalidInput, match=f"1 to {half}"):
        data(half + 1)


def test_digits_can_be_resized() -> None:
    small, large = zoo.digits(3), zoo.digits(3, 28)
    assert large.x.shape == (3, 1, 28, 28)
    assert torch.equal(small.y, large.y)
    assert (large.x * 255 - (large.x * 255).round()).abs().max() < 1e-4


def test_what_is_a_face_can_be_learned_from_the_public_split() -> None:
    (public, _), (private, _) = zoo.faces(100, "public"), zoo.faces(100)
    x, y = public.x.flatten(1), public.y * 2.0 - 1
    kernel = x @ x.T + 10 * torch.eye(100)  # ridge regression
    guessed = private.x.flatten(1) @ x.T @ torch.linalg.solve(kernel, y) > 0
    assert (guessed == private.y.bool()).float().mean() > 0.8


def test_digits_without_scikit_learn_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InvalidInput, match=r"pip install 'seepage\[demo\]'"):
        zoo.digits(1)


def test_table_decodes_to_the_patients_of_the_source() -> None:
    from sklearn.datasets import load_diabetes

    source = load_diabetes(scaled=False)
    halves = zoo.table(221), zoo.table(221, "public")
    ages = [row["age"] for batch, form in halves for row in map(form.show, batch.x)]
    assert sorted(map(round, ages)) == sorted(source.data[:, 0].astype(int).tolist())
    rows = [form.show(x) for batch, form in halves for x in batch.x]
    heavy = sum(row["body mass"] == "30 or more" for row in rows)
    assert heavy == int((source.data[:, 2] >= 30).sum())
    assert sum(int(half.y.sum()) for half in halves) == int((source.target > 140.5).sum())


def test_table_is_standardised_by_its_public_half() -> None:
    (public, form), (private, same) = zoo.table(221, "public"), zoo.table(221)
    assert form == same
    assert public.x.shape == (221, *form.shape)
    assert public.x[:, :7].mean(0).abs().max() < 1e-3
    assert (public.x[:, :7].std(0) - 1).abs().max() < 1e-3
    for column, part in form.groups():
        if column.levels:
            group = private.x[:, part]
            assert torch.equal(group.sum(1), torch.ones(221))
            assert set(group.unique().tolist()) == {0.0, 1.0}
    assert not {tuple(x) for x in public.x.tolist()} & {tuple(x) for x in private.x.tolist()}


def test_sentences_decode_to_their_texts() -> None:
    batch, form = zoo.sentences(32)
    written = {text.lower().rstrip(".?"): label for text, label in zoo.texts()}
    assert len(written) == 32
    for x, y in zip(batch.x, batch.y, strict=True):
        shown = form.show(x).removeprefix("[START] ").removesuffix(" [END]")
        assert written.pop(shown[:-2].replace(" ,", ",")) == y
    assert not written
    assert batch.y.sum() == 16


def test_sentences_are_padded_on_the_right_and_split() -> None:
    (private, form), (public, same) = zoo.sentences(32), zoo.sentences(16, "public")
    assert form == same
    assert len(form.words) == form.vocab == int(torch.cat([private.x, public.x]).max()) + 1
    real = private.x != form.pad
    assert torch.equal(real, real.long().cummin(1).values.bool())
    assert (private.x[:, 0] == form.start).all()
    assert (private.x.gather(1, real.sum(1, keepdim=True) - 1) == form.end).all()
    assert not set(zoo.texts()) & set(zoo.texts("public"))
    assert not torch.equal(private.x, zoo.sentences(32, seed=1).x)
    with pytest.raises(InvalidInput, match="1 to 32"):
        zoo.sentences(33)


def test_normalised_images_still_show_themselves() -> None:
    raw = zoo.photos(3, 16)
    shifted = raw.normalised()
    assert torch.allclose(shifted.form.show(shifted.x), raw.x, atol=1e-6)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert torch.allclose(shifted.x, (raw.x - mean) / std, atol=1e-6)
    with pytest.raises(InvalidInput, match="once"):
        shifted.normalised()


def test_labels_can_be_chosen() -> None:
    sample = zoo.photos(12, 8)
    assert sample.distinct(1000).y.tolist() == list(range(12))
    assert sample.distinct(1000).form.classes == 1000
    assert sample.distinct().form.classes == 12
    drawn = sample.relabelled(4)
    assert torch.equal(drawn.y, sample.relabelled(4).y)
    assert set(drawn.y.tolist()) <= {0, 1, 2, 3}
    assert torch.equal(sample.signed().y, torch.where(sample.y % 2 == 1, 1, -1))
    with pytest.raises(InvalidInput, match="classes=3"):
        sample.distinct(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.photos(0, 32), "photos.n"),
        (lambda: zoo.photos(1, 0), "photos.size"),
        (lambda: zoo.photos(1, 32, "secret"), "private"),  # type: ignore[arg-type]
        (lambda: zoo.digits(1, split="both"), "public"),  # type: ignore[arg-type]
        (lambda: zoo.digits(1, size=0), "digits.size"),
        (lambda: zoo.table(0), "1 to 221"),
        (lambda: zoo.texts("both"), "private"),  # type: ignore[arg-type]
        (lambda: zoo.sentences(2).normalised(), "Tokens"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()
