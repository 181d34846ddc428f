"""The attacks on text past the published settings: `python benchmarks/text_further.py SECTION ...`.

Large and long batches, updates with noise, adapters in later rounds. Each line is JSON.
"""

import warnings
from collections.abc import Callable

import numpy as np
import peft
import torch
from text import LINES, TOKENIZER, Rows, attacked, drawn, gpt, minilm, run

from seepage import (
    Batch,
    Client,
    FedAvg,
    FedSGD,
    Model,
    Noise,
    Only,
    Prune,
    Quantize,
    StateSearch,
    TokenSpan,
    observe,
    stream,
    zoo,
)
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import span_of
from seepage.integrations.huggingface import encoded, hugging
from seepage.zoo import language


def joined(model: Model, size: int, lines: int, seed: int) -> Batch:
    """Sentences made of several bundled ones."""
    order = np.random.default_rng(seed).permutation(len(LINES))
    parts = [[LINES[order[(size * i + k) % len(LINES)]] for i in range(lines)] for k in range(size)]
    whole = [" ".join(text for text, _ in part) for part in parts]
    return encoded(TOKENIZER, model.form, whole, [part[0][1] for part in parts])


def long() -> Rows:
    """Encoder, sentences of 32 to 64 tokens."""
    model = hugging(minilm(), TOKENIZER, length=80)
    for lines, size, seed in (
        (3, 1, 0),
        (3, 2, 0),
        (3, 4, 0),
        (5, 1, 0),
        (5, 2, 0),
        (5, 4, 0),
        (5, 4, 7),
    ):
        batch = joined(model, size, lines, seed)
        tokens = (batch.x != 0).sum(1).tolist()
        row = attacked(model, batch, TokenSpan(budget=5000))
        yield {"B": size, "tokens": tokens} | row


def every() -> list[tuple[str, int]]:
    """All 64 short sentences that come with the package, shuffled: no span needs them unseen."""
    lines = [*LINES, *zoo.texts("public"), *language.styled("sst2")]
    return [lines[place] for place in np.random.default_rng(3).permutation(len(lines))]


def decoder_large() -> Rows:
    """Random GPT-2, classifier, at B = 32 to 64."""
    model = hugging(gpt(768), TOKENIZER, length=20)
    for size in (32, 48, 64):
        texts, labels = zip(*every()[:size], strict=True)
        batch = encoded(TOKENIZER, model.form, texts, labels)
        tokens = int((batch.x != 0).sum())
        row = attacked(model, batch, TokenSpan(budget=10**6))
        yield {"model": "4x768", "B": size, "tokens": tokens} | row


def withheld() -> Rows:
    """The encoder is frozen or kept back: embeddings, pooler and classifier are all there is."""
    model = hugging(minilm(), TOKENIZER, length=20)
    client = Only(FedSGD(), "!*.encoder.*")
    for size in (1, 2, 4, 8):
        for seed in range(4):
            row = attacked(model, drawn(model, size, seed), StateSearch(), seed, client)
            yield {"B": size, "seed": seed} | row


CLIENTS: dict[str, Client] = {
    "FedAvg, 2 steps, lr .01": FedAvg(epochs=2, lr=0.01),
    "FedAvg, 4 steps, lr .1": FedAvg(epochs=4, lr=0.1),
    "FedAvg, minibatches of 1, lr .01": FedAvg(epochs=1, batch_size=1, lr=0.01),
    "FedAvg, 2 steps, lr .001": FedAvg(epochs=2, lr=0.001),
    "16 bits": Quantize(FedSGD(), 16),
    "8 bits": Quantize(FedSGD(), 8),
    "pruned 10 %": Prune(FedSGD(), ratio=0.1),
    "pruned 50 %": Prune(FedSGD(), ratio=0.5),
    "noise 1e-5": Noise(FedSGD(), std=1e-5),
    "noise 1e-6": Noise(FedSGD(), std=1e-6),
}


def furthest(model: Model, batch: Batch, seed: int, client: Client) -> float:
    """How far the true sentence lies that is furthest from block 1's span: `accept` must exceed it.

    Only the benchmark can say this, which knows the truth.
    """
    seen, network = observe(model, batch, client, stream(seed, "client")), Network.of(model)
    span = span_of(seen, network, 1, "spectrum")
    rows = [row[row != 0][None] for row in batch.x]
    return max(float(span.distance(network.second(row)).mean()) for row in rows)


def noisy() -> Rows:
    """Encoder, updates with noise: ranks read off the spectrum."""
    model = hugging(minilm(), TOKENIZER, length=20)
    attack = TokenSpan(tolerance=0.3, accept=0.03, rank="spectrum", budget=2000)
    for name, client in CLIENTS.items():
        for size in (1, 2, 4):
            for seed in (0, 1):
                batch = drawn(model, size, seed)
                truth = furthest(model, batch, seed, client)
                row = {"client": name, "B": size, "seed": seed, "truth within": round(truth, 4)}
                yield row | attacked(model, batch, attack, seed, client)


def adapted(rank: int, steps: int) -> Model:
    """MiniLM with LoRA on every query, after some steps on public sentences."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=["query"]
    )
    with warnings.catch_warnings(action="ignore"):  # peft uses names that transformers retires
        network = peft.get_peft_model(minilm(), config).eval()
    texts, labels = zip(*zoo.texts("public")[:4], strict=True)
    ids = TOKENIZER(list(texts), return_tensors="pt", padding=True)
    trained = [p for p in network.parameters() if p.requires_grad]
    rule = torch.optim.AdamW(trained, lr=1e-3)
    for _ in range(steps):
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(**ids).logits, torch.tensor(labels))
        loss.backward()
        rule.step()
    with warnings.catch_warnings(action="ignore"):
        return hugging(network, TOKENIZER, length=20)


def lora() -> Rows:
    """LoRA on the query: round 0, and after three steps of AdamW."""
    for steps in (0, 3):
        for rank, size in ((16, 1), (8, 1), (64, 4), (128, 4), (16, 4)):
            model = adapted(rank, steps)
            batch = drawn(model, size, 3)
            row = attacked(model, batch, TokenSpan(budget=3000))
            yield {"steps": steps, "r": rank, "B": size} | row


SECTIONS: dict[str, Callable[[], Rows]] = {
    "long": long,
    "decoder_large": decoder_large,
    "withheld": withheld,
    "noisy": noisy,
    "lora": lora,
}

if __name__ == "__main__":
    run(SECTIONS)
