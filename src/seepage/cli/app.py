"""The commands and their options; what they do is in the other files of this folder."""

from pathlib import Path
from typing import Annotated

import typer

from seepage.cli import checking
from seepage.cli.guarded import guarded
from seepage.cli.options import AsJson, FailAbove, Models, Threads, Where, Workers

app = typer.Typer(
    name="seepage",
    help="Measure how much private data leaks from what clients share in federated learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The script `seepage`."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        import seepage

        typer.echo(f"seepage {seepage.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    pass


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", help="A folder.")] = Path("runs/demo"),
    workers: Workers = 2,
) -> None:
    """Audit an embedded example on bundled photographs, and write its report."""
    from seepage.cli import demonstrating

    demonstrating.run(out, workers)


@app.command()
@guarded
def audit(  # noqa: PLR0913, PLR0917 (an option each)
    model: Models,
    data: Annotated[
        str,
        typer.Option(
            help="file.py:function or package.module:function that returns a Batch, (x, y), or a "
            "DataLoader."
        ),
    ],
    client: Annotated[
        list[str] | None, typer.Option(help='Such as "FedAvg(lr=0.1)". Repeat.')
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help='Such as "Invert(steps=500)". Repeat.')
    ] = None,
    tell: Annotated[
        list[str] | None, typer.Option(help="What the attacker knows: n, y. Repeat. [default: n]")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeat. [default: 0]")] = None,
    batches: Annotated[int, typer.Option(min=1, help="How many batches to attack.")] = 1,
    public: Annotated[
        str | None, typer.Option(help="As --data: public examples, to compare scores with.")
    ] = None,
    workers: Workers = 1,
    threads: Threads = 1,
    store: Annotated[
        Path, typer.Option(help="A folder. The same command goes on where it was stopped.")
    ] = Path("runs/audit"),
    out: Annotated[
        Path | None, typer.Option(help="The report's HTML file. [default: STORE/report.html]")
    ] = None,
    json: AsJson = False,
    fail_above: FailAbove = None,
    executor: Where = None,
) -> None:
    """Measure what attacks recover from what clients share of your model and data."""
    from seepage.cli import auditing

    asked = auditing.Asked(
        model, data, public, client or [], attack or [], tell or ["n"], seed or [0], batches
    )
    auditing.run(asked, store, (workers, threads, executor), auditing.Ending(out, json, fail_above))


@app.command()
@guarded
def attack(  # noqa: PLR0913, PLR0917 (an option each)
    update: Annotated[
        Path, typer.Argument(help="A captured update (names and tensors), or a saved Observation.")
    ],
    model: Models,
    params: Annotated[
        Path | None,
        typer.Option(help="The parameters that were broadcast, if the model does not hold them."),
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="The client believed in. [default: the file's, or FedSGD()]")
    ] = None,
    attack: Annotated[str, typer.Option(help="Such as Invert(steps=500).")] = "Invert()",
    n: Annotated[int | None, typer.Option(min=1, help="The number of examples, if known.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Their labels, if known, such as 3,0,7.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The attack's random stream.")] = 0,
    threads: Threads = 1,
    out: Annotated[Path, typer.Option("--out", help="A folder.")] = Path("runs/attack"),
) -> None:
    """Attack one captured update, offline, and write what comes out."""
    from seepage.cli import attacking

    known = attacking.Known(update, model, params, client, n, labels)
    attacking.run(known, attack, seed, threads, out)


@app.command()
@guarded
def sweep(  # noqa: PLR0913, PLR0917 (an option each)
    trials: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP.PY[:NAME]",
            help="A Python file whose `trials` (or NAME) holds or yields seepage.Trial values.",
        ),
    ],
    workers: Workers = 1,
    threads: Threads = 1,
    store: Annotated[
        Path, typer.Option(help="A folder. The same command goes on where it was stopped.")
    ] = Path("runs/sweep"),
    out: Annotated[
        Path | None, typer.Option(help="The report's HTML file. [default: STORE/report.html]")
    ] = None,
    json: AsJson = False,
    fail_above: FailAbove = None,
    executor: Where = None,
) -> None:
    """Do the trials that a Python file of yours lists, and write their report."""
    from seepage.cli import auditing

    auditing.sweep(
        trials, store, (workers, threads, executor), auditing.Ending(out, json, fail_above)
    )


@app.command()
@guarded
def tradeoff(  # noqa: PLR0913, PLR0917 (an option each)
    task: Annotated[str, typer.Option(help="digits, photos, faces, table, or reviews.")] = "digits",
    model: Annotated[
        str | None, typer.Option(help="Instead of a task, with --data: as for audit.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="What returns all examples with their classes, as (x, y).")
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="As --data: public examples, to compare leaks with.")
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(help='Such as "Prune(FedSGD(), ratio=0.9)". Repeat. [default: six families]'),
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Repeat. [default: the task's]")] = None,
    examples: Annotated[int, typer.Option(min=1, help="In each batch that is attacked.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Every second strength, fewer rounds and seeds.")
    ] = False,
    workers: Workers = 1,
    threads: Threads = 1,
    store: Annotated[
        Path | None,
        typer.Option(help="A folder; a stopped run goes on. [default: runs/tradeoff/TASK]"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw what defenses leak against what they cost in accuracy, and name the best trades."""
    from seepage.cli import trading

    asked = trading.Asked(task, model, data, public, client or [], attack or [], examples, quick)
    folder = store or Path("runs/tradeoff") / (task if model is None else "own")
    trading.run(asked, folder, (workers, threads), json)


for check in (checking.rank, checking.guard, checking.dp):
    app.command()(guarded(check))


@app.command()
@guarded
def report(
    store: Annotated[Path, typer.Argument(help="The folder of an audit.")],
    out: Annotated[
        Path | None, typer.Option(help="The report's HTML file. [default: STORE/report.html]")
    ] = None,
    json: AsJson = False,
    fail_above: FailAbove = None,
) -> None:
    """Print and write the report of an audit that was run before, finished or not."""
    from seepage.cli import auditing

    auditing.again(store, auditing.Ending(out, json, fail_above))


@app.command(name="list")
@guarded
def listed() -> None:
    """Print the attacks, defenses and clients, with what can be set."""
    from seepage.cli import listing

    listing.run()


@app.command()
@guarded
def reproduce(
    name: Annotated[list[str] | None, typer.Argument(help="Which published results.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small form, under two minutes.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the pictures and a table of the findings.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the names, and stop.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="One after another.")] = False,
) -> None:
    """Measure published results again, and print claimed, got, and the verdict."""
    from seepage.cli import reproducing

    if show or not (name or everything):
        reproducing.show()
    else:
        reproducing.run(None if everything else name or [], quick, out)


@app.command()
@guarded
def capture(
    before: Annotated[
        Path, typer.Argument(help="The state that was broadcast: .safetensors, .npz, .pt, .pth.")
    ],
    after: Annotated[Path, typer.Argument(help="The state that the client sent back.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the update.")] = Path(
        "update.safetensors"
    ),
    model: Annotated[
        str | None,
        typer.Option(help="As for attack: checks the states, and names arrays without names."),
    ] = None,
) -> None:
    """Save what a client shared, the state before minus after, from files of any framework."""
    from seepage.cli import capturing

    capturing.run(before, after, model, out)
