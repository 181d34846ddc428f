"""`seepage capture`: what a client shared, from the states before and after, of any framework."""

from pathlib import Path

from seepage import files, tree
from seepage.cli import loading, screen
from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.integrations import checkpoints
from seepage.tree import Tensors


def run(before: Path, after: Path, model: str | None, out: Path) -> None:
    """Write before minus after as a file for `seepage attack`, and say what is in it."""
    states = [checkpoints.read(path) for path in (before, after)]
    if model is not None:
        like = loading.whole_model(model)
        states = [
            checkpoints.named(state, like.module.state_dict(), str(path))
            for state, path in zip(states, (before, after), strict=True)
        ]
        _check(like, states[0], before)
    elif any(map(checkpoints.positional, states)):
        raise InvalidInput(
            f"{before} and {after} hold arrays without names. Pass --model file.py:build, whose "
            "state_dict() has them in this order."
        )
    try:
        update = checkpoints.difference(*states)
    except InvalidInput as error:
        raise InvalidInput(f"{before} and {after}: {error}") from None
    if model is not None:  # a tied weight has several names in a state_dict, and one here
        update = {name: u for name, u in update.items() if name in like.state}
    files.write(out, update, {})
    screen.out().print(_said(update, len(states[0])), markup=False, highlight=False)
    screen.note(f"Written to {out}. Next: {_attack(before, model, out)}")


def _check(model: Model, state: Tensors, path: Path) -> None:
    try:
        model.with_params(state)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


def _said(update: Tensors, held: int) -> str:
    still = sum(not bool(tensor.any()) for tensor in update.values())
    lines = [
        f"{len(update)} tensors, {tree.size(update)} numbers, length {float(tree.norm(update)):.4g}"
    ]
    if held > len(update):
        lines.append(f"{held - len(update)} tensors of whole numbers left out")
    if still:
        lines.append(f"{still} tensors did not change: frozen, or statistics")
    return "; ".join(lines) + "."


def _attack(before: Path, model: str | None, out: Path) -> str:
    return f"seepage attack {out} --model {model or 'app.py:build'} --params {before}"
