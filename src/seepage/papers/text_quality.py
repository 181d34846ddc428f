"""What attacks on text read of short sentences of three styles, scored alike: LAMP's table."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from seepage.attacks import Bigram, EmbeddingRows, Lamp, Pooler, TokenSpan
from seepage.attacks.text.anatomy import Network
from seepage.clients import FedSGD
from seepage.core import Attack, Batch, Model, Reconstruction, observe, stream
from seepage.integrations.english import english
from seepage.integrations.huggingface import encoded
from seepage.integrations.minilm import minilm
from seepage.integrations.public_sets import short
from seepage.metrics.text import cosine, rouge
from seepage.values import value
from seepage.zoo.language import STYLES, Style, texts

STYLE_NAMES = {"cola": "CoLA", "sst2": "SST-2", "rotten_tomatoes": "Rotten Tomatoes"}
_WORDS = 8


@value
class Effort:
    """What is spent on each style: sentences, each a batch of its own, and LAMP's settings."""

    sentences: int
    starts: int
    steps: int
    every: int
    proposals: int
    width: int

    def __str__(self) -> str:
        return f"{self.steps} of LAMP's 2000 steps, {self.starts} of its 500 starts"

    def lamp(self, language: Bigram) -> Lamp:
        """LAMP with the cosine distance at this effort."""
        return Lamp(
            starts=self.starts,
            steps=self.steps,
            every=self.every,
            proposals=self.proposals,
            language=language,
        )


QUICK = Effort(sentences=1, starts=3, steps=20, every=10, proposals=5, width=1000)
FULL = Effort(sentences=2, starts=30, steps=300, every=75, proposals=40, width=3000)
"""What a minute a sentence and method pays for. LAMP's own 500 starts, 2000 steps and 200 proposals
take a quarter of an hour each, as `Lamp()` and `Pooler()` have them."""


@value
class Row:
    """The mean scores of one method on one style."""

    style: Style
    method: str
    scores: Tensor
    """ROUGE-1, -2, -L, and |cos| of the pooled states of answers and truths (CosS)."""
    exact: int
    of: int
    source: str

    def __str__(self) -> str:
        one, two, whole, cos = self.scores.tolist()
        return (
            f"R-1 {one:.1f}, R-2 {two:.1f}, R-L {whole:.1f}, CosS {cos:.2f}; "
            f"{self.exact} of {self.of} exact"
        )


@value
class Setting:
    """The network under attack, its tokenizer, and the attacker's model of English."""

    model: Model
    tokenizer: Any
    language: Bigram

    @classmethod
    def bundled(cls) -> "Setting":
        """MiniLM with a fresh 2-class head."""
        model, tokenizer = minilm()
        return cls(model, tokenizer, english(tokenizer, model.form))  # type: ignore[arg-type]


def searches(setting: Setting, effort: Effort) -> dict[str, Attack]:
    """LAMP alone, guided by a widened pooler, and by the states of the pooler as it is."""
    lamp = effort.lamp(setting.language)
    guided = Pooler(width=effort.width, lamp=lamp)

    def honest(seen: Any, rng: Any) -> Reconstruction:
        return guided(seen, rng)

    return {
        "LAMP": lamp,
        "LAMP and the widened pooler": guided,
        "LAMP and the states of the unmodified pooler": honest,
    }


def spans() -> dict[str, Attack]:
    """The attacks that compute."""
    return {"TokenSpan": TokenSpan(), "EmbeddingRows": EmbeddingRows()}


def rows(setting: Setting, effort: Effort, methods: dict[str, Attack]) -> Iterator[Row]:
    """Every method on sentences of every style, and two guesses that see no update."""
    for style in STYLES:
        lines, source = short(style, effort.sentences, _WORDS)
        form: Any = setting.model.form
        batches = [encoded(setting.tokenizer, form, [text], [y]) for text, y in lines]
        for name, answers in _answers(setting, methods, batches):
            scores = [_scored(setting, x, b.x) for x, b in zip(answers, batches, strict=True)]
            hits = [_same(x, b.x) for x, b in zip(answers, batches, strict=True)]
            yield Row(style, name, torch.stack(scores).mean(0), sum(hits), len(hits), source)


def _answers(
    setting: Setting, methods: dict[str, Attack], batches: list[Batch]
) -> Iterator[tuple[str, list[Tensor]]]:
    for name, attack in methods.items():
        yield name, [_attacked(setting.model, attack, batch, i) for i, batch in enumerate(batches)]
    yield "commonest words", [_commonest(setting, batch) for batch in batches]
    yield "a public sentence", [_public(setting, i) for i in range(len(batches))]


def _attacked(model: Model, attack: Attack, batch: Batch, seed: int) -> Tensor:
    craft: Callable[..., Model] | None = getattr(attack, "craft", None)
    sent = craft(model, stream(seed, "craft")) if craft is not None else model
    seen = observe(sent, batch, FedSGD(), stream(seed, "client"), tell=("n", "y"))
    return attack(seen, stream(seed, "attack")).x


def _commonest(setting: Setting, batch: Batch) -> Tensor:
    form: Any = setting.model.form
    counts = setting.language.singles[0].clone()
    counts[list(form.forbidden)] = 0
    row = batch.x.clone()
    free = (row != form.pad) & (row != form.start) & (row != form.end)
    row[free] = counts.topk(int(free.sum())).indices
    return row


def _public(setting: Setting, seed: int) -> Tensor:
    lines, form = texts("public"), setting.model.form
    at = int(torch.randint(len(lines), (), generator=stream(seed, "public sentence")))
    return encoded(setting.tokenizer, form, [lines[at][0]]).x  # type: ignore[arg-type]


def _scored(setting: Setting, x: Tensor, truth: Tensor) -> Tensor:
    told, real = (
        [setting.tokenizer.decode(row, skip_special_tokens=True) for row in rows_.tolist()]
        for rows_ in (x, truth)
    )
    cos = cosine(states(setting.model, x), states(setting.model, truth))
    return torch.cat([rouge(told, real).mean(0), cos.mean()[None]])


def states(model: Model, x: Tensor) -> Tensor:
    """What the pooler reads of each sentence."""
    network = Network.of(model)
    pad: int = network.form.pad
    found = [network.last(row[row != pad][None])[:, 0] for row in x.long()]
    return torch.cat(found) if found else network.word[:0]


def _same(x: Tensor, truth: Tensor) -> bool:
    return len(x) == 1 and torch.equal(x.long(), truth)
