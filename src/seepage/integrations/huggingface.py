"""Hugging Face transformers as a `Model`: `hugging(network, tokenizer)`; extra `seepage[text]`.

Padding is masked, names stay those of the network's own state_dict, frozen parameters and the
base of a LoRA become buffers.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage.attacks.text.anatomy import Anatomy
from seepage.checks import one_of
from seepage.core import Batch, Model
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.values import value

Task = Literal["classify", "next"]


class Masked(nn.Module):
    """A transformers network that takes ids (n, l) or embeddings (n, l, width), and masks pads.

    A row of embeddings that equals the pad's own is padding. Its children are the network's, so
    that its names are too.
    """

    def __init__(self, network: Any, pad: int, anatomy: Anatomy | None) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        # Kept out of the modules: its children are registered here under their own names.
        self.__dict__["network"] = network
        self.pad, self.anatomy = pad, anatomy

    def __setattr__(self, name: str, given: Any) -> None:
        super().__setattr__(name, given)
        if "network" in self.__dict__ and name in self._modules:
            # A layer that is replaced here is replaced where it is called.
            setattr(self.__dict__["network"], name, given)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point() and x.ndim == 3:
            real = (x.detach() != self._pad_row(x)).any(-1)
            return self._logits(real, inputs_embeds=x)
        self._check(x)
        return self._logits(x != self.pad, input_ids=x)

    def _logits(self, real: Tensor, **given: Tensor) -> Tensor:
        out = self.__dict__["network"](attention_mask=real.long(), **given)
        logits: Tensor = out.logits
        return logits

    def _pad_row(self, x: Tensor) -> Tensor:
        table = self.__dict__["network"].get_input_embeddings().weight
        row: Tensor = table[self.pad].to(x)
        return row

    def _check(self, x: Tensor) -> None:
        if x.is_floating_point():
            raise InvalidInput(
                f"x holds {x.dtype} of shape {tuple(x.shape)}: ids are whole numbers (n, l), "
                "embeddings floats (n, l, width). Build the batch with encoded(), or use x.long()."
            )
        words = len(self.__dict__["network"].get_input_embeddings().weight)
        if bool(((x < 0) | (x >= words)).any()):
            raise InvalidInput(
                f"x holds ids from {int(x.min())} to {int(x.max())}, and the network knows 0 to "
                f"{words - 1}. Encode the texts with the network's own tokenizer."
            )
        real = x != self.pad
        if bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise InvalidInput(
                f"the pad {self.pad} stands inside a sentence. Pad on the right, and use a "
                "separate pad id: tokenizer.add_special_tokens({'pad_token': '[PAD]'})."
            )


def hugging(network: Any, tokenizer: Any, task: Task = "classify", length: int = 32) -> Model:
    """Any transformers classifier, or causal language model (`task="next"`), as a `Model`.

    Parameters that do not require a gradient are frozen; a network wrapped by peft works as it is.
    Load it with attn_implementation="eager" to simulate clients at any depth: the fused attention
    has no second derivative, and is replaced where one is needed.
    """
    one_of("hugging.task", task, ("classify", "next"))
    parts = anatomy(network)
    form = _form(network, tokenizer, task, length)
    _check_network(network, form, parts)
    loss = NextToken(form.pad) if task == "next" else classified
    return Model.of(Masked(network, form.pad, parts), loss, form)


def classified(logits: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of each sentence's class."""
    if y.ndim != 1:
        raise InvalidInput(
            f"the network classifies sentences, and the batch has no labels: y has shape "
            f"{tuple(y.shape)}. Pass encoded(tokenizer, form, texts, labels), or "
            'hugging(..., task="next") for a language model.'
        )
    return functional.cross_entropy(logits, y)


@value
class NextToken:
    """The mean cross-entropy of each token given those before it; pads are no target."""

    pad: int

    def __call__(self, logits: Tensor, x: Tensor) -> Tensor:
        if x.is_floating_point():
            raise InvalidInput(
                "next-token training is its own target, so embeddings cannot be simulated without "
                "ids. Use TokenSpan, which needs no simulation."
            )
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), x[:, 1:].flatten(), ignore_index=self.pad
        )


def encoded(
    tokenizer: Any, form: Tokens, texts: Sequence[str], y: Sequence[int] | None = None
) -> Batch:
    """Texts as right-padded ids; special tokens are added where the form has a start or an end."""
    special = form.start is not None or form.end is not None
    rows = [tokenizer.encode(text, add_special_tokens=special) for text in texts]
    longest = max(map(len, rows))
    if longest > form.length:
        raise InvalidInput(
            f"a text has {longest} tokens, and the form holds {form.length}. "
            "Pass hugging(..., length=) as long as the longest text."
        )
    x = torch.full((len(rows), form.length), form.pad)
    for line, ids in zip(x, rows, strict=True):
        line[: len(ids)] = torch.tensor(ids)
    return Batch(x, None if y is None else torch.tensor(y))


def anatomy(network: Any) -> Anatomy | None:
    """Where BERT, RoBERTa, DistilBERT and GPT-2 keep their parts; None for other families."""
    modules = dict(network.named_modules())
    for prefix, module in modules.items():
        if hasattr(module, "wte") and hasattr(module, "h"):
            return _decoder(modules, prefix)
        if hasattr(module, "embeddings") and hasattr(module.embeddings, "word_embeddings"):
            return _encoder(modules, prefix)
    return None


def _encoder(modules: dict[str, Any], prefix: str) -> Anatomy:
    def at(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    distilled = at("transformer.layer") in modules
    layers = at("transformer.layer" if distilled else "encoder.layer")
    inside = "attention" if distilled else "attention.self"
    names = ("q_lin", "k_lin", "v_lin") if distilled else ("query", "key", "value")
    table = at("embeddings.token_type_embeddings")
    attention = f"{layers}.0.{inside}"
    queries = [f"{layers}.{number}.{inside}.{names[0]}" for number in (0, 1)]
    count = "n_heads" if distilled else "num_attention_heads"
    padding = getattr(modules[at("embeddings.position_embeddings")], "padding_idx", None)
    return Anatomy(
        word=at("embeddings.word_embeddings.weight"),
        position=at("embeddings.position_embeddings.weight"),
        segment=f"{table}.weight" if table in modules else "",
        norm=at("embeddings.LayerNorm"),
        blocks=tuple(f"{layers}.{i}" for i in range(len(modules[layers]))),
        spans=tuple(_weight(modules, name) for name in queries),
        adapters=_adapters(modules, queries),
        attention=attention,
        projections=tuple(f"{attention}.{name}" for name in names),
        heads=int(getattr(modules[attention], count)),
        mixed=f"{attention}.out_lin" if distilled else "",
        pooler=at("pooler.dense") if at("pooler.dense") in modules else "",
        classifier=_classifier(modules),
        offset=0 if padding is None else padding + 1,
    )


def _decoder(modules: dict[str, Any], prefix: str) -> Anatomy:
    blocks = [f"{prefix}.h.{i}" if prefix else f"h.{i}" for i in range(len(modules[prefix].h))]
    projections = [f"{name}.attn.c_attn" for name in blocks[:2]]
    heads = [name for name in modules if name.split(".")[-1] == "lm_head"]
    word = modules[prefix].wte.weight
    return Anatomy(
        word=f"{prefix}.wte.weight",
        position=f"{prefix}.wpe.weight",
        blocks=tuple(blocks),
        norms=tuple(f"{name}.ln_1" for name in blocks),
        spans=tuple(_weight(modules, name) for name in projections),
        adapters=_adapters(modules, projections),
        causal=True,
        transposed=True,
        classifier=_classifier(modules),
        final=f"{prefix}.ln_f",
        head=f"{heads[0]}.weight" if heads else "",
        tied=bool(heads) and modules[heads[0]].weight is word,
    )


def _weight(modules: dict[str, Any], name: str) -> str:
    return f"{name}.base_layer.weight" if f"{name}.base_layer" in modules else f"{name}.weight"


def _adapters(modules: dict[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The LoRA pairs of the projections, where peft put some."""
    found = [name for name in names if f"{name}.lora_A.default" in modules]
    return tuple((f"{n}.lora_A.default.weight", f"{n}.lora_B.default.weight") for n in found)


def _classifier(modules: dict[str, Any]) -> str:
    trained = [
        n
        for n in modules
        if n.endswith(("classifier.modules_to_save.default", "score.modules_to_save.default"))
    ]
    plain = [n for n in modules if n.split(".")[-1] in ("classifier", "score")]
    names = [n for n in trained or plain if isinstance(modules[n], nn.Linear)]
    return names[0] if names else ""


def _form(network: Any, tokenizer: Any, task: Task, length: int) -> Tokens:
    """What the tokenizer and the configuration say of a sentence."""
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        raise InvalidInput(
            f"the tokenizer's pad is {pad!r}: a pad that is missing, or ends sentences too, "
            "cannot be told from text. Use a separate pad id: tokenizer.pad_token = ..."
        )
    config, causal = network.config, hasattr(network.config, "n_embd")
    vocab = int(network.get_input_embeddings().weight.shape[0])
    words = [w or "" for w in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    unused = {i for i, word in enumerate(words) if word.startswith("[unused")}
    marks = {pad, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id}
    return Tokens(
        length,
        vocab,
        pad,
        start=config.bos_token_id if causal else tokenizer.cls_token_id,
        end=config.eos_token_id if causal else tokenizer.sep_token_id,
        forbidden=tuple(sorted(i for i in (unused | marks) - {None} if i < vocab)),
        words=tuple(words[:vocab] + [""] * (vocab - len(words))),
        classes=0 if task == "next" else int(config.num_labels),
    )


def _check_network(network: Any, form: Tokens, parts: Anatomy | None) -> None:
    config = network.config
    if config.pad_token_id != form.pad:
        raise InvalidInput(
            f"network.config.pad_token_id={config.pad_token_id!r}, and the tokenizer pads with "
            f"{form.pad}. Set network.config.pad_token_id = tokenizer.pad_token_id."
        )
    longest = getattr(config, "max_position_embeddings", None)
    spare = parts.offset if parts else 0
    if longest is not None and form.length > longest - spare:
        raise InvalidInput(
            f"hugging.length={form.length} is beyond the network's {longest - spare} positions. "
            "Pass a smaller length."
        )
