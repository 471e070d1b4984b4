"""The program `streamlr`: one file a command, imported when it is used, so that --help stays instant."""

from __future__ import annotations

import errno
import gc
import os
import sys
from importlib import import_module
from typing import Any

import click

from streamlr import __version__

# Objects made before Python looks for garbage, more than the 120,000 of imports: its own 700 cost a twentieth
# of a small fit, to look once 0.016 s.
GARBAGE_THRESHOLD = 200_000

# How long a thread that decodes waits for Python's lock while another loads kernels: Python's own 5 ms cost a
# twentieth of a fit of two seconds.
SWITCH_SECONDS = 0.0005

# Command and what it does; the function of the same name stands in the module of the same name.
COMMANDS = {
    "fit": "Fit a model, print its summary, write the model file with -o.",
    "predict": "Write probabilities of new rows as Parquet.",
    "summary": "Print a saved model again, without its data.",
    "compare": "Likelihood-ratio tests of nested models, with AIC and BIC side by side.",
    "diagnose": "Say how well a model fits, and which rows it hangs on.",
    "screen": "Rank terms that a model lacks by score tests, in one pass.",
    "effects": "Average marginal effects, with errors by the delta method.",
    "explain": "Say what a fit would do, from metadata alone.",
    "demo": "Write a small real data set here and fit it.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order they are told."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"streamlr.cli.{cmd_name}_command"), "command")  # noqa: B009
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C is exit code 130 and a full disk under stdout is one message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
                raise
            # What is still in the buffer must not fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            click.echo(f"Error: cannot write the result: {error.strerror}.", err=True)
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands for --help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamlr")
def main() -> None:
    """Exact logistic regression on tables larger than memory.

    Results go to stdout, progress and messages to stderr.
    """


def run() -> None:
    """The installed program: `main`, with a tenth of a second less around it.

    Imports leave no garbage worth looking for, and what an interpreter tidies up when it ends the system has
    back at once: files are closed, threads have stopped, and both streams are written out here.
    """
    # OpenBLAS reads this when it is loaded. Threads of its own, which no pass has work for, look for some all
    # the while: 0.04 s of a small fit, and 0.2 s of another core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(GARBAGE_THRESHOLD)
    sys.setswitchinterval(SWITCH_SECONDS)
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # the reader has gone, or the stream is closed
        code = code or 1
    os._exit(code if isinstance(code, int) else int(code is not None))
