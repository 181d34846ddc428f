"""All that is said of one trial: its candidates against the truth, and trivial guesses too."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.core import Batch
from seepage.errors import InvalidInput
from seepage.forms import Form, Images, Table
from seepage.metrics import baselines, identify, image, labels, match, tabular, text
from seepage.metrics.baselines import shown


@dataclass(frozen=True)
class Context:
    """What the scorer has beside the truth: public data to compare with, and its own stream."""

    public: Tensor | None
    rng: Generator

    def __post_init__(self) -> None:
        if self.public is not None and len(self.public) == 0:
            raise InvalidInput("Context.public is empty. Pass public examples, or None.")


@dataclass(frozen=True)
class Scores:
    """One trial's scores as plain numbers, one entry for each truth, matched or not."""

    scores: dict[str, list[float]]
    recovered: list[bool]
    """By the form's own criterion: above 30 dB, all columns right, the exact sentence."""
    identified: list[bool] | None
    """Nearest of a pool of public examples; None where there is no pool."""
    matched: list[int]
    """The candidate that stands for each truth, or -1."""
    labels: dict[str, float] | None
    """The share of labels that the attack found, beside chance; None where it names none."""
    baselines: dict[str, dict[str, list[float] | list[bool]]]


def score(
    form: Form, truth: Batch, candidates: Tensor, y: Tensor | None, context: Context
) -> Scores:
    """Match candidates to truths and score each truth.

    A truth without a candidate is a failure: it gets the score of the mean of the public data (of
    mid-grey without), and counts as neither recovered nor identified. `y` are the labels that the
    attack names, best candidates first: no more than there are truths are looked at.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> context = Context(public=None, rng=Generator())
    >>> found = score(Images((3, 8, 8), classes=2), Batch(x), x[:1], None, context)
    >>> found.matched, found.recovered
    ([0, -1], [True, False])
    """
    _check(form, candidates, "the candidates")
    if context.public is not None:
        _check(form, context.public, "the public data")
    real, public = shown(form, truth.x), context.public
    fallback = shown(form, baselines.mean(form, truth.x, public))
    guessed, matched = _matched(real, shown(form, candidates), fallback)
    values, pool = _measured(form, guessed, real), _pool(form, public)
    found = None if pool is None else identify.identified(guessed, real, pool) & (matched >= 0)
    return Scores(
        scores={name: column.tolist() for name, column in values.items()},
        recovered=(_recovered(form, values, guessed, real) & (matched >= 0)).tolist(),
        identified=None if found is None else found.tolist(),
        matched=matched.tolist(),
        labels=_labels(y, truth.y, form.classes),
        baselines=_trivial(form, truth.x, context),
    )


def _matched(real: Tensor, offered: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """For each truth its candidate, or its fallback, and the candidate's index or -1."""
    matched = match.assign(match.distances(real, offered))
    spare = len(offered) + torch.arange(len(real))
    everything = torch.cat([offered, fallback.to(offered.dtype)])
    return everything[torch.where(matched >= 0, matched, spare)], matched


def _measured(form: Form, x: Tensor, truth: Tensor) -> dict[str, Tensor]:
    return _first(form, x, truth) | _second(form, x, truth)


def _first(form: Form, x: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The measure by which baselines are compared too."""
    if isinstance(form, Images):
        return {"psnr": image.psnr(x, truth)}
    if isinstance(form, Table):
        return {"columns_right": tabular.columns_right(form, x, truth)}
    return {"tokens_right": text.tokens_right(x, truth, form.pad)}


def _second(form: Form, x: Tensor, truth: Tensor) -> dict[str, Tensor]:
    if isinstance(form, Images):
        return {"ssim": image.ssim(x, truth)}
    return {} if isinstance(form, Table) else {"exact": text.exact(x, truth).double()}


def _recovered(form: Form, values: dict[str, Tensor], x: Tensor, truth: Tensor) -> Tensor:
    if isinstance(form, Images):
        return values["psnr"] > image.RECOVERED
    return values["columns_right"] == 1 if isinstance(form, Table) else text.exact(x, truth)


def _trivial(
    form: Form, truth: Tensor, context: Context
) -> dict[str, dict[str, list[float] | list[bool]]]:
    """The baselines, matched to the truths as candidates are."""
    real, table = shown(form, truth), {}
    for name, guesses in baselines.candidates(form, truth, context.public, context.rng).items():
        offered = shown(form, guesses)
        x, _ = _matched(real, offered, offered)
        values = _first(form, x, real)
        columns: dict[str, list[float] | list[bool]] = {k: v.tolist() for k, v in values.items()}
        table[name] = columns | {"recovered": _recovered(form, values, x, real).tolist()}
    return table


def _pool(form: Form, public: Tensor | None) -> Tensor | None:
    return None if public is None else shown(form, public)


def _labels(guess: Tensor | None, truth: Tensor | None, classes: int) -> dict[str, float] | None:
    """Only labels that count things can be guessed at random: no regression targets, no masks."""
    if guess is None or truth is None or classes < 1:
        return None
    found, real = _hard(guess)[: len(truth)], _hard(truth)
    if real.ndim != 1 or found.ndim != 1 or not torch.equal(real, real.round()):
        return None
    chance = labels.chance(real, classes, guesses=len(found))
    return {"right": labels.right(found, real), "chance": chance}


def _hard(y: Tensor) -> Tensor:
    """One number for each example: soft labels become their likeliest class."""
    y = y.detach().cpu()
    return (y.argmax(1) if y.ndim == 2 and y.is_floating_point() else y).double()


def _check(form: Form, x: Tensor, what: str) -> None:
    if tuple(x.shape[1:]) != tuple(form.shape):
        raise InvalidInput(
            f"{what} have shape {tuple(x.shape)}, and the form says "
            f"(any number, {', '.join(map(str, form.shape))}). Pass them in the form's shape."
        )
