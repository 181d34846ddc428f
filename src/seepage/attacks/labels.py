"""Which labels were in the batch: read from the last linear layer under softmax cross-entropy.

With the mean over n examples, row c of the last layer's bias gradient is
gb_c = p_c - k_c / n, where p_c is the mean predicted probability of class c and k_c its count:
counts are k_c = n (p_c - gb_c), and all that a rule must guess is p.
"""

import math
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from seepage.attacks.head import Head, bias_gradient, head_of, matrix, mean_prediction
from seepage.attacks.units import noise
from seepage.checks import one_of
from seepage.core import Observation
from seepage.errors import InvalidInput
from seepage.values import value

__all__ = [
    "IDLG",
    "Chance",
    "Counts",
    "Head",
    "Impact",
    "Joint",
    "Rule",
    "Told",
    "Yin",
    "bias_gradient",
    "certainty",
    "chance",
    "head_of",
    "mean_prediction",
    "overlap",
    "recounted",
    "rounded",
]

Guess = Literal["uniform", "noise", "features"]


class Rule(Protocol):
    """Labels for n examples: whole numbers, or scores (n, classes) to be searched with the data."""

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor: ...


@value
class Told:
    """The labels that the threat model tells."""

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        if seen.y is None:
            raise InvalidInput(
                "labels=Told(), and this observation tells none. Observe with tell=('n', 'y'), "
                "or let a rule read them from the update: Counts()."
            )
        return seen.y


@value
class Chance:
    """Uniformly random labels: the baseline of every rule."""

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        return torch.randint(seen.model.form.classes, (n,), generator=rng).to(seen.model.device)


@value
class IDLG:
    """The one row with a negative gradient: y = argmin_c sum_j gW_cj, exact for one example.

    Zhao et al. 2020, arXiv 2001.02610. Features that are not negative make row y the only one
    below zero; where the bias gradient is shared, its sign needs no such assumption.
    """

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        if n != 1:
            raise InvalidInput(f"IDLG reads the label of one example, and n={n}. Use Counts().")
        head = head_of(seen)
        if head.bias_gradient is not None:
            return head.bias_gradient.argmin()[None]
        return matrix(head, "IDLG").sum(1).argmin()[None]


@value
class Yin:
    """The n rows with the smallest minima of gW: every class at most once.

    Yin et al. 2021, arXiv 2104.07586.
    """

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        head = head_of(seen)
        if n > head.classes:
            raise InvalidInput(
                f"Yin names each class at most once, and n={n} is more than the {head.classes} "
                "classes. Use Counts()."
            )
        smallest = matrix(head, "Yin").amin(1)
        return smallest.argsort(stable=True)[:n].sort().values


@value
class Impact:
    """Every class with a negative gradient once, then again and again the most negative left.

    Each found label is taken to have pulled its row by m = sum_(gb < 0) gb / n.
    Wainakh et al. 2021, arXiv 2105.09369.
    """

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        left = bias_gradient(seen, head_of(seen), rng).double()
        negative = left.argsort(stable=True)[: min(n, int((left < 0).sum()))]
        pull = left[negative].sum() / n
        left[negative] -= pull
        found = negative.tolist()
        while len(found) < n:
            found.append(int(left.argmin()))
            left[found[-1]] -= pull
        return torch.tensor(sorted(found), device=left.device)


@value
class Counts:
    """k_c = n (p_c - gb_c), rounded so that the counts add up to n; duplicates are no obstacle.

    The mean prediction p is guessed: `uniform` 1/C (an untrained network predicts nothing),
    `noise` the mean over 256 random inputs, `features` from each class's own mean feature
    h_c = gW_c / gb_c. Each is exact where its guess is.

    >>> from seepage import zoo
    >>> from seepage.core import observe, stream
    >>> from seepage.clients import FedSGD
    >>> model, batch = zoo.example()
    >>> seen = observe(model, batch, FedSGD(), stream(0, "client"))
    >>> labels = Counts()(seen, len(batch), stream(0, "attack"))
    >>> torch.equal(labels, batch.y.sort().values)
    True
    """

    pbar: Guess = "uniform"

    def __post_init__(self) -> None:
        one_of("Counts.pbar", self.pbar, ("uniform", "noise", "features"))

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        head = head_of(seen)
        if self.pbar == "features":
            return rounded(_explained(head, n), n)
        gradient = bias_gradient(seen, head, rng)
        predicted = torch.full_like(gradient, 1 / head.classes)
        if self.pbar == "noise":
            predicted = mean_prediction(seen, noise(seen.model.form, 256, gradient, rng))
        return rounded(n * (predicted - gradient), n)


@value
class Joint:
    """Labels searched with the data: y = softmax(l), and argmax of the final l is the answer.

    Zhu et al. 2019, arXiv 1906.08935.
    """

    def __call__(self, seen: Observation, n: int, rng: Generator) -> Tensor:
        like = next(iter(seen.model.params.values()))
        classes = seen.model.form.classes
        if classes < 2:
            raise InvalidInput(
                f"Joint() searches class labels, and the form has {classes} classes."
            )
        return torch.randn((n, classes), generator=rng, dtype=torch.float64).to(like)


def rounded(expected: Tensor, n: int) -> Tensor:
    """Labels whose counts are nearest to expected ones and add up to n, in ascending order.

    >>> rounded(torch.tensor([1.6, 0.1, 1.3]), 3)
    tensor([0, 0, 2])
    """
    wanted = expected.double().clamp(0, n)
    counts = wanted.floor()
    while (missing := n - int(counts.sum())) != 0:
        rest = wanted - counts
        if missing > 0:
            counts[rest.argmax()] += 1
        else:
            counts[torch.where(counts > 0, rest, math.inf).argmin()] -= 1
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts.long())


def certainty(expected: Tensor) -> float:
    """How far expected counts are from whole numbers: 0 is sure, 0.25 is chance. Needs no truth."""
    return float((expected - expected.round()).abs().mean())


def recounted(seen: Observation, x: Tensor, y: Tensor) -> Tensor:
    """The labels y, corrected by k_c = n (p_c - gb_c) with p from the candidates themselves.

    Only where that comes out nearer to whole numbers than with the p of an untrained network.
    Candidates keep their labels as far as the counts allow.
    """
    head, n = head_of(seen), len(y)
    if head.bias_gradient is None:
        return y
    with torch.no_grad():
        each = seen.model.predict(x).softmax(-1)
    expected = n * (each.mean(0) - head.bias_gradient)
    plain = n * (1 / head.classes - head.bias_gradient)
    if certainty(expected) >= min(certainty(plain), 0.15):
        return y
    return _kept(y, rounded(expected, n), each)


def _kept(y: Tensor, wanted: Tensor, each: Tensor) -> Tensor:
    """The wanted labels in an order that keeps as many of y in place as can be."""
    left = torch.bincount(wanted, minlength=each.shape[1])
    found = y.clone()
    spare = []
    for place in each.gather(1, y[:, None])[:, 0].argsort(descending=True).tolist():
        if left[y[place]] > 0:
            left[y[place]] -= 1
        else:
            spare.append(place)
    rest = torch.arange(len(left), device=y.device).repeat_interleave(left)
    found[spare] = rest
    return found


def overlap(found: Tensor, truth: Tensor) -> float:
    """The share of the truth's labels that were found, order aside; -1 stands for no label.

    >>> overlap(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    0.6666666666666666
    """
    classes = int(max(found.max(), truth.max())) + 1
    pair = [torch.bincount(y[y >= 0], minlength=classes) for y in (found, truth)]
    return float(torch.minimum(*pair).sum()) / len(truth)


def chance(n: int, classes: int) -> float:
    """The expected overlap of n uniform guesses with n uniform labels.

    C/n sum_k P(K >= k)^2 with K binomial(n, 1/C): what `Chance` scores where classes are balanced.

    >>> round(chance(8, 10), 2), round(chance(32, 10), 2)
    (0.45, 0.71)
    """
    share = 1 / classes
    mass = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    return classes / n * sum(sum(mass[k:]) ** 2 for k in range(1, n + 1))


def _explained(head: Head, n: int) -> Tensor:
    """Counts k >= 0 with (P - I)^T k = n gb and sum k = n, P_c the prediction at the mean feature.

    h_c = gW_c / gb_c averages the features that row c saw.
    """
    if head.bias is None or head.bias_gradient is None:
        raise InvalidInput(
            "Counts(pbar='features') divides the last layer's weight gradient by its bias "
            "gradient, and this update has no such bias. Use Counts(pbar='uniform')."
        )
    gradient = head.bias_gradient
    safe = torch.where(gradient.abs() > 1e-12, gradient, 1e-12)
    features = matrix(head, "Counts(pbar='features')") / safe[:, None]
    predicted = (features @ head.weight.T + head.bias).softmax(-1).double()
    rows = (predicted - torch.eye(head.classes, device=predicted.device)).T
    left = torch.cat([rows, torch.ones_like(rows[:1])]).cpu().numpy()
    right = torch.cat([n * gradient.double(), gradient.new_tensor([n]).double()]).cpu().numpy()
    from scipy.optimize import nnls

    found, _ = nnls(left, right)
    return torch.from_numpy(found).to(gradient.device)
