"""What one gets without any update: no attack has shown a leak until it beats these."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from seepage.forms import Column, Form, Images, Table, Tokens
from seepage.metrics.match import distances

_BLIND = {Images: "mid-grey", Table: "zero row", Tokens: "padding"}


def candidates(
    form: Form, truth: Tensor, public: Tensor | None, rng: Generator
) -> dict[str, Tensor]:
    """Guesses for every truth, in the network's own units, by name.

    "mean of public" is the same for all ("mid-grey", "zero row" or "padding" where there are no
    public data), "nearest public" is an oracle: the public example closest to each truth,
    "random" is drawn from the form alone.

    >>> grey = candidates(Images((1, 2, 2), 2), torch.rand(3, 1, 2, 2), None, Generator())
    >>> sorted(grey), float(grey["mid-grey"].mean())
    (['mid-grey', 'random'], 0.5)
    """
    guesses = {mean_name(form, public): mean(form, truth, public)}
    if public is not None:
        nearest = distances(shown(form, truth), shown(form, public)).argmin(1)
        guesses["nearest public"] = public.cpu()[nearest]
    return guesses | {"random": _random(form, len(truth), rng)}


def mean_name(form: Form, public: Tensor | None) -> str:
    """What the first baseline is called."""
    return _BLIND[type(form)] if public is None else "mean of public"


def mean(form: Form, truth: Tensor, public: Tensor | None) -> Tensor:
    """One guess for all: the mean of the public examples, or of the form where there are none."""
    return _centre(form, public).expand(len(truth), *form.shape)


def shown(form: Form, x: Tensor) -> Tensor:
    """Examples as they are compared: pictures in [0, 1], rows of a table, whole token numbers."""
    x = x.detach().cpu()
    if isinstance(form, Images):
        return form.show(x.float() if x.dtype in (torch.half, torch.bfloat16) else x)
    return (
        x.round().long()
        if isinstance(form, Tokens)
        else x.to(torch.promote_types(x.dtype, torch.float))
    )


def _centre(form: Form, public: Tensor | None) -> Tensor:
    if isinstance(form, Tokens):
        blank = torch.full(form.shape, form.pad)
        return blank if public is None else shown(form, public).mode(0).values
    if public is not None:
        return public.cpu().double().mean(0)
    blank = torch.zeros(form.shape, dtype=torch.float64)
    return (
        form.normalised(blank + (form.low + form.high) / 2) if isinstance(form, Images) else blank
    )


def _random(form: Form, n: int, rng: Generator) -> Tensor:
    match form:
        case Images():
            uniform = torch.rand(n, *form.shape, generator=rng)
            return form.normalised(form.low + (form.high - form.low) * uniform)
        case Table():
            return torch.cat([_column(column, n, rng) for column in form.columns], 1)
        case Tokens():
            allowed = [t for t in range(form.vocab) if t not in set(form.forbidden)]
            drawn = torch.randint(len(allowed), (n, *form.shape), generator=rng)
            return torch.tensor(allowed)[drawn]


def _column(column: Column, n: int, rng: Generator) -> Tensor:
    if not column.levels:
        return torch.randn(n, 1, generator=rng)
    return one_hot(torch.randint(column.width, (n,), generator=rng), column.width).float()
