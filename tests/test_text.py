"""Sentences from the gradients of small language models, without any extra installed."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_language import WIDTH, decoder, encoder, filled
from torch import Tensor, nn

from seepage import (
    Batch,
    Bigram,
    EmbeddingRows,
    FedAvg,
    FedSGD,
    InvalidInput,
    Lamp,
    Model,
    Noise,
    Observation,
    Only,
    Pooler,
    Quantize,
    Reconstruction,
    StateSearch,
    Tokens,
    TokenSpan,
    observe,
    stream,
)
from seepage.attacks.text import embedding_rows
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.mixture import Mixture, solved
from seepage.attacks.text.moves import proposals
from seepage.attacks.text.spans import Span, span_of


def watched(model: Model, batch: Batch, client: object = FedSGD()) -> Observation:
    return observe(model, batch, client, stream(0, "client"))


def rows(x: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, x.tolist()))


def read(model: Model, batch: Batch, **settings: object) -> Reconstruction:
    attack = TokenSpan(**{"budget": 4000, **settings})
    return attack(watched(model, batch), stream(0, "attack"))


@pytest.mark.parametrize("seed", range(4))
def test_the_moved_rows_of_the_word_table_are_the_tokens_of_the_batch(seed: int) -> None:
    model, batch = encoder(3, seed=seed)
    moved = embedding_rows.moved(watched(model, batch))
    assert set(moved.tokens.tolist()) == set(batch.x.flatten().tolist()) - {0}
    assert set(moved.places.tolist()) == set(range(8))


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_only_noise_moved_are_no_tokens(kind: str, seed: int) -> None:
    model, batch = encoder(1, seed=seed)
    clean = watched(model, batch).update
    std = float(clean["word.weight"].norm(dim=1).max()) / 100
    seen = watched(model, batch, Noise(FedSGD(), std, kind))
    assert bool((seen.update["word.weight"].norm(dim=1) > 0).all())
    moved = embedding_rows.moved(seen)
    assert set(moved.tokens.tolist()) == set(batch.x.flatten().tolist()) - {0}
    assert set(moved.places.tolist()) == set(range(8))


def test_a_batch_of_every_word_is_not_taken_for_noise() -> None:
    model, _ = encoder(1)
    every = torch.arange(8 * 8).view(8, 8) % model.form.vocab
    seen = watched(model, Batch(every, torch.zeros(8, dtype=torch.long)))
    assert bool((seen.update["word.weight"].norm(dim=1) > 0).all())
    moved = embedding_rows.moved(seen)
    assert set(moved.tokens.tolist()) == set(every.flatten().tolist()) - {0}


@pytest.mark.parametrize("seed", range(4))
def test_the_embedding_rows_of_one_sentence_give_its_order_repeats_too(seed: int) -> None:
    model, batch = encoder(1, seed=seed)
    repeated = batch.x.clone()
    repeated[0, 4] = repeated[0, 2]
    found = EmbeddingRows()(watched(model, Batch(repeated, batch.y)), stream(0, "attack"))
    assert torch.equal(found.x, repeated)
    assert found.residual < 1e-4


def test_the_embedding_rows_of_several_sentences_tell_which_token_stands_where() -> None:
    model, batch = encoder(3, torch.float64)
    found = EmbeddingRows()(watched(model, batch), stream(0, "attack"))
    assert found.note.startswith("not recovered: order within sentences not determined")
    weights, tokens = found.trace["weights"], found.trace["tokens"]
    places = {t: set((batch.x == t).nonzero()[:, 1].tolist()) for t in tokens}
    single = [t for t in tokens if len(places[t]) == 1]
    right = [int(weights[tokens.index(t)].argmax()) in places[t] for t in single]
    assert len(single) > 5
    assert all(right)


def test_a_token_of_many_places_is_told_at_each_of_them() -> None:
    drawn = stream(3, "rows")
    truth = {(0, place) for place in range(6)} | {(token, token % 6) for token in range(1, 9)}
    word, places = torch.zeros(9, 200).double(), torch.zeros(6, 200).double()
    common = torch.randn(200, generator=drawn).double()
    for token, place in truth:
        pull = torch.randn(200, generator=drawn).double() + (common if token == 0 else 0)
        word[token] += pull
        places[place] += pull
    rows = embedding_rows.Rows(torch.arange(9), word, torch.arange(6), places)
    found = embedding_rows.pairs(rows)
    assert {(token, place) for token, place, _ in found["pairs"]} == truth


def test_embedding_rows_refuse_frozen_and_tied_tables() -> None:
    model, batch = encoder(1)
    with pytest.raises(InvalidInput, match="frozen or kept back"):
        EmbeddingRows()(watched(model, batch, Only(FedSGD(), "!word*")), stream(0, "attack"))
    model.module.anatomy = dataclasses.replace(model.module.anatomy, tied=True)
    with pytest.raises(InvalidInput, match="every row moves"):
        EmbeddingRows()(watched(model, batch), stream(0, "attack"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_encoders_sentences_come_back_exactly_with_their_labels(
    dtype: torch.dtype, known: bool, seed: int
) -> None:
    model, batch = encoder(3, dtype, seed)
    found = read(model, batch, rows=known)
    assert rows(found.x) == rows(batch.x)
    assert batch.y is not None
    assert found.y is not None
    truth = dict(zip(map(tuple, batch.x.tolist()), batch.y.tolist(), strict=True))
    assert [truth[tuple(x)] for x in found.x.tolist()] == found.y.tolist()
    assert found.residual.max() < 1e-4
    assert found.trace["largest accepted"] < 1e-4 < found.trace["smallest rejected"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_decoders_sentences_come_back_exactly_with_their_last_tokens(
    dtype: torch.dtype, seed: int
) -> None:
    model, batch = decoder(3, dtype, seed)
    found = read(model, batch)
    assert rows(found.x) == rows(batch.x)
    assert found.residual.max() < 1e-4
    assert found.trace["last tokens off by"] < 1e-3


def test_a_spent_budget_is_said() -> None:
    model, batch = encoder(3)
    found = read(model, batch, budget=1)
    assert found.note.endswith("search budget exhausted")
    assert rows(found.x) < rows(batch.x)


def test_duplicate_sentences_show_once_and_are_noted() -> None:
    model, batch = encoder(1)
    found = read(model, Batch(batch.x.repeat(2, 1), torch.tensor([0, 0])))
    assert rows(found.x) == rows(batch.x)
    assert "duplicates show once" in found.note


def test_noise_leaves_ranked_tokens_and_no_claim_of_recovery() -> None:
    model, batch = encoder(1, torch.float64)
    seen = watched(model, batch, Noise(FedSGD(), std=1e-4, relative=True))
    found = TokenSpan(rank=8)(seen, stream(0, "attack"))
    assert found.note.startswith("not recovered")
    assert len(found) == 0


@pytest.mark.parametrize("client", [FedAvg(epochs=2, lr=1e-2), Quantize(FedSGD(), 16)])
def test_sentences_come_through_local_steps_and_rounding_and_are_called_likely(
    client: object,
) -> None:
    model, batch = encoder(2)
    attack = TokenSpan(tolerance=0.3, accept=0.03, rank="spectrum", budget=4000)
    found = attack(watched(model, batch, client), stream(0, "attack"))
    assert rows(found.x) == rows(batch.x)
    assert "likely" in found.note
    assert "exact" not in found.note
    assert found.residual.max() < 0.02


def test_the_spectrum_tells_a_span_from_white_noise() -> None:
    drawn = torch.Generator().manual_seed(0)
    left, right = (torch.randn(5, 200, generator=drawn, dtype=torch.float64) for _ in range(2))
    noise = 1e-2 * torch.randn(200, 200, generator=drawn, dtype=torch.float64)
    span = Span.of(left.T @ right + noise, "spectrum")
    assert span.rank == 5
    assert span.distance(right).max() < 0.01
    assert Span.of(left.T @ right + noise).rank == 200


def test_more_tokens_than_directions_are_said_to_fill_the_span() -> None:
    model, batch = encoder(9)
    found = read(model, batch)
    assert "span full" in found.note
    assert len(found.trace["ranked"]) == 8


def test_dropout_in_training_is_refused() -> None:
    model, _ = encoder(1)
    model.module.norm = nn.Sequential(model.module.norm, nn.Dropout(0.1))
    seen = watched(*encoder(1))
    seen = dataclasses.replace(seen, model=model, client=FedAvg(FedSGD("train")))
    with pytest.raises(InvalidInput, match="dropout"):
        TokenSpan()(seen, stream(0, "attack"))


def test_a_model_without_anatomy_or_sentences_is_told_what_is_needed() -> None:
    model, batch = encoder(1)
    model.module.anatomy = None
    with pytest.raises(InvalidInput, match=r"hugging\(\)"):
        TokenSpan()(watched(model, batch), stream(0, "attack"))


def test_an_encoder_whose_attention_is_not_named_is_told_so() -> None:
    model, batch = encoder(2)
    model.module.anatomy = dataclasses.replace(model.module.anatomy, heads=0)
    with pytest.raises(InvalidInput, match=r"Set Anatomy.attention, projections and heads"):
        TokenSpan()(watched(model, batch), stream(0, "attack"))


def test_missing_attention_is_named() -> None:
    model, batch = encoder(1)
    with pytest.raises(InvalidInput, match=r"blocks.0.attention.query.weight"):
        TokenSpan()(watched(model, batch, Only(FedSGD(), "word*")), stream(0, "attack"))


def entering(model: Model, block: nn.Module, x: Tensor) -> Tensor:
    """What one block is given when the whole network runs."""
    taken = list[Tensor]()
    hook = block.register_forward_hook(lambda module, given, out: taken.append(given[0]))
    model.predict(x)
    hook.remove()
    return taken[0]


def test_the_parts_called_one_by_one_give_what_the_network_gives() -> None:
    for model, batch in (encoder(1, torch.float64), decoder(1, torch.float64)):
        network, block = Network.of(model), model.module.blocks[1]
        given = entering(model, block, batch.x)
        whole = block.norm1(given) if network.anatomy.norms else given
        ours = network.second(batch.x[batch.x != 0][None])
        assert (whole[:, : ours.shape[1]] - ours).abs().max() < 1e-12


def test_the_span_keeps_every_direction_of_the_second_block() -> None:
    model, batch = encoder(3)
    network = Network.of(model)
    span = span_of(watched(model, batch), network, 1)
    assert span.rank == int((batch.x != 0).sum())
    for sentence in batch.x:
        states = network.second(sentence[sentence != 0][None])[0]
        assert span.distance(states).max() < 1e-4


def mixture_of(dtype: torch.dtype = torch.float64) -> tuple[Mixture, Tensor, Network, Span]:
    """All tokens of a batch at their places as candidates, and which are in its first sentence."""
    model, batch = encoder(3, dtype)
    network = Network.of(model)
    span = span_of(watched(model, batch), network, 1)
    pairs = sorted({(p, t) for row in batch.x.tolist() for p, t in enumerate(row) if t})
    places, tokens = torch.tensor(pairs).T
    first = (batch.x[0][places] == tokens).to(dtype)
    return Mixture.of(network, span, tokens, places), first, network, span


def test_a_mixture_with_the_weights_of_a_sentence_is_that_sentence() -> None:
    mixture, first, network, span = mixture_of()
    sentence = encoder(3)[1].x[0]
    outside = span.outside(network.second(sentence[None])[0])
    for place, at in enumerate(first.nonzero().flatten().tolist()):
        assert (mixture.misfit(at, first) - outside[place]).abs().max() < 1e-12


def test_the_slope_of_a_mixture_is_that_of_autograd() -> None:
    mixture, first, _, _ = mixture_of()
    weights = first + torch.linspace(0.1, 0.9, len(first), dtype=first.dtype)
    outside, slope = mixture.expanded(3, weights)
    autograd = torch.func.jacrev(lambda w: mixture.misfit(3, w))(weights)
    assert torch.equal(outside, mixture.misfit(3, weights))
    assert (slope - autograd).abs().max() < 1e-12


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_token_tells_its_whole_sentence_from_even_weights(seed: int, first: bool) -> None:
    model, batch = encoder(2, torch.float64, seed)
    network, pairs = Network.of(model), [(p, t) for p in range(8) for t in (*batch.x[:, p], 5, 9)]
    span = span_of(watched(model, batch), network, 1)
    places, tokens = torch.tensor(sorted({(p, int(t)) for p, t in pairs if t})).T
    truth = (batch.x[0][places] == tokens).double()
    at = int(((places == 3) & (truth == 1)).nonzero())
    asked = [0, at] if first else [at]
    fixed = places[asked]
    start = torch.where(torch.isin(places, fixed), 0.0, torch.full_like(truth, 0.25))
    start[asked] = 1.0
    rules = (places == torch.arange(8)[:, None])[:4].double()
    weights, rounds = solved(Mixture.of(network, span, tokens, places), rules, asked, start)
    assert (weights - truth).abs().max() < 1e-3
    assert rounds < 10


def test_a_sketch_is_never_further_away_than_the_whole_complement() -> None:
    drawn = torch.Generator().manual_seed(0)
    span = Span.of(torch.randn(5, WIDTH, generator=drawn, dtype=torch.float64))
    points = torch.randn(50, WIDTH, generator=drawn)
    rough = (points @ span.sketch(8).T).norm(dim=1) / points.norm(dim=1)
    assert (rough <= span.distance(points) + 1e-6).all()
    assert (rough > 0).all()


def test_the_tiny_models_are_seeded() -> None:
    left, right = (filled(nn.Linear(4, 4)) for _ in range(2))
    assert torch.equal(left.weight, right.weight)


@pytest.mark.parametrize("seed", [0])
def test_lamp_finds_two_words(seed: int) -> None:
    model, batch = encoder(1, seed=seed, length=4)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    found = Lamp(starts=30, steps=200, proposals=60)(seen, stream(seed, "attack"))
    assert torch.equal(found.x, batch.x)
    assert found.residual.max() < 1e-5


def test_lamp_needs_labels_and_a_language_model_of_the_same_vocabulary() -> None:
    model, batch = encoder(1)
    with pytest.raises(InvalidInput, match="tells none"):
        Lamp()(watched(model, batch), stream(0, "attack"))
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    foreign = Bigram.of(torch.tensor([[1, 2]]), vocab=7, pad=0)
    with pytest.raises(InvalidInput, match="7 tokens"):
        Lamp(language=foreign)(seen, stream(0, "attack"))


def test_a_bigram_is_a_distribution_of_the_next_token() -> None:
    drawn = torch.Generator().manual_seed(0)
    model = Bigram.of(torch.randint(1, 9, (20, 6), generator=drawn), vocab=9, pad=0)
    after = torch.tensor([[4, b] for b in range(1, 9)])
    total = model(after).neg().exp().sum()
    assert 0.98 < total < 1  # the pad has its small share too


def test_moves_are_reorderings_and_the_first_is_none() -> None:
    orders = list(proposals(6, 40, np.random.default_rng(0)))
    assert orders[0].tolist() == list(range(6))
    assert all(sorted(order.tolist()) == list(range(6)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) > 12


@pytest.mark.parametrize("n", [1, 2])
def test_a_widened_pooler_gives_every_state_away(n: int) -> None:
    model, batch = encoder(n)
    attack = Pooler(width=300, used=20, lamp=Lamp(starts=1, steps=2))
    crafted = attack.craft(model, stream(0, "craft"))
    found = attack(watched(crafted, batch), stream(0, "attack"))
    network = Network.of(crafted)
    truth = torch.cat([network.last(row[row != 0][None])[:, 0] for row in batch.x]).double()
    ours = torch.nn.functional.normalize(found.trace["states"], dim=1)
    angles = ours @ torch.nn.functional.normalize(truth, dim=1).T
    assert (angles.abs().max(0).values > 0.9999).all()
    assert found.trace["state residual"] < 1e-3


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0)])
def test_the_pooler_and_the_rows_give_sentences_where_attention_is_kept_back(
    n: int, seed: int
) -> None:
    model, batch = encoder(n, seed=seed)
    seen = watched(model, batch, Only(FedSGD(), "!*attention*"))
    found = StateSearch(budget=4000)(seen, stream(0, "attack"))
    assert rows(found.x) == rows(batch.x)
    assert found.note == f"all {n} sentences, exact by their certificates"
    assert found.residual.max() < 1e-5
    assert found.y is not None
    assert found.trace["smallest rejected"] > 1e-2


def test_a_state_search_says_what_it_did_not_find() -> None:
    model, batch = encoder(4, seed=1)
    found = StateSearch(budget=50)(watched(model, batch), stream(0, "attack"))
    assert "search budget exhausted" in found.note
    assert rows(found.x) <= rows(batch.x)


def test_a_state_search_needs_a_pooler_and_an_end() -> None:
    model, batch = encoder(1)
    with pytest.raises(InvalidInput, match="Share the pooler"):
        StateSearch()(watched(model, batch, Only(FedSGD(), "!pooler*")), stream(0, "attack"))
    assert isinstance(model.form, Tokens)
    endless = dataclasses.replace(model, form=dataclasses.replace(model.form, end=None))
    with pytest.raises(InvalidInput, match="with an end token"):
        StateSearch()(watched(endless, batch), stream(0, "attack"))


def test_a_sentence_that_begins_another_is_found_by_the_head() -> None:
    model, batch = decoder(2)
    x = batch.x.clone()
    x[1] = 0
    x[1, :4] = x[0, :4]
    x[1, 4] = 7
    found = TokenSpan()(watched(model, Batch(x)), stream(0, "attack"))
    assert rows(found.x) == rows(x)
