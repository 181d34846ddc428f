"""The commands that check a model or a setting before anything private is shared."""

from pathlib import Path
from typing import Annotated

import typer

from seepage.cli.options import AsJson, Data, Models, Threads


def rank(  # noqa: PLR0913, PLR0917 (an option each)
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE.PY:FUNCTION",
            help="What returns a seepage.Model, or (module, loss, form).",
        ),
    ],
    data: Data = None,
    examples: Annotated[
        int, typer.Option(min=1, help="How many examples are in the batch, with --data.")
    ] = 1,
    noise: Annotated[
        float, typer.Option(help="Noise on the gradient, as a share of its length, with --data.")
    ] = 1e-3,
    basis: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Measure only the N x N lowest cosines of each channel. [default: all directions "
            "of small inputs]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for rank.json and spectrum.png.")
    ] = None,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Count how much of its input a network's gradient fixes; measure it with --data."""
    from seepage.cli import ranking

    asked = ranking.Asked(model, data, examples, noise, basis)
    ranking.run(asked, threads, out, json)


def guard(
    model: Models,
    params: Annotated[
        Path | None,
        typer.Argument(help="The parameters received from the server. [default: those of --model]"),
    ] = None,
    data: Data = None,
    batches: Annotated[
        int, typer.Option(min=1, help="How many of your own batches to check, with --data.")
    ] = 1,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Look for signs that a received model was made to extract data; exit code 1 if any."""
    from seepage.cli import guarding

    guarding.run(guarding.Asked(params, model, data, batches), threads, json)
