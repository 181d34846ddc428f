"""A BERT that is made in a moment, for the sentences that the zoo spells word by word."""

import importlib
import importlib.util
from typing import Any

import torch

from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.integrations.huggingface import Masked, anatomy


def available() -> bool:
    """Whether the extra `seepage[text]` is installed."""
    return importlib.util.find_spec("transformers") is not None


def small_bert(form: Tokens, seed: int = 0) -> Model:
    """Three blocks, 128 wide, with random weights and a classifier, in the form's vocabulary."""
    if not available():
        raise InvalidInput("small_bert needs transformers: pip install 'seepage[text]'.")
    transformers: Any = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=form.vocab,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=form.length,
        num_labels=form.classes,
        pad_token_id=form.pad,
        initializer_range=0.08,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.BertForSequenceClassification(config)
    masked = Masked(network, form.pad, anatomy(network))
    return Model.of(masked, torch.nn.functional.cross_entropy, form)
