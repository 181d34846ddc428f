"""The derivative of the gradient with respect to the input, of any network, and its spectrum.

Near x the update of x + dx is g + J dx. Directions with J dx = 0 cannot be told from one update;
noise sigma on every entry of g leaves a mean squared error of at least sigma^2 tr((J^T J)^-1)/n.
Fisher information as a score of inversion: Zhang et al. 2023, Inversion Influence Function.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage import tree
from seepage.analysis.confirm import SMALLEST
from seepage.core import Batch, Model, stream
from seepage.errors import InvalidInput
from seepage.tree import Tensors

_CHUNK = 64
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of J, largest first, for unknowns of a subspace of the input.

    `scaled` has each tensor's rows divided by the length of its gradient, so that no layer hides
    behind another; `values` is J itself, and `layers` has the singular values of each layer's rows
    of J, whose squared matrices add up to that of J. `length` and `entries` are those of the
    gradient, for noise given relative to it.
    """

    scaled: Tensor
    values: Tensor
    length: float
    entries: int
    layers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def unknowns(self) -> int:
        return len(self.values)

    @property
    def rank(self) -> int:
        """Directions that one gradient tells apart: squares above 1e-13 of the largest."""
        return _counted(self.scaled)

    def told(self, layer: str) -> int:
        """Directions that the gradient of one layer alone tells apart."""
        return _counted(self.layers[layer])

    @property
    def condition(self) -> float:
        """The largest singular value over the smallest that counts."""
        return float(self.scaled[0] / self.scaled[self.rank - 1]) if self.rank else math.inf

    def error(self, noise: float) -> float:
        """The least root mean square error of any unbiased attacker, noise relative to |g|.

        Infinite where a direction is undetermined.
        """
        if self.rank < self.unknowns:
            return math.inf
        sigma = noise * self.length / math.sqrt(self.entries)
        return sigma * math.sqrt(float(self.values.pow(-2).mean()))

    def above(self, noise: float, size: float = 0.1) -> int:
        """Directions whose own error under this noise is below `size`, a tenth of the range."""
        return int((self.values > self.floor(noise, size)).sum())

    def floor(self, noise: float, size: float = 0.1) -> float:
        """The singular value of a direction whose own error under this noise is `size`."""
        return noise * self.length / math.sqrt(self.entries) / size


@dataclass(frozen=True)
class Cost:
    """What a measurement takes, estimated from two of its columns."""

    columns: int
    seconds: float
    gigabytes: float


def jacobian(
    model: Model,
    batch: Batch,
    basis: int | Tensor | None = None,
    sketch: int | None = 3,
    progress: Progress | None = None,
) -> Spectrum:
    """The spectrum of J at this batch, over all inputs or those spanned by a basis.

    `basis=4` takes the 4x4 lowest cosines of every channel; a tensor has one direction a row.
    Tensors with more than `sketch` times as many entries as there are directions are hashed down
    to that many rows, which keeps the rank and disturbs singular values by a few percent to half.

    >>> from seepage import zoo
    >>> found = jacobian(*zoo.example())
    >>> found.unknowns, found.rank
    (4, 4)
    """
    directions = _directions(batch.x, basis)
    gradient, columns = _tangents(model, batch)
    sizes = tree.mapped(lambda g: g.norm(), gradient)
    used = [name for name, size in sizes.items() if float(size) > 0]
    n, done = len(directions), 0
    parts: dict[str, list[Tensor]] = {name: [] for name in used}
    for chunk in torch.split(directions, _CHUNK):
        made = columns(chunk)
        for name in used:
            parts[name].append(_hashed(made[name].flatten(1).double(), n, sketch, name))
        done += len(chunk)
        if progress is not None:
            progress(done, n)
    return _spectrum(parts, sizes, gradient)


def cost(model: Model, batch: Batch, basis: int | Tensor | None = None) -> Cost:
    """Time and memory of `jacobian`, from two columns: to be told before it starts."""
    directions = _directions(batch.x, basis)
    gradient, columns = _tangents(model, batch)
    start = time.perf_counter()
    columns(directions[:2])
    each = (time.perf_counter() - start) / 2
    n = len(directions)
    sizes = [min(g.numel(), 3 * n) for g in gradient.values()]
    rows = sum(sizes)
    algebra = (2 * rows * n**2 + 10 * n**3 + sum(5 * min(size, n) ** 3 for size in sizes)) / 2e9
    return Cost(n, each * n + algebra, (rows * n + 3 * n**2) * 8 / 1e9)


def _tangents(model: Model, batch: Batch) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensors]]:
    """The gradient, and a function from directions of x to those of the gradient."""
    if not batch.x.is_floating_point():
        raise InvalidInput(
            f"rank.jacobian: inputs of type {batch.x.dtype} have no derivative. Pass embeddings, "
            "or a model of continuous inputs."
        )

    def gradient(x: Tensor) -> dict[str, Tensor]:
        def risk(params: Tensors) -> Tensor:
            return model.risk(params, Batch(x, batch.y if batch.y is not None else batch.x))

        found: dict[str, Tensor] = torch.func.grad(risk)(dict(model.params))
        return found

    def along(v: Tensor) -> dict[str, Tensor]:
        made: dict[str, Tensor] = torch.func.jvp(gradient, (batch.x,), (v,))[1]
        return made

    def columns(chunk: Tensor) -> Tensors:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # Forward differentiation loads a module of torch that warns of itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            made: Tensors = torch.vmap(along)(chunk.view(-1, *batch.x.shape))
        return made

    return tree.mapped(lambda g: g.detach().double(), gradient(batch.x)), columns


def _directions(x: Tensor, basis: int | Tensor | None) -> Tensor:
    n = x.numel()
    if basis is None:
        return torch.eye(n, dtype=x.dtype, device=x.device)
    if isinstance(basis, Tensor):
        if basis[0].numel() != n:
            raise InvalidInput(
                f"rank.jacobian: a basis of rows of {basis[0].numel()} entries for a batch of {n}. "
                "Pass one direction of the whole batch in each row."
            )
        return basis.reshape(len(basis), n).to(x)
    return _cosines(x, basis)


def _cosines(x: Tensor, count: int) -> Tensor:
    """The lowest cosines of every channel of every image, of length one."""
    if x.ndim != 4:
        raise InvalidInput(
            f"rank.jacobian: basis={count} is for images, and the batch has shape "
            f"{tuple(x.shape)}. Pass a basis as a tensor, or None."
        )
    tall, wide = (_axis(side, min(count, side)) for side in x.shape[2:])
    planes = torch.einsum("ah,bw->abhw", tall, wide).flatten(0, 1)
    places = math.prod(x.shape[:2])
    made = torch.einsum("ij,phw->ipjhw", torch.eye(places, dtype=planes.dtype), planes)
    return made.reshape(places * len(planes), -1).to(x)


def _axis(side: int, count: int) -> Tensor:
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * math.pi / side
    waves = torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * at)
    made: Tensor = waves / waves.norm(dim=1, keepdim=True)
    return made


def _hashed(columns: Tensor, n: int, sketch: int | None, name: str) -> Tensor:
    """Rows added up in 3 n random groups with random signs: a CountSketch."""
    if sketch is None or columns.shape[1] <= sketch * n:
        return columns
    rng, length = stream(0, name), columns.shape[1]
    group = torch.randint(sketch * n, (length,), generator=rng).to(columns.device)
    sign = torch.randint(2, (length,), generator=rng).to(columns) * 2 - 1
    made = columns.new_zeros(len(columns), sketch * n)
    return made.index_add_(1, group, columns * sign)


def _spectrum(parts: dict[str, list[Tensor]], sizes: Tensors, gradient: Tensors) -> Spectrum:
    scaled = plain = torch.zeros(())
    layers: dict[str, Tensor] = {}
    for layer, names in _by_layer(parts).items():
        tensors = [torch.cat(parts.pop(name)) for name in names]
        grams = [own @ own.T for own in tensors]
        for name, gram in zip(names, grams, strict=True):
            plain = plain + gram
            scaled = scaled + gram / sizes[name].square()
        rows = sum(own.shape[1] for own in tensors)
        small = rows < len(grams[0])
        layers[layer] = _singular(
            _outer(torch.cat(tensors, 1)) if small else sum(grams[1:], grams[0])
        )
    length, entries = float(tree.norm(gradient)), tree.size(gradient)
    return Spectrum(_singular(scaled), _singular(plain), length, entries, layers)


def _counted(values: Tensor) -> int:
    return int((values.square() > SMALLEST * values[0].square()).sum())


def _outer(rows: Tensor) -> Tensor:
    return rows.T @ rows


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """The tensors of each module: its weight and its bias see the input through the same signal."""
    made: dict[str, list[str]] = {}
    for name in names:
        made.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return made


def _singular(gram: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return values
