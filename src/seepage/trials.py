"""One trial: a client's round, an attack on what it shared, and a score; and many of them."""

import functools
import hashlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

import seepage
from seepage import tree
from seepage.core import Attack, Batch, Client, Model, Reconstruction, Told, observe, stream
from seepage.errors import Failed
from seepage.executors import Executor, Serial
from seepage.forms import Images, form_to
from seepage.metrics import score
from seepage.metrics.image import psnr
from seepage.prints import Prints, of_batch, of_model
from seepage.store import Row, Store, plain
from seepage.sweeping import Progress, Step, failed, resumed
from seepage.values import describe

__all__ = ["Progress", "Step", "Trial", "run", "sweep"]

_SHOWN = 64  # examples and candidates kept in an artefact


@dataclass(frozen=True, eq=False, repr=False)
class Trial:
    """Everything that one row depends on: equal trials have equal keys, in every process."""

    model: Model
    batch: Batch
    client: Client
    attack: Attack
    believed: Client | None = None
    tell: tuple[Told, ...] = ("n",)
    seed: int = 0
    public: Tensor | None = None

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this trial in a store."""
        return _key(self, Prints())

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"{describe(self.attack)} on {describe(self.client)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        about = (type(self.model.module).__name__, describe(self.client), describe(self.attack))
        return f"Trial({', '.join(about)}, seed={self.seed})"


def run(trial: Trial, key: str | None = None) -> Row:
    """Do one trial: the row that a store would hold, without pictures.

    Where no store will hold it, any `key` spares the fingerprints of the model and the data.
    """
    return _measured(trial, trial.key if key is None else key)[0]


def sweep(
    trials: Sequence[Trial],
    store: Store | str | Path | None = None,
    executor: Executor = Serial(),  # noqa: B008 (a frozen value)
    progress: Progress | None = None,
) -> list[Row]:
    """Do every trial that the store does not hold yet; a row for each, in the order of the trials.

    A trial that fails becomes a row with its error, and is run again by the next sweep.
    """
    store, prints = Store.of(store), Prints()
    named = {_key(trial, prints): trial for trial in trials}
    rows = resumed(named, store, functools.partial(_finished, store, executor), progress)
    return [rows[_key(trial, prints)] for trial in trials]


def _finished(
    store: Store, executor: Executor, todo: Sequence[tuple[str, Trial]]
) -> Generator[Row, None, None]:
    """The rows of these trials as they come, each on the disk before it is given."""
    if not todo:
        return
    # Machines of their own may not see this disk: they send the pictures with the row.
    apart = getattr(executor, "apart", False)
    work: Any = _sent if apart else functools.partial(_recorded, store)
    with store.writing() as append:
        for index, made in executor(cast(Callable[[tuple[str, Trial]], Any], work), todo):
            key, trial = todo[index]
            if isinstance(made, Failed):
                row = failed(_about(trial, key), made)
            else:
                row = _received(store, key, made) if apart else made
            append(row)
            yield row


def _recorded(store: Store, item: tuple[str, Trial]) -> Row:
    """Do one trial and write its pictures, where the executor runs it."""
    key, trial = item
    row, pictures = _measured(trial, key)
    if pictures:
        row["artefact"] = store.keep(key, pictures)
    return row


def _sent(item: tuple[str, Trial]) -> tuple[Row, bytes]:
    """Do one trial where there is no store; its pictures as bytes, since any pipe takes those."""
    row, pictures = _measured(item[1], item[0])
    return row, save(pictures) if pictures else b""


def _received(store: Store, key: str, made: tuple[Row, bytes]) -> Row:
    row, pictures = made
    if pictures:
        row["artefact"] = store.keep(key, load(pictures))
    return row


def _measured(trial: Trial, key: str) -> tuple[Row, dict[str, Tensor]]:
    about = _about(trial, key)
    try:
        answer, seconds = _attacked(trial)
        row, pictures = _scored(trial, answer)
    except Exception as error:  # noqa: BLE001 (one trial's own work: the rest goes on)
        return failed(about, error), {}
    return {**about, **plain(row), "seconds": seconds}, pictures


def _attacked(trial: Trial) -> tuple[Reconstruction, float]:
    """The round and the attack on it, each with a stream of its own; and the attack's CPU time."""
    model, attack = trial.model, trial.attack
    if hasattr(attack, "craft"):
        model = attack.craft(model, stream(trial.seed, "craft"))
    client_rng = stream(trial.seed, "client")
    seen = observe(model, trial.batch, trial.client, client_rng, trial.believed, trial.tell)
    start = time.process_time()
    answer = attack(seen, stream(trial.seed, "attack"))
    return answer, time.process_time() - start


def _scored(trial: Trial, answer: Reconstruction) -> tuple[Row, dict[str, Tensor]]:
    context = score.Context(trial.public, stream(trial.seed, "score"))
    x, y = answer.x.detach(), None if answer.y is None else answer.y.detach()
    scores = score.score(trial.model.form, trial.batch, x, y, context)
    matched = [index if index >= 0 else None for index in scores.matched]
    chosen, shown = _shown(matched, len(x))
    tensors, numbers = _traced(answer.trace)
    residuals = answer.residual.tolist()
    row: Row = {
        "scores": scores.scores,
        "recovered": scores.recovered,
        "labels": scores.labels,
        "residual": [None if index is None else residuals[index] for index in matched],
        "candidates": len(x),
        "baselines": scores.baselines,
        "ceilings": _limits(trial, scores, len(x)),
        "trace": numbers,
        "note": answer.note,
        "shown": shown,
        "matched": matched,
    }
    if scores.identified is not None:
        row["identified"] = scores.identified
    if "trace/frames" in tensors:
        row["frames_psnr"] = _on_the_way(trial, tensors["trace/frames"], matched)
    pictures = _pictures(trial.batch, x[chosen], None if y is None else y[chosen])
    return row, pictures | {name: _own(tensor) for name, tensor in tensors.items()}


def _on_the_way(trial: Trial, frames: Tensor, matched: list[int | None]) -> list[list[float]]:
    """How near the answer for each original was at each picture of a search: only scorers know."""
    form, truth = trial.model.form, trial.batch.x
    places = [index for index in matched if index is not None]
    fits = isinstance(form, Images) and tuple(frames.shape[2:]) == form.shape
    if not isinstance(form, Images) or not fits or frames.shape[1] <= max(places, default=0):
        return []
    places = [0 if index is None else index for index in matched[:_SHOWN]]
    pairs = zip(places, truth, strict=False)
    return [
        psnr(form.show(frames[:, i]), form.show(x).expand(len(frames), *form.shape)).tolist()
        for i, x in pairs
    ]


def _limits(trial: Trial, scores: score.Scores, candidates: int) -> list[Row]:
    from seepage.analysis import verdict  # SciPy, which those who only name a trial can spare
    from seepage.analysis.ceilings import Release, ceilings

    about = trial.model, trial.client, len(trial.batch), trial.batch.y, trial.public
    limits = ceilings(Release(*about, candidates, hasattr(trial.attack, "craft")))
    return verdict.beside(limits, scores.recovered, scores.scores.get("psnr", ()))


def _shown(matched: list[int | None], candidates: int) -> tuple[list[int], list[int | None]]:
    """Which candidates to keep, the matched ones first, and where each truth finds its own."""
    first = [index for index in matched[:_SHOWN] if index is not None]
    rest = [index for index in range(candidates) if index not in set(matched)]
    chosen = (first + rest)[:_SHOWN]
    places = {index: place for place, index in enumerate(chosen)}
    return chosen, [None if index is None else places.get(index) for index in matched]


def _pictures(truth: Batch, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    named = {
        "truth/x": truth.x[:_SHOWN],
        "truth/y": None if truth.y is None else truth.y[:_SHOWN],
        "answer/x": x,
        "answer/y": y,
    }
    return {name: _own(tensor) for name, tensor in named.items() if tensor is not None}


def _own(tensor: Tensor) -> Tensor:
    # A file has no views: each tensor is written with memory of its own.
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _traced(trace: Mapping[str, Any], name: str = "trace") -> tuple[dict[str, Tensor], Row]:
    """The tensors of a trace under their paths, and what remains, as JSON."""
    tensors: dict[str, Tensor] = {}
    numbers: Row = {}
    for part, thing in trace.items():
        if isinstance(thing, Tensor) and thing.ndim > 0:
            tensors[f"{name}/{part}"] = thing
        elif isinstance(thing, Mapping):
            inner, numbers[part] = _traced(thing, f"{name}/{part}")
            tensors |= inner
        else:
            numbers[part] = plain(thing)
    return tensors, numbers


def _about(trial: Trial, key: str) -> Row:
    """The configuration of a trial, which failed rows have too."""
    return {
        "key": key,
        "status": "done",
        "name": type(trial.model.module).__name__,
        "parameters": tree.size(trial.model.params),
        "client": describe(trial.client),
        "attack": describe(trial.attack),
        "believed": describe(trial.believed or trial.client),
        "tell": list(trial.tell),
        "seed": trial.seed,
        "n": len(trial.batch),
        "batch": of_batch(trial.batch),
        "form": plain(form_to(trial.model.form)),
        "malicious": hasattr(trial.attack, "craft"),
        "error": None,
        "version": seepage.__version__,
    }


def _key(trial: Trial, prints: Prints) -> str:
    public = trial.public
    parts = (
        seepage.__version__,
        prints.of(trial.client, describe),
        prints.of(trial.attack, describe),
        prints.of(trial.believed or trial.client, describe),
        tuple(sorted(trial.tell)),
        trial.seed,
        prints.of(trial.model, of_model),
        prints.of(trial.batch, of_batch),
        None if public is None else prints.of(public, describe),
    )
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
