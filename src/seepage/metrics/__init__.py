"""Scores: how near a reconstruction came to the truth, beside what a trivial guess achieves.

Functions of single examples take (n, ...) and (n, ...) and return (n,); `score.score` puts them
together for one trial.
"""

from seepage.metrics import baselines, identify, image, labels, match, score, tabular, text

__all__ = ["baselines", "identify", "image", "labels", "match", "score", "tabular", "text"]
