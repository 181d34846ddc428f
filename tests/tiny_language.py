"""Language models of a few thousand weights, with their anatomy: an encoder and a decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage import Batch, Model, Tokens, stream
from seepage.attacks import Anatomy

WIDTH = 48
VOCAB = 60
HEADS = 4
"""With one head, query deltas lie between its keys, and a direction of each sentence is missing."""


class Attention(nn.Module):
    """Every place reads all others; the mixture is returned first, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor]:
        query, key, value = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (WIDTH / HEADS) ** 0.5
        if mask is not None:
            scores = scores + mask.reshape(-1, 1, *mask.shape[-2:])
        return ((scores.softmax(-1) @ value).transpose(1, 2).flatten(2),)


class Block(nn.Module):
    """Attention and a dense pair; normalised afterwards (encoder) or before (decoder)."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before, self.attention = before, Attention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dense = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.before:
            x = x + self.attention(self.norm1(x), attention_mask)[0]
            return x + self.dense(self.norm2(x))
        x = self.norm1(x + self.attention(x, attention_mask)[0])
        return self.norm2(x + self.dense(x))


class Encoder(nn.Module):
    """Tokens and places, three blocks, a tanh pooler on the first state, a classifier."""

    anatomy = Anatomy(
        word="word.weight",
        position="position.weight",
        norm="norm",
        blocks=("blocks.0", "blocks.1", "blocks.2"),
        spans=("blocks.0.attention.query.weight", "blocks.1.attention.query.weight"),
        attention="blocks.0.attention",
        projections=tuple(f"blocks.0.attention.{name}" for name in ("query", "key", "value")),
        heads=HEADS,
        pooler="pooler",
        classifier="classifier",
    )

    def __init__(self, length: int, classes: int = 2) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(length, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block(before=False) for _ in range(3))
        self.activation: nn.Module = nn.Tanh()
        self.pooler, self.classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        real = (x != self.word.weight[0]).any(-1) if x.is_floating_point() else x != 0
        words = x if x.is_floating_point() else self.word(x)
        hidden = torch.zeros_like(words[..., 0]).masked_fill(~real, lowest(words))[:, None]
        state = self.norm(words + self.position.weight[: x.shape[1]])
        for block in self.blocks:
            state = block(state, hidden)
        logits: Tensor = self.classifier(self.activation(self.pooler(state[:, 0])))
        return logits


class Decoder(nn.Module):
    """Tokens and places, two blocks that look back only, and a head on every state."""

    anatomy = Anatomy(
        word="word.weight",
        position="position.weight",
        blocks=("blocks.0", "blocks.1"),
        norms=("blocks.0.norm1", "blocks.1.norm1"),
        spans=("blocks.0.attention.value.weight", "blocks.1.attention.value.weight"),
        causal=True,
        final="final",
        head="head.weight",
    )

    def __init__(self, length: int) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks = nn.ModuleList(Block(before=True) for _ in range(2))
        self.final, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state = self.word(x) + self.position.weight[: x.shape[1]]
        behind = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        hidden = ~(behind & (x != 0)[:, None])
        mask = state.new_zeros(hidden.shape).masked_fill(hidden, lowest(state))
        for block in self.blocks:
            state = block(state, mask)
        logits: Tensor = self.head(self.final(state))
        return logits


def lowest(like: Tensor) -> float:
    """What hides a place from attention."""
    return torch.finfo(like.dtype).min


def next_token(logits: Tensor, x: Tensor) -> Tensor:
    """The mean cross-entropy of each next token, without pads."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), x[:, 1:].flatten(), ignore_index=0
    )


def filled(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module with seeded weights of a useful size."""
    drawn = stream(11, "language")
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            noise = torch.randn(parameter.shape, generator=drawn)
            size = 1.5 if parameter.ndim == 2 and "word" not in name else 1.0
            scale = size / WIDTH**0.5 if parameter.ndim == 2 else 0.1
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * noise)
    return module.to(dtype)


def sentences(n: int, length: int = 8, seed: int = 0) -> Tensor:
    """Random sentences between a start (1) and an end (2), each shorter than the last."""
    drawn = stream(seed, "sentences")
    x = torch.zeros(n, length, dtype=torch.long)
    for row in range(n):
        inside = length - 2 - row % 3
        x[row, 0], x[row, inside + 1] = 1, 2
        x[row, 1 : inside + 1] = torch.randint(3, VOCAB, (inside,), generator=drawn)
    return x


def encoder(
    n: int, dtype: torch.dtype = torch.float32, seed: int = 0, length: int = 8
) -> tuple[Model, Batch]:
    """A classifier of sentences and a batch of them."""
    form = Tokens(length, VOCAB, pad=0, start=1, end=2, forbidden=(0, 1, 2), classes=2)
    model = Model.of(filled(Encoder(length), dtype), functional.cross_entropy, form)
    return model, Batch(sentences(n, length, seed), torch.arange(n) % 2)


def decoder(
    n: int, dtype: torch.dtype = torch.float32, seed: int = 0, length: int = 8
) -> tuple[Model, Batch]:
    """A next-token model and a batch of sentences that begin with the first token alike."""
    form = Tokens(length, VOCAB, pad=0)
    model = Model.of(filled(Decoder(length), dtype), next_token, form)
    return model, Batch(sentences(n, length, seed))
