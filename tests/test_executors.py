"""Executors give the same results in whatever process the work is done."""

import os
import signal
from pathlib import Path

import pytest
import torch

from seepage.errors import Failed, InvalidInput
from seepage.executors import Executor, Processes, Serial


def double(x: int) -> int:
    return 2 * x


def layers(x: torch.Tensor) -> list[float]:
    """Sums whose last bits depend on how the work is split."""
    return [float((x @ x.T).softmax(1).pow(power).sum()) for power in (0.5, 2.0)]


def threads(_: int) -> int:
    return torch.get_num_threads()


def same(item: list[torch.Tensor]) -> tuple[int, int]:
    return os.getpid(), id(item[0])


def die(item: tuple[str, str]) -> str:
    """Kill the own process: always, or only the first time."""
    kind, folder = item
    first = Path(folder, kind)
    if kind == "always" or (kind == "once" and not first.exists()):
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return kind


def complain(_: int) -> None:
    raise InvalidInput("disk full")


@pytest.mark.parametrize("executor", [Serial(), Processes(2), Processes(5)])
def test_every_item_gives_its_result(executor: Executor) -> None:
    assert sorted(executor(double, [3, 1, 2])) == [(0, 6), (1, 2), (2, 4)]
    assert list(executor(double, [])) == []


def test_processes_are_bit_for_bit_serial() -> None:
    items = [torch.rand(300, 70, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    assert dict(Processes(2)(layers, items)) == dict(Serial()(layers, items))


def test_threads_are_fixed_and_given_back() -> None:
    before = torch.get_num_threads()
    assert dict(Serial(threads=2)(threads, [0])) == {0: 2}
    assert dict(Processes(1, threads=2)(threads, [0])) == {0: 2}
    assert torch.get_num_threads() == before


def test_what_items_share_travels_once() -> None:
    shared = [torch.ones(3)]
    seen = {result for _, result in Processes(1)(same, [shared] * 4)}
    assert len(seen) == 1


def test_a_killed_worker_costs_only_its_item(tmp_path: Path) -> None:
    kinds = ["calm", "always", "calm", "once", "calm"]
    results = dict(Processes(2)(die, [(kind, str(tmp_path)) for kind in kinds]))
    assert [results[i] for i in (0, 2, 3, 4)] == ["calm", "calm", "once", "calm"]
    assert isinstance(results[1], Failed)
    assert "exit code -9" in str(results[1])


def test_what_cannot_travel_is_a_clear_error() -> None:
    with pytest.raises(InvalidInput, match=r"lambda.*Serial\(\)"):
        list(Processes(1)(lambda x: x, [1]))


def test_an_error_of_the_work_itself_stops_everything() -> None:
    for executor in (Serial(), Processes(1)):
        with pytest.raises(InvalidInput, match="disk full"):
            list(executor(complain, [1, 2]))


def test_fields_are_checked() -> None:
    with pytest.raises(InvalidInput, match="workers=0"):
        Processes(0)
    with pytest.raises(InvalidInput, match="threads=0"):
        Serial(threads=0)
