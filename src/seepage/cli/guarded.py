"""How commands end badly: one clear message on stderr and an exit code, never a traceback."""

import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from seepage.errors import SeepageError

P = ParamSpec("P")

BAD_INPUT, STOPPED = 2, 130


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command, with its errors said in a sentence."""

    @functools.wraps(command)
    def safe(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SeepageError as error:
            typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt as stop:
            typer.secho(_stopped(stop), fg=typer.colors.YELLOW, err=True)
            raise typer.Exit(STOPPED) from None
        except BrokenPipeError:  # such as `seepage list | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    return safe


def _stopped(stop: KeyboardInterrupt) -> str:
    again = shlex.join(["seepage", *sys.argv[1:]])
    notes = getattr(stop, "__notes__", [])
    return "\n".join(["Stopped.", *notes, f"  {again}"])
