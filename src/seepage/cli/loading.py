"""What a command line names: functions of files and modules, clients, attacks, labels."""

import contextlib
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from seepage import expr
from seepage.core import Attack, Batch, Client, Model
from seepage.errors import InvalidInput, SeepageError
from seepage.forms import Images, Table, Tokens
from seepage.integrations import checkpoints
from seepage.trials import Trial

_HOW = "Write file.py:function, or package.module:function"


def called(text: str) -> Any:
    """What `file.py:function`, or `package.module:function(width=4)`, returns."""
    place, colon, call = text.partition(":")
    if not colon or not place or not call:
        raise InvalidInput(f"{text!r} names no function. {_HOW}.")
    module = _module(place, text)
    name = call.partition("(")[0].strip()
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInput(f"{place} has no function {name!r}. {_nearest(name, module)}")
    later: Callable[..., Any] = partial(partial, function)
    run = expr.read(call if "(" in call else f"{call}()", {name: later})
    with _theirs(text):
        return run()


def trials(text: str) -> list[Trial]:
    """The trials of a file: what its `trials`, or the name after the colon, holds or yields."""
    place, colon, call = text.partition(":")
    if not place.endswith(".py") and not colon:
        raise InvalidInput(f"{text!r} names no file of trials. Write sweep.py or sweep.py:trials.")
    module, call = _module(place, text), call or "trials"
    held = getattr(module, call, None)
    made = called(f"{place}:{call}") if held is None or callable(held) else held
    if isinstance(made, Trial):
        made = [made]
    if not isinstance(made, Iterable):
        raise InvalidInput(
            f"{text} gives {_kinds(made)}. Give seepage.Trial values, or yield them."
        )
    with _theirs(text):
        found = list(made)
    wrong = next((one for one in found if not isinstance(one, Trial)), None)
    if wrong is not None or not found:
        given = "nothing" if wrong is None else _kinds(wrong)
        raise InvalidInput(
            f"{text} gives {given} where a trial is expected. Yield seepage.Trial(model, batch, "
            "client, attack)."
        )
    return found


def model(text: str) -> Model | nn.Module:
    """The model that a function returns, as a `Model` where its loss and form are given."""
    made = called(text)
    if isinstance(made, Model | nn.Module):
        return made
    match made:
        case (nn.Module() as module, loss, Images() | Table() | Tokens() as form) if callable(loss):
            return Model.of(module, loss, form)
    raise InvalidInput(
        f"{text} returned {_kinds(made)}. Return a seepage.Model, or (module, loss, form), such as "
        "(net, torch.nn.functional.cross_entropy, seepage.Images((3, 32, 32), classes=10))."
    )


def whole_model(text: str) -> Model:
    """As `model`, where there are no data to infer a form from."""
    made = model(text)
    if isinstance(made, Model):
        return made
    raise InvalidInput(
        f"{text} returned a bare {type(made).__name__}, and what its inputs look like cannot be "
        "known. Return (module, loss, form)."
    )


def broadcast(model: Model, path: Path) -> Model:
    """The model with the parameters of a file: of any framework, or a saved observation."""
    tensors = checkpoints.read(path)
    try:
        return model.with_params(checkpoints.named(tensors, model.module.state_dict(), "the state"))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


def examples(text: str) -> Tensor:
    """The examples, without labels, that a function returns."""
    made = called(text)
    if isinstance(made, tuple | list) and made:
        made = made[0]
    x = made.x if isinstance(made, Batch) else made
    if not isinstance(x, Tensor):
        raise InvalidInput(f"{text} returned {_kinds(made)}. Return a tensor of examples.")
    return x


def client(text: str) -> Client:
    """A client as an expression."""
    made: Client = _callable(text, "client", "FedSGD()")
    return made


def attack(text: str) -> Attack:
    """An attack as an expression, or a plain function of a module of the user's."""
    made: Attack = _callable(text, "attack", "Invert(steps=500)")
    return made


def labels(text: str) -> Tensor:
    """Labels such as 3,0,7."""
    try:
        return torch.tensor([int(part) for part in text.split(",")])
    except ValueError:
        raise InvalidInput(f"labels {text!r} are not numbers. Write them as in 3,0,7.") from None


def told(words: Sequence[str]) -> tuple[Any, ...]:
    """What the attacker is told: each of n and y at most once; "none" is neither."""
    unknown = sorted(set(words) - {"n", "y", "none"})
    if unknown:
        raise InvalidInput(f"--tell {unknown[0]} is not known: use n, y, or none.")
    return tuple(word for word in ("n", "y") if word in words)


def _callable(text: str, what: str, example: str) -> Any:
    with _importable(Path.cwd()):
        made = expr.read_own(text)
    if isinstance(made, type) or not callable(made):
        raise InvalidInput(f'{text!r} is not a {what}: write it with its brackets, "{example}".')
    return made


def _module(place: str, text: str) -> ModuleType:
    if not place.endswith(".py"):
        with _importable(Path.cwd()), _theirs(text):
            try:
                return importlib.import_module(place)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                    raise  # it is there, and misses something itself
                raise InvalidInput(
                    f"there is no module {error.name!r}, for {text!r}. Run from the folder that "
                    f"holds it, or set PYTHONPATH. {_HOW}."
                ) from None
    path = Path(place).resolve()
    if not path.is_file():
        raise InvalidInput(f"there is no file {place}, for {text!r}. {_HOW}.")
    # By its plain name, so that worker processes can import it too.
    with _importable(path.parent), _theirs(text):
        module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise InvalidInput(f"{place} has the name of another module, {path.stem}. Rename the file.")
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of this folder be found, from now on: workers search where this process does."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    yield


@contextlib.contextmanager
def _theirs(text: str) -> Iterator[None]:
    """Say in a sentence what goes wrong in a user's own code, and where."""
    try:
        yield
    except SeepageError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever the user's own code raises)
        *_, last = traceback.extract_tb(error.__traceback__)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInput(
            f"{text} failed with {said} ({Path(last.filename).name}, line {last.lineno}). "
            "Repair it, and run the command again."
        ) from None


def _nearest(name: str, module: ModuleType) -> str:
    public = [n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_")]
    close = difflib.get_close_matches(name, public, n=1)
    return f"Did you mean {close[0]}?" if close else f"It has {', '.join(public[:8]) or 'none'}."


def _kinds(made: object) -> str:
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return f"a {type(made).__name__}"
