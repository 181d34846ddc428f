"""Where trials run: here one after another, or in several processes. The results are the same."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, TypeVar

import torch

from seepage.checks import at_least
from seepage.errors import Failed, InvalidInput
from seepage.values import value

__all__ = ["Executor", "Processes", "Serial"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Do a piece of work on every item, and give each result with the item's number, in any order.

    An item that cannot be finished (its process was killed twice) gives a `Failed`.
    """

    def __call__(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result | Failed]]: ...


@value
class Serial:
    """One item after another, in this process.

    The number of threads is fixed, since sums in another order are other numbers.

    >>> list(Serial()(abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """

    threads: int = 1

    def __post_init__(self) -> None:
        at_least("Serial.threads", self.threads, 1)

    def __call__(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result | Failed]]:
        for index, item in enumerate(items):
            with _threads(self.threads):
                result = work(item)
            yield index, result


@value
class Processes:
    """Several processes at once: bit for bit what `Serial` with as many threads gives.

    Each process receives all items once, together, so that a model that many of them share
    travels once. When a process is killed, its item is tried once more in a new one.
    """

    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        at_least("Processes.workers", self.workers, 1)
        at_least("Processes.threads", self.threads, 1)

    def __call__(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result | Failed]]:
        packed = _packed(work, items)
        todo, losses = deque(range(len(items))), Counter[int]()
        crew: list[_Worker] = []
        try:
            while todo or crew:
                while todo and len(crew) < self.workers:
                    crew.append(_hired(packed, self.threads, todo.popleft()))
                for worker in _heard(crew):
                    match worker.hear():
                        case "done", result:
                            yield worker.index, result
                            crew.remove(worker)
                            if worker.given(todo):
                                crew.append(worker)
                        case "lost", _:
                            crew.remove(worker)
                            losses[worker.index] += 1
                            if losses[worker.index] > 1:
                                yield worker.index, _lost(worker)
                            else:
                                todo.appendleft(worker.index)
                        case "broken", error:
                            raise error
        finally:
            for worker in crew:
                worker.process.kill()
                worker.process.join()


@dataclass
class _Worker:
    """A process with the item that it works on."""

    process: SpawnProcess
    pipe: "Connection[Any, Any]"
    index: int
    ready: bool = False

    def hear(self) -> tuple[str, Any]:
        try:
            kind, said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            if not self.ready:
                return "broken", _unstarted(self.process)
            return "lost", None
        self.ready = self.ready or kind == "ready"
        return kind, said

    def given(self, todo: deque[int]) -> bool:
        """Take the next item, or leave when there is none."""
        if not todo:
            self.pipe.close()
            self.process.join()
            return False
        self.index = todo.popleft()
        # One that was just killed is noticed when it is heard next.
        with contextlib.suppress(OSError):
            self.pipe.send(self.index)
        return True


def _hired(packed: bytes, threads: int, index: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, packed, threads), daemon=True)
    with _deaf():
        process.start()
    theirs.close()
    with contextlib.suppress(OSError):
        ours.send(index)
    return _Worker(process, ours, index)


def _heard(crew: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.pipe for worker in crew])
    return [worker for worker in crew if worker.pipe in ready]


def _serve(pipe: "Connection[Any, Any]", packed: bytes, threads: int) -> None:
    """The life of a worker: unpack everything once, then one item after another."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work, items = pickle.loads(packed)  # noqa: S301 (our own parent sent it)
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", work(items[pipe.recv()])))
    except EOFError:
        return
    except InvalidInput as error:
        pipe.send(("broken", error))
    except (AttributeError, ImportError, pickle.UnpicklingError) as error:
        pipe.send(("broken", InvalidInput(f"{_UNPICKLABLE} ({type(error).__name__}: {error}).")))


_UNPICKLABLE = (
    "this model, loss, client or attack cannot be sent to another process: define its functions "
    "and classes by name at the top of a module (no lambda), or use executor=Serial()"
)


def _packed(work: Callable[[Item], Result], items: Sequence[Item]) -> bytes:
    try:
        return pickle.dumps((work, list(items)), protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInput(f"{_UNPICKLABLE} ({type(error).__name__}: {error}).") from None


def _lost(worker: _Worker) -> Failed:
    return Failed(
        f"its process ended twice with exit code {worker.process.exitcode}, most often for lack "
        "of memory: use fewer workers, or a smaller batch."
    )


def _unstarted(process: SpawnProcess) -> Failed:
    return Failed(
        f"a worker process could not start (exit code {process.exitcode}). A script that uses "
        "Processes must be a file, and must do its work under: if __name__ == '__main__'."
    )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C goes to every process of the terminal: only this one shall hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
