"""The ``thetaprime`` command.

A subcommand's module is imported only when that subcommand runs, so that the command starts fast and works
without the extras that other subcommands need.
"""

from thetaprime.cli._main import cli, main

__all__ = ["cli", "main"]
