"""Options that several commands have."""

from typing import Annotated

import typer

Models = Annotated[
    str,
    typer.Option(
        "--model",
        help="file.py:function or package.module:function that returns a seepage.Model, or "
        "(module, loss, form).",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that run trials at the same time.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each process.")]
Where = Annotated[
    str | None,
    typer.Option("--executor", help="ray, or ray://HOST:10001: trials as tasks of a cluster."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")]
FailAbove = Annotated[
    str | None,
    typer.Option(
        "--fail-above",
        metavar="recovered=SHARE",
        help="Exit with code 1 if a larger share of some batch was recovered.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="file.py:function or package.module:function that returns a Batch, (x, y), or a "
        "DataLoader."
    ),
]
