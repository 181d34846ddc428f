"""The nouns: snapshots, streams, observations, and the errors of each."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn import functional

from seepage import (
    Batch,
    Clip,
    Column,
    FedAvg,
    FedSGD,
    Images,
    InvalidInput,
    Model,
    Noise,
    Observation,
    Prune,
    Reconstruction,
    SeepageError,
    Table,
    Tokens,
    describe,
    noiseless,
    observe,
    stream,
    tree,
    value,
)
from seepage.expr import read, read_client, read_own

FORM = Images((1, 2, 2), 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def model() -> Model:
    return Model.of(network(), functional.cross_entropy, FORM)


def batch(n: int = 2) -> Batch:
    x = torch.rand(n, 1, 2, 2, generator=Generator().manual_seed(n))
    return Batch(x, torch.arange(n) % 3)


def test_a_model_is_a_snapshot() -> None:
    module = network()
    made = Model.of(module, functional.cross_entropy, FORM)
    before = tree.fingerprint(made.params)
    nn.init.zeros_(module[1].weight)
    assert tree.fingerprint(made.params) == before


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no parameter that requires a gradient"):
        Model.of(nn.Flatten(), functional.cross_entropy, FORM)


def test_other_parameters_are_checked_by_name_and_shape() -> None:
    wrong = {"1.weight": torch.zeros(3, 5), "head": torch.zeros(1)}
    with pytest.raises(InvalidInput) as error:
        model().with_params(wrong)
    for words in ("missing: 1.bias", "unexpected: head", "1.weight is (3, 5), expected (3, 4)"):
        assert words in str(error.value)
    with pytest.raises(InvalidInput, match="NaN"):
        model().with_params({"1.weight": torch.full((3, 4), torch.nan), "1.bias": torch.zeros(3)})
    zeroed = model().with_params(tree.mapped(torch.zeros_like, model().params))
    assert not zeroed.predict(batch().x).any()


def test_a_checkpoint_with_tied_names_and_without_buffers_fits() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    made = Model.of(module, functional.mse_loss, FORM)
    zeros = tree.mapped(torch.zeros_like, module.state_dict())
    assert not made.with_params(zeros).params["0.weight"].any()
    kept = {name: zeros[name] for name in made.params} | {"1.running_mean": torch.ones(4)}
    got = made.with_params(kept)
    assert got.buffers["1.running_mean"].all()
    assert got.buffers["1.running_var"].all()


def test_streams_differ_by_role_and_seed_and_repeat() -> None:
    draws = {
        (seed, role): tuple(torch.rand(4, generator=stream(seed, role)).tolist())
        for seed in range(20)
        for role in ("client", "attack", "craft")
    }
    assert len(set(draws.values())) == 60
    assert draws[3, "attack"] == tuple(torch.rand(4, generator=stream(3, "attack")).tolist())


def test_an_observation_holds_copies() -> None:
    update = tree.mapped(torch.ones_like, model().params)
    seen = observe(model(), batch(), lambda *_: update, Generator(), tell=("n", "y"))
    private = batch()
    for tensor in update.values():
        tensor.fill_(torch.nan)
    assert all(u.eq(1).all() for u in seen.update.values())
    labels = observe(model(), private, FedSGD(), Generator(), tell=("y",))
    assert private.y is not None
    private.y.fill_(9)
    assert labels.y is not None
    assert labels.y.tolist() == [0, 1]
    assert labels.n is None


def test_an_observation_has_no_field_for_the_truth() -> None:
    assert [field.name for field in dataclasses.fields(Observation)] == [
        "model",
        "client",
        "update",
        "n",
        "y",
    ]
    seen = observe(model(), batch(), FedSGD(), Generator())
    assert seen.y is None
    with pytest.raises((AttributeError, TypeError)):
        seen.x = batch().x  # type: ignore[attr-defined]


def test_what_is_told_is_one_of_two_things() -> None:
    with pytest.raises(InvalidInput, match="'x'"):
        observe(model(), batch(), FedSGD(), Generator(), tell=("x",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"other": torch.zeros(2)}, "no tensor of this model"),
        ({"1.weight": torch.zeros(2, 2)}, "mis-shaped: 1.weight is (2, 2), expected (3, 4)"),
        ({"1.bias": torch.zeros(3), "more": torch.zeros(1)}, "unexpected: more"),
        ({"1.bias": torch.tensor([0, 1, 2])}, "torch.int64"),
        ({"1.bias": torch.tensor([0, 1, torch.nan])}, "'1.bias' holds NaN"),
        ({"1.bias": torch.tensor([0, 1, torch.inf])}, "'1.bias' holds NaN or infinity"),
    ],
)
def test_updates_that_cannot_be_used_are_named(update: dict[str, Tensor], words: str) -> None:
    with pytest.raises(InvalidInput) as error:
        observe(model(), batch(), lambda *_: update, Generator())
    assert words in str(error.value)


@pytest.mark.parametrize("x", [torch.zeros(()), torch.zeros(0, 3)])
def test_an_empty_batch_is_refused(x: Tensor) -> None:
    with pytest.raises(InvalidInput, match="at least one example"):
        Batch(x)


def test_labels_must_match_the_examples() -> None:
    with pytest.raises(InvalidInput, match="one label for each example"):
        Batch(torch.zeros(2, 3), torch.zeros(3))


def test_candidates_need_a_belief_and_a_residual_each() -> None:
    two = torch.zeros(2)
    with pytest.raises(InvalidInput, match=r"Reconstruction\.residual has 1 entries"):
        Reconstruction(torch.zeros(2, 4), None, two, torch.zeros(1))


def test_the_deterministic_part_of_a_client() -> None:
    client = Prune(Noise(Clip(FedAvg(epochs=2), 1.0), 0.1), 0.5)
    assert noiseless(client) == Prune(Clip(FedAvg(epochs=2), 1.0), 0.5)

    def plain(model: Model, batch: Batch, rng: Generator) -> tree.Tensors:
        return model.params

    assert noiseless(plain) is plain


CLIENTS = st.recursive(
    st.sampled_from([FedSGD(), FedSGD("train"), FedAvg(epochs=3, batch_size=2)]),
    lambda inner: st.one_of(
        st.builds(Noise, inner, st.floats(0, 10), st.sampled_from(["gauss", "laplace"])),
        st.builds(Clip, inner, st.floats(1e-3, 10)),
        st.builds(Prune, inner, st.floats(0, 0.99), st.sampled_from(["tensor", "global"])),
        st.builds(FedAvg, inner, st.integers(1, 9), st.none() | st.integers(1, 9)),
    ),
    max_leaves=4,
)


@given(CLIENTS)
def test_what_a_value_prints_can_be_read_back(client: Clip) -> None:
    assert read(repr(client)) == client
    assert hash(read(repr(client))) == hash(client)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Prun(FedSGD())", "Did you mean Prune?"),
        ("Prune(FedSGD(), ratio=2)", "Prune.ratio=2"),
        ("Prune(FedSGD(), share=0.5)", "share"),
        ("Prune(FedSGD()", "cannot be read"),
        ("__import__('os').system('true')", "not allowed"),
        ("[x for x in (1,)]", "not allowed"),
        ("FedSGD().mode", "not allowed"),
        ("FedAvg(lr=1e999)", "FedAvg.lr=inf"),
        ("(" * 5000, "cannot be read"),
        ("FedSGD" * 5000, "too long"),
        ("", "cannot be read"),
        ("open('x')", "there is no 'open'"),
    ],
)
def test_expressions_that_are_not_values_are_refused(text: str, words: str) -> None:
    with pytest.raises(SeepageError) as error:
        read(text)
    assert words in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SeepageError):
        read(text)


def test_a_module_is_imported_only_where_the_user_typed_it() -> None:
    assert read_own("seepage.clients:FedAvg(epochs=2)") == FedAvg(epochs=2)
    with pytest.raises(InvalidInput, match="no module 'nowhere'"):
        read_own("nowhere:Mine()")
    with pytest.raises(InvalidInput):
        read_client("seepage.clients:FedAvg()", "a file")
    with pytest.raises(InvalidInput, match="not a client"):
        read_client("3", "a file")


def test_values_describe_tensors_and_functions_by_what_they_hold() -> None:
    @value
    class Public:
        data: Tensor
        loss: object = functional.cross_entropy

    zeros, ones = Public(torch.zeros(2)), Public(torch.ones(2))
    assert zeros != ones
    assert zeros == Public(torch.zeros(2))
    assert "tensor(2, float32, " in repr(zeros)
    assert describe(functional.mse_loss) == "torch.nn.functional:mse_loss"
    one, two = (lambda: 1), (lambda: 2 + one())
    assert describe(one) != describe(two)


def test_images_show_what_a_person_sees() -> None:
    form = Images((3, 2, 2), 10, 0, 255, (127.5, 127.5, 0.0), (51.0, 51.0, 255.0))
    raw = torch.rand(5, 3, 2, 2) * 255
    torch.testing.assert_close(form.raw(form.normalised(raw)), raw)
    torch.testing.assert_close(form.show(form.normalised(raw)), raw / 255)
    low, high = form.box(raw)
    torch.testing.assert_close(low.flatten(), torch.tensor([-2.5, -2.5, 0.0]))
    torch.testing.assert_close(high.flatten(), torch.tensor([2.5, 2.5, 1.0]))


def test_tables_show_their_own_units() -> None:
    table = Table((Column("size", mean=3, std=2), Column("kind", ("a", "b", "c"))), 2)
    assert table.shape == (4,)
    assert table.show(torch.tensor([-1.0, 0.1, 0.7, 0.2])) == {"size": 1.0, "kind": "b"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Images((3, 0, 2), 10), "positive whole numbers"),
        (lambda: Images((3, 2), 10), "positive whole numbers"),
        (lambda: Images((3, 2, 2), 10, low=1, high=1), "not below"),
        (lambda: Images((3, 2, 2), 10, mean=(0.0, 0.0, 0.0)), "both mean and std"),
        (lambda: Images((3, 2, 2), 10, mean=(0.0,), std=(1.0,)), "for 3 channels"),
        (lambda: Images((1, 2, 2), 10, mean=(0.0,), std=(0.0,)), "must be positive"),
        (lambda: Table((), 2), "empty"),
        (lambda: Tokens(4, 3, pad=3), "outside the vocabulary"),
        (lambda: Tokens(4, 3, pad=0, words=("a",)), "1 words for 3 tokens"),
    ],
)
def test_forms_that_cannot_be_are_refused(wrong: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        wrong()  # type: ignore[operator]
