"""Attacks on language models: sentences from gradients."""

from seepage.attacks.text.anatomy import Anatomy
from seepage.attacks.text.embedding_rows import EmbeddingRows
from seepage.attacks.text.token_span import TokenSpan

__all__ = ["Anatomy", "EmbeddingRows", "TokenSpan"]
