"""Trials on many machines: each a task of a Ray cluster, with the results of a serial run."""

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from seepage.checks import at_least, positive
from seepage.errors import Failed, InvalidInput
from seepage.values import value

__all__ = ["Ray"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_TRIES = 3  # further ones, after machines that died under a task
_unpacked: dict[str, Any] = {}


@value
class Ray:
    """Tasks of a Ray cluster, `workers` at a time: bit for bit what `Serial` gives.

    `address` is a cluster's ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001"); None starts one on
    this machine. Each task takes `cpus` and `gpus`, which may be shares. The work and all items
    are put into the cluster once, and each process unpacks them once. What a dead machine had
    under way is done again elsewhere. Nothing is written there: the driver has the only store.
    """

    address: str | None = None
    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    threads: int = 1

    apart = True
    """Its machines may not see the driver's disk: results come back whole."""

    def __post_init__(self) -> None:
        at_least("Ray.workers", self.workers, 1)
        at_least("Ray.threads", self.threads, 1)
        at_least("Ray.gpus", self.gpus, 0)
        positive("Ray.cpus", self.cpus)

    def __call__(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result | Failed]]:
        if not items:
            return
        with _connected(self):
            yield from self._spread(work, items)

    def _spread(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result | Failed]]:
        import ray

        shared = ray.put(_packed(work, items))
        task = ray.remote(_done).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_TRIES)
        todo, flying = deque(range(len(items))), dict[Any, int]()
        try:
            while todo or flying:
                while todo and len(flying) < self.workers:
                    index = todo.popleft()
                    flying[task.remote([shared], index, self.threads)] = index
                for reference in ray.wait(list(flying), num_returns=1)[0]:
                    yield flying.pop(reference), _result(reference)
        finally:
            for reference in flying:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)


@contextlib.contextmanager
def _connected(asked: Ray) -> Iterator[None]:
    """A cluster to work on; one that was not there before is left when the work is done."""
    try:
        import ray
    except ImportError:
        raise InvalidInput(
            "Ray is not installed. Install it with: pip install 'seepage[ray]', or use Processes()."
        ) from None
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {"num_cpus": math.ceil(asked.workers * asked.cpus)}
    here = {**here, "include_dashboard": False} if asked.address is None else {}
    try:
        ray.init(address=asked.address or "local", log_to_driver=False, logging_level=40, **here)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = " ".join(dict.fromkeys((lines[0], lines[-1])))[:300]
        raise InvalidInput(
            f"no Ray cluster at {asked.address!r} ({said}). Start one with 'ray start --head', and "
            "give its address, or None for one on this machine."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _packed(work: Callable[[Item], Result], items: Sequence[Item]) -> tuple[list[str], bytes]:
    """Everything in one piece, so that what items share travels once; and where modules are."""
    from ray import cloudpickle

    dumps: Callable[[object], bytes] = cloudpickle.dumps
    try:
        return sys.path, dumps((work, list(items)))
    except Exception as error:
        raise InvalidInput(
            "this model, loss, client or attack cannot be sent to another machine "
            f"({type(error).__name__}: {error}). Use executor=Serial(), or leave out what holds "
            "open files, locks or sockets."
        ) from error


def _done(shared: list[Any], index: int, threads: int) -> Any:
    """One item, in a process of the cluster, which unpacks everything when it is first asked."""
    import ray

    key = shared[0].hex()
    if key not in _unpacked:
        from ray import cloudpickle

        paths, packed = ray.get(shared[0])
        sys.path.extend(path for path in paths if path not in sys.path)
        _unpacked.clear()
        _unpacked[key] = cloudpickle.loads(packed)
    work, items = _unpacked[key]
    torch.set_num_threads(threads)
    return work(items[index])


def _result(reference: Any) -> Any:
    """What a task gave; an error of the work itself is raised here, a lost one is `Failed`."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, Exception) else Failed(str(error)) from None
    except ray.exceptions.RayError as error:
        said = (str(error).splitlines() or [""])[0][:200]
        return Failed(
            f"its machine or process was lost {_TRIES + 1} times ({type(error).__name__}: {said}),"
            " most often for lack of memory: use fewer workers, or a smaller batch."
        )
