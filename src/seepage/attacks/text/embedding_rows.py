"""The rows of the word table that moved, matched to the rows of the position table."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from seepage.attacks.text.anatomy import anatomy_of, tokens_of
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_MOVED = 1e-9
"""A row below this share of the longest one did not move."""

_CLEAR = 9.0
"""By how many median deviations a row must be longer than the noise, six standard deviations."""

_WHOLE = 0.05
"""A solution further than this from zeros and ones is no sentence."""

_ALONE = 0.85
"""A token with more than this of its weight at one place stands nowhere else."""

_PAIR = 0.3
"""The least share of a token's weight at its likeliest place that tells another place. The weights
of a token add up to one, so that a fixed threshold misses tokens of many places."""


@value
class EmbeddingRows:
    """A token's row of the word table moves only where the token is in the batch.

    The word and the position table receive the same gradient d at every place, the one summed by
    token and the other by position: word[t] = sum_(x_sp = t) d_sp and pos[p] = sum_s d_sp. For
    one sentence word = M^T pos with M zeros and ones, which gives the order back, repeats too. For
    several, pos = C^T word by least squares tells which token stands where, in which sentence not.
    Under noise every row moves: then those count that are clearly longer than most rows.

    The token set is known since Melis et al. 2019, arXiv 1805.04049; the order is ours.
    """

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        rows = moved(seen)
        if rows.positions is None:
            return _bag(seen, rows, "no position table was shared, so the order is not determined")
        if seen.n in (1, None):
            sentence, error = _order(rows)
            if error < _WHOLE:
                return _sentence(seen, rows, sentence, error)
        if seen.n == 1:
            return _bag(seen, rows, f"the order does not come out whole (off by {error:.1g})")
        return _bag(seen, rows, "order within sentences not determined", **pairs(rows))


@dataclass(frozen=True, eq=False)
class Rows:
    """The tokens whose rows moved, the places whose rows moved, and these rows in float64."""

    tokens: Tensor
    word: Tensor
    places: Tensor
    positions: Tensor | None


def moved(seen: Observation) -> Rows:
    """The rows of both tables that the update moved."""
    form, anatomy = tokens_of(seen.model), anatomy_of(seen.model)
    if anatomy.word not in seen.update:
        raise InvalidInput(
            f"the update does not hold the word embeddings '{anatomy.word}': they are frozen or "
            "kept back. Use TokenSpan(), which reads the attention."
        )
    if anatomy.tied:
        raise InvalidInput(
            "the output head shares the word table, so that every row moves. Use TokenSpan()."
        )
    least = _noise(seen.update[anatomy.word])
    tokens, word = _moved(seen.update[anatomy.word], least)
    real = tokens != form.pad
    shared = seen.update.get(anatomy.position)
    places, positions = (torch.arange(0), None) if shared is None else _moved(shared, least)
    return Rows(tokens[real], word[real], places - anatomy.offset, positions)


def moved_places(seen: Observation) -> Tensor:
    """The places that any sentence reaches, by the rows of the position table."""
    anatomy, least = anatomy_of(seen.model), 0.0
    if anatomy.word in seen.update and not anatomy.tied:
        least = _noise(seen.update[anatomy.word])
    return _moved(seen.update[anatomy.position], least)[0] - anatomy.offset


def pairs(rows: Rows) -> dict[str, Any]:
    """How surely each token stands at each place: C of word^T C = pos^T, its larger entries."""
    if rows.positions is None or len(rows.tokens) >= rows.word.shape[1]:
        return {"pairs": []}
    weights = _weights(rows.word, rows.positions)
    places, tokens = rows.places.tolist(), rows.tokens.tolist()
    likely = (weights > _PAIR * weights.amax(1, keepdim=True)).nonzero().tolist()
    listed = [[tokens[t], places[p], round(float(weights[t, p]), 4)] for t, p in likely]
    return {"pairs": listed, "weights": weights}


def _weights(word: Tensor, positions: Tensor) -> Tensor:
    """C by least squares, and once more without the tokens that stand at one place only."""
    weights = torch.linalg.pinv(word.T) @ positions.T
    largest, place = weights.max(1)
    several = largest <= _ALONE
    alone = torch.nn.functional.one_hot(place, len(positions)).to(weights)
    rest = positions - alone[~several].T @ word[~several]
    alone[several] = torch.linalg.pinv(word[several].T) @ rest.T
    return alone


def _noise(words: Tensor) -> float:
    """The length that rows of noise alone stay below: most words of a table are in no batch.

    Zero where a row is still, since noise leaves none, and where most rows are not nearly of one
    length (of d entries of noise, within a share of 0.5 / sqrt(d), if Laplace 0.75 / sqrt(d)).
    Both tables have rows of one width, and are as noisy.
    """
    lengths = words.double().norm(dim=1)
    middle = lengths.median()
    spread = (lengths - middle).abs().median()
    if lengths.min() <= _MOVED * lengths.max() or spread > middle / words.shape[1] ** 0.5:
        return 0.0
    return float(middle + _CLEAR * spread)


def _moved(gradient: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The rows that are longer than this, and than rounding."""
    wide = gradient.double()
    lengths = wide.norm(dim=1)
    found = (lengths > max(least, _MOVED * float(lengths.max()))).nonzero().flatten()
    return found, wide[found]


def _order(rows: Rows) -> tuple[Tensor, float]:
    """The token of each place, and how far the solution is from zeros and ones."""
    assert rows.positions is not None
    matrix = torch.linalg.pinv(rows.positions.T) @ rows.word.T
    if not matrix.numel() or len(rows.places) > rows.word.shape[1]:
        return rows.tokens, float("inf")
    best = matrix.argmax(1)
    whole = torch.nn.functional.one_hot(best, len(rows.tokens))
    return rows.tokens[best], float((matrix - whole).abs().max())


def _sentence(seen: Observation, rows: Rows, sentence: Tensor, error: float) -> Reconstruction:
    form = tokens_of(seen.model)
    x = torch.full((1, form.length), form.pad, device=sentence.device)
    x[0, rows.places] = sentence
    like = next(iter(seen.model.params.values()))
    trace = {"tokens": rows.tokens.tolist(), "places": rows.places.tolist()}
    belief, residual = like.new_tensor([1 - error]), like.new_tensor([error])
    return Reconstruction(x, None, belief, residual, "one sentence, its order determined", trace)


def _bag(seen: Observation, rows: Rows, note: str, **more: Any) -> Reconstruction:
    trace = {"tokens": rows.tokens.tolist(), "places": rows.places.tolist(), **more}
    nothing = Reconstruction.nothing(seen, note)
    return Reconstruction(
        nothing.x, None, nothing.belief, nothing.residual, f"{nothing.note}; words in trace", trace
    )
