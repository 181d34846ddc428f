"""The zoo: what it builds has the published shapes, and what it draws is repeatable and private."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import zoo
from seepage.core import Batch, Model
from seepage.errors import InvalidInput
from seepage.forms import Images
from seepage.zoo import photographs

IMAGE = (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], int, int]] = {
    # name: how to make it, the shape of one example, outputs, parameters counted by hand
    "linear": (lambda seed=None: zoo.linear(64, 10, seed=seed), (1, 8, 8), 10, 650),
    "mlp": (lambda seed=None: zoo.mlp(64, 128, 10, seed=seed), (64,), 10, 9610),
    "two_layer": (lambda seed=None: zoo.two_layer(8, 32, seed=seed), (8,), 1, 321),
    "lenet": (zoo.lenet, IMAGE, 10, 912 + 3 * 3612 + 7690),
    "lenet_leaky": (zoo.lenet_leaky, IMAGE, 1, 900 + 2 * 3600 + 768),
    "cnn6": (zoo.cnn6, IMAGE, 1, 576 + 3888 + 2 * 11664 + 20736 + 73728 + 3200),
    "cnn6_d": (zoo.cnn6_d, IMAGE, 1, 576 + 2160 + 6480 + 11664 + 20736 + 73728 + 3200),
    "strided2": (zoo.strided2, IMAGE, 1, 768 + 9216 + 64 * 81),
    "three_conv": (lambda seed=None: zoo.three_conv(12, 20, seed=seed), (3, 16, 16), 10, 18216),
    "fcn3": (zoo.fcn3, (1, 28, 28), 1, 884100),
    "resnet18": (zoo.resnet18, IMAGE, 10, 11173962),
    "imagenet": (lambda seed=None: zoo.resnet18("imagenet", seed=seed), (3, 64, 64), 10, 11181642),
    "vit": (zoo.vit, IMAGE, 10, 2693578),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_the_published_shape(name: str) -> None:
    make, shape, outputs, parameters = NETWORKS[name]
    network = make(seed=3).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.rand(2, *shape)).shape == (2, outputs)


def test_convnet_has_the_widths_of_the_paper() -> None:
    network = zoo.convnet(16)
    widths = [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
    assert widths == [16, 32, 32, 64, 64, 64, 64, 64]
    kinds = [type(m).__name__ for m in network]
    assert kinds.count("BatchNorm2d") == kinds.count("ReLU") == 8
    assert [i for i, kind in enumerate(kinds) if kind == "MaxPool2d"] == [18, 25]
    assert zoo.convnet(4, 3, (1, 28, 28))(torch.rand(2, 1, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_seed_gives_the_weights_and_leaves_the_global_generator(name: str) -> None:
    make = NETWORKS[name][0]
    before = torch.random.get_rng_state()
    first, again, other = make(seed=7), make(seed=7), make(seed=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    state, others = first.state_dict(), other.state_dict()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in state.items())
    assert any(not torch.equal(t, others[name]) for name, t in state.items())
    torch.manual_seed(7)
    plain = make().state_dict()
    assert all(torch.equal(t, plain[name]) for name, t in state.items())


def test_lenet_spreads_every_parameter_evenly() -> None:
    drawn = torch.cat([p.detach().reshape(-1) for p in zoo.lenet(seed=0).parameters()])
    assert drawn.abs().max() <= 0.5
    assert abs(float(drawn.std()) - 1 / 12**0.5) < 0.01
    plain = zoo.lenet(spread=None, activation="relu", strides=(2, 2, 1), seed=0)
    assert plain.conv1.weight.abs().max() < 75**-0.5 + 1e-6
    assert isinstance(plain.act1, nn.ReLU)


def test_chains_without_bias_have_none() -> None:
    for make in (zoo.cnn6, zoo.cnn6_d, zoo.lenet_leaky, zoo.strided2, zoo.fcn3):
        assert not [name for name, _ in make().named_parameters() if "bias" in name]


def test_fcn3_may_end_in_an_activation() -> None:
    x = torch.rand(8, 1, 28, 28)
    plain, leaky = zoo.fcn3(seed=1), zoo.fcn3("leaky", seed=1)
    assert torch.equal(leaky(x), functional.leaky_relu(plain(x), 0.2))


def test_resnet_blocks_follow_their_definition() -> None:
    torch.manual_seed(0)
    block = zoo.resnet18(seed=2).eval().layer2[0]
    x = torch.rand(2, 64, 8, 8)
    inner = functional.relu(functional.conv2d(x, block.conv1.weight, stride=2, padding=1))
    twice = functional.conv2d(inner / (1 + 1e-5) ** 0.5, block.conv2.weight, padding=1)
    side = functional.conv2d(x, block.downsample[0].weight, stride=2)
    expected = functional.relu((twice + side) / (1 + 1e-5) ** 0.5)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_vit_attends_as_the_formula_says() -> None:
    network = zoo.vit(depth=1, seed=0)
    attention = network.blocks[0].attention
    x = torch.rand(2, 5, 192)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for part in torch.arange(192).split(64):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 8
        heads.append(scores.softmax(-1) @ v[..., part])
    assert torch.allclose(attention(x), attention.out(torch.cat(heads, -1)), atol=1e-6)


def test_vit_can_be_simulated() -> None:
    sample = zoo.photos(1, 32)
    model = sample.model(zoo.vit(depth=1, seed=0))
    x = sample.x.clone().requires_grad_()
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    risk = model.risk(leaves, Batch(x, sample.y))
    gradient = torch.autograd.grad(risk, list(leaves.values()), create_graph=True)
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradient), x)
    assert second.norm() > 0


def test_losses_agree_with_their_formulas() -> None:
    f, y = torch.randn(5, 1, dtype=torch.float64), torch.tensor([1, -1, -1, 1, -1])
    expected = (1 + torch.exp(-y * f[:, 0])).log().mean()
    assert torch.allclose(zoo.logistic_loss(f, y), expected)
    targets = torch.randn(5, 3, dtype=torch.float64)
    outputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(zoo.squared_loss(outputs, targets), outputs)
    assert torch.allclose(slope, (outputs - targets) / 5)


def test_losses_refuse_what_would_broadcast() -> None:
    for loss in (zoo.logistic_loss, zoo.squared_loss):
        with pytest.raises(InvalidInput, match=r"labels|targets"):
            loss(torch.zeros(4, 3), torch.zeros(4))


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
    assert min(image.std() for image in batch.x) > 0.02
    assert not torch.equal(batch.x, zoo.photos(6, 32, seed=6).x)


def test_more_photos_begin_with_the_fewer_and_sizes_share_their_squares() -> None:
    few, more = zoo.photos(2, 32), zoo.photos(20, 32)
    assert torch.equal(few.x, more.x[:2])
    small = functional.interpolate(zoo.photos(2, 64).x, (32, 32), mode="area")
    assert (small - few.x).abs().mean() < 0.02


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


def test_example_is_one_named_linear_layer() -> None:
    model, batch = zoo.example()
    assert list(model.params) == ["weight", "bias"]
    assert len(batch) == 1
    assert batch.x.shape[1:] == model.form.shape
    assert torch.isfinite(model.risk(model.params, batch))


def test_every_network_makes_a_model_of_its_data() -> None:
    sample = zoo.photos(2, 32)
    for make in (zoo.lenet, lambda: zoo.convnet(4), zoo.resnet18, zoo.vit):
        model = sample.model(make())
        assert isinstance(model, Model)
        assert model.risk(model.params, sample.batch).ndim == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.mlp(3), "sizes"),
        (lambda: zoo.mlp(3, 4, 5, activation="swish"), "swish"),
        (lambda: zoo.resnet18("mnist"), "cifar"),  # type: ignore[arg-type]
        (lambda: zoo.vit(patch=5), "divide"),
        (lambda: zoo.cnn6(size=0), "too small"),
        (lambda: zoo.fcn3("tanh"), "identity"),  # type: ignore[arg-type]
        (lambda: zoo.photos(0, 32), "photos.n"),
        (lambda: zoo.photos(1, 32, "secret"), "private"),  # type: ignore[arg-type]
        (lambda: zoo.digits(1, split="both"), "public"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()


def test_importing_the_zoo_loads_no_data_library() -> None:
    code = (
        "import sys, seepage.zoo; "
        "print([m for m in ('skimage', 'sklearn', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented() -> None:
    for name in zoo.__all__:
        assert getattr(zoo, name).__doc__
    assert len(set(zoo.__all__)) == len(zoo.__all__)
