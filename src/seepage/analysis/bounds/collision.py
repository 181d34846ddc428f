"""Without noise: two batches with one update, where they can be built."""

import torch
from torch import Generator, Tensor

from seepage.analysis.bounds.bound import Bound
from seepage.analysis.bounds.channel import Linearised, linearised
from seepage.core import Batch, Client, Model, noiseless
from seepage.tree import flat

_SAME = 1e-9


def collide(
    model: Model, client: Client, batch: Batch, rng: Generator, steps: int = 30
) -> tuple[Bound, Tensor]:
    """A batch x' in range with the update of x: the worst attacker's error is >= |x - x'| / 2.

    Steps along the kernel of the derivative, each corrected by Gauss and Newton, as long as
    |G(x') - G(x)| <= 1e-9 |G(x)| in double precision. Answers "none" where no step holds: that is
    no proof that x is unique. For small batches: the derivative is held whole.
    """
    x = batch.x.detach().double()
    low, high = _range(model, x)
    goal = _update(model, client, Batch(x, batch.y)).update.detach()
    best, way = x, torch.randn(x.numel(), generator=rng, dtype=torch.float64)
    length = 0.1 * float(x.norm() + 1)
    for _ in range(steps):
        linear = _update(model, client, Batch(best, batch.y))
        along = _kernel_part(linear, way)
        if float(along.norm()) <= 1e-6 * float(way.norm()):
            break
        tried = best + length * (along / along.norm()).view(x.shape)
        tried = _corrected(model, client, Batch(tried.clamp(low, high), batch.y), goal)
        inside = bool(((tried >= low) & (tried <= high)).all())
        if inside and _distance(model, client, Batch(tried, batch.y), goal) <= _SAME:
            best, way = tried, along
        else:
            length /= 2
    apart = float((best - x).norm())
    if apart == 0:
        return Bound(0.0, "distance", "none", ("no other batch with this update was found",)), x
    why = ("the two batches are built, both in range", "worst case over the two", "no noise")
    return Bound(apart / 2, "distance", "certified", why), best


def hidden(model: Model, client: Client, batch: Batch) -> list[int]:
    """The records that the update does not depend on: nothing without noise can recover them."""
    linear = _update(model, client, batch)
    rows = linear.x.shape[0]
    size = linear.x.numel() // rows
    drawn = torch.eye(linear.x.numel(), dtype=torch.float64).view(rows, size, -1)
    return [i for i in range(rows) if not bool(linear.push(drawn[i]).any())]


def _update(model: Model, client: Client, batch: Batch) -> Linearised:
    state = {k: v.double() for k, v in model.state.items() if v.is_floating_point()}
    leaf = batch.x.detach().double().requires_grad_()
    order = Generator().manual_seed(0)
    with torch.enable_grad():
        update = flat(noiseless(client)(model.replaced(state), Batch(leaf, batch.y), order))
    return linearised(leaf, update, (1.0, "gauss", False))


def _kernel_part(linear: Linearised, way: Tensor) -> Tensor:
    """The part of a direction that the update does not feel."""
    matrix = linear.push(torch.eye(linear.x.numel(), dtype=torch.float64)).T
    sizes, right = torch.linalg.svd(matrix, full_matrices=True)[1:]
    rank = int((sizes > 1e-9 * sizes[0]).sum())
    kernel = right[rank:]
    along: Tensor = kernel.T @ (kernel @ way)
    return along


def _corrected(model: Model, client: Client, batch: Batch, goal: Tensor) -> Tensor:
    x = batch.x
    for _ in range(8):
        linear = _update(model, client, Batch(x, batch.y))
        rest = goal - linear.update.detach()
        matrix = linear.push(torch.eye(x.numel(), dtype=torch.float64)).T
        step = torch.linalg.lstsq(matrix, rest[:, None], rcond=1e-9, driver="gelsd").solution
        x = x + step.view(x.shape)
        if float(step.norm()) <= 1e-13 * float(x.norm()):
            break
    return x


def _distance(model: Model, client: Client, batch: Batch, goal: Tensor) -> float:
    found = _update(model, client, batch).update.detach()
    return float((found - goal).norm() / goal.norm())


def _range(model: Model, like: Tensor) -> tuple[Tensor, Tensor]:
    box = getattr(model.form, "box", None)
    if box is not None:
        low, high = box(like)
        return low, high
    far = like.new_tensor(float("inf"))
    return -far, far
