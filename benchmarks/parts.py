"""How a benchmark of several parts is asked for, and prints."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping

import torch

Row = tuple[str, str]


def printed(parts: Mapping[str, Callable[[], Iterator[Row]]]) -> None:
    """The parts named on the command line, or all: JSON lines as they come, then a table."""
    torch.set_num_threads(1)
    rows = []
    for part in sys.argv[1:] or parts:
        for name, got in parts[part]():
            print(json.dumps({"part": part, "name": name, "got": got}), flush=True)
            rows.append((name, got))
    for name, got in rows:
        print(f"| {name} | {got} |")
