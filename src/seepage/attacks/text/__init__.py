"""Attacks on language models: sentences from gradients."""

from seepage.attacks.text.anatomy import Anatomy
from seepage.attacks.text.bigram import Bigram
from seepage.attacks.text.embedding_rows import EmbeddingRows
from seepage.attacks.text.lamp import Descent, Lamp
from seepage.attacks.text.pooler import Pooler
from seepage.attacks.text.presets import lamp_cos, lamp_l1l2, tag_scaled, text_dlg, text_tag
from seepage.attacks.text.state_search import StateSearch
from seepage.attacks.text.token_span import TokenSpan

__all__ = [
    "Anatomy",
    "Bigram",
    "Descent",
    "EmbeddingRows",
    "Lamp",
    "Pooler",
    "StateSearch",
    "TokenSpan",
    "lamp_cos",
    "lamp_l1l2",
    "tag_scaled",
    "text_dlg",
    "text_tag",
]
