"""Where a language model keeps what the text attacks read, and its parts called one by one."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seepage.core import Client, Model, Observation
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.values import value


@value
class Anatomy:
    """The names of a language model's parts; a network carries its own as `.anatomy`.

    `word`, `position`, `segment` and `head` are parameters, `spans` the weights that read the
    input of blocks 0 and 1 (`adapters` the LoRA matrices A and B beside each), the rest modules.
    Blocks add their attention to a normalised sum (`norm`: BERT), or normalise first, block by
    block (`norms`: GPT-2). An encoder names block 0's `attention`, the module that mixes places and
    returns the mixture first, with the `projections` (query, key, value) of its `heads`, and the
    map after them (`mixed`) if that is inside too. A part that the network lacks is left empty.
    """

    word: str
    blocks: tuple[str, ...]
    spans: tuple[str, ...]
    position: str = ""
    segment: str = ""
    norm: str = ""
    norms: tuple[str, ...] = ()
    causal: bool = False
    transposed: bool = False
    adapters: tuple[tuple[str, str], ...] = ()
    pooler: str = ""
    classifier: str = ""
    final: str = ""
    head: str = ""
    tied: bool = False
    attention: str = ""
    projections: tuple[str, ...] = ()
    heads: int = 0
    mixed: str = ""
    offset: int = 0
    """The number of the first place in the position table (RoBERTa counts from 2)."""


def anatomy_of(model: Model) -> Anatomy:
    """The parts of this model, or an error that says how to name them."""
    found = getattr(model.module, "anatomy", None)
    if not isinstance(found, Anatomy):
        raise InvalidInput(
            f"{type(model.module).__name__} has no .anatomy, so its embeddings and attention "
            "cannot be found. Build the model with seepage.integrations.huggingface.hugging(), "
            "or set module.anatomy = Anatomy(...) with the names of its parts."
        )
    return found


def tokens_of(model: Model) -> Tokens:
    """The form of a language model's sentences."""
    if not isinstance(model.form, Tokens):
        raise InvalidInput(
            f"this attack reads sentences, and the model's form is {type(model.form).__name__}. "
            "Use it on a model whose form is Tokens."
        )
    return model.form


@dataclass(frozen=True, eq=False)
class Network:
    """The attacker's own copy of the broadcast network, whose parts it may call."""

    module: nn.Module
    anatomy: Anatomy
    state: dict[str, Tensor]
    form: Tokens

    @classmethod
    def of(cls, model: Model) -> "Network":
        """Copy the network and load what the server broadcast into the copy."""
        form, anatomy = tokens_of(model), anatomy_of(model)
        module = copy.deepcopy(model.module).eval().requires_grad_(False)
        module.load_state_dict(model.state, strict=False)
        return cls(module, anatomy, model.state, form)

    @property
    def word(self) -> Tensor:
        """The table of word embeddings (vocabulary, width)."""
        return self.state[self.anatomy.word]

    def placed(self, ids: Tensor, places: Tensor) -> Tensor:
        """word[t] + position[p] + segment[0]: the sum that enters the network."""
        return self._summed(self.word[ids], places)

    def _summed(self, total: Tensor, places: Tensor) -> Tensor:
        if self.anatomy.position:
            total = total + self.state[self.anatomy.position][places + self.anatomy.offset]
        if self.anatomy.segment:
            total = total + self.state[self.anatomy.segment][0]
        return total

    def first(self, ids: Tensor, places: Tensor) -> Tensor:
        """x0(t, p): what the projections of block 0 read for token t at place p."""
        return self.normed(self.entering(ids, places), 0)

    def entering(self, ids: Tensor, places: Tensor) -> Tensor:
        """What block 0 is given for token t at place p, before any norm of its own."""
        return self._entering(self.placed(ids, places))

    def second(self, ids: Tensor) -> Tensor:
        """z1: what the projections of block 1 read for whole sentences of one length (n, l)."""
        return self.normed(self._block(0, self.entering(ids, _places(ids))), 1)

    def last(self, ids: Tensor) -> Tensor:
        """The state after the last block (n, l, width), normalised as the head reads it."""
        return self.last_of(self.word[ids])

    def last_of(self, words: Tensor) -> Tensor:
        """The same for word embeddings (n, l, width), differentiable."""
        state = self._entering(self._summed(words, _places(words[..., 0])))
        for number in range(len(self.anatomy.blocks)):
            state = self._block(number, state)
        return self.part(self.anatomy.final)(state) if self.anatomy.final else state

    def _entering(self, total: Tensor) -> Tensor:
        return self.part(self.anatomy.norm)(total) if self.anatomy.norm else total

    def normed(self, state: Tensor, number: int) -> Tensor:
        """A state as the projections of a block read it."""
        norms = self.anatomy.norms
        return self.part(norms[number])(state) if norms else state

    def _block(self, number: int, state: Tensor) -> Tensor:
        block = self.part(self.anatomy.blocks[number])
        masked = {"attention_mask": causal_mask(state)} if self.anatomy.causal else {}
        found = block(state, **masked)
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out

    def part(self, name: str) -> Any:
        """One module of the network."""
        return self.module.get_submodule(name)


def causal_mask(state: Tensor) -> Tensor:
    """0 where a place may look and the lowest number where it may not: (1, 1, l, l)."""
    length, lowest = state.shape[-2], torch.finfo(state.dtype).min
    full = torch.full((length, length), lowest, dtype=state.dtype, device=state.device)
    return full.triu(1)[None, None]


def refuse_dropout(seen: Observation) -> None:
    """Dropout changes what every layer reads, so that no token is where the gradient says."""
    dropping = [m for m in seen.model.module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    if dropping and "train" in _modes(seen.client):
        raise InvalidInput(
            f"the believed client trains with dropout ({dropping[0].p}), which changes the "
            "inputs of every layer. Read spans from clients in eval mode, or without dropout."
        )


def _modes(client: Client | None) -> set[str]:
    modes = set[str]()
    while client is not None:
        modes.add(getattr(client, "mode", ""))
        client = getattr(client, "inner", None)
    return modes


def _places(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
