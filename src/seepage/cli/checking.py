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


def dp(  # noqa: PLR0913, PLR0917 (an option each)
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise over the clipping norm.")
    ] = None,
    std: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise, with --clip.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="The clipping norm.")] = None,
    client: Annotated[
        str | None,
        typer.Option(help='Instead of these: such as "Noise(Clip(FedSGD(), norm=1), std=0.2)".'),
    ] = None,
    sample_rate: Annotated[
        float, typer.Option(help="Chance of each record to be in a round (Poisson).")
    ] = 1.0,
    steps: Annotated[int, typer.Option(help="Rounds, or steps of training.")] = 1,
    delta: Annotated[float, typer.Option(help="The delta of (epsilon, delta).")] = 1e-5,
    epsilon: Annotated[float | None, typer.Option(help="The epsilon that is declared.")] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="The sensitivity that the noise was computed for.")
    ] = None,
    chance: Annotated[
        float, typer.Option(help="An attacker's chance of success before the update is seen.")
    ] = 0.01,
    want_epsilon: Annotated[float | None, typer.Option(help="The noise for this epsilon.")] = None,
    want_success: Annotated[
        float | None,
        typer.Option(help="The noise that keeps any attacker's success below this probability."),
    ] = None,
    want_psnr: Annotated[
        float | None,
        typer.Option(help="The noise that keeps reconstructions below this PSNR, with --public."),
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="As --data: public images in [0, 1], for a prior.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Compare a declared epsilon with the tight one, or compute the noise that is enough."""
    from seepage.cli import accounts

    setting = accounts.Setting(noise_multiplier, std, clip, client, epsilon, sensitivity)
    rounds = accounts.Rounds(steps, sample_rate, delta)
    wanted = accounts.Wanted(want_epsilon, want_success, want_psnr, chance, public)
    accounts.run(setting, rounds, wanted, json)
