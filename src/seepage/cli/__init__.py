"""The command line, `seepage COMMAND`: each command imports what is heavy when it runs."""

from seepage.cli.app import app, main

__all__ = ["app", "main"]
