"""Reads the arguments, runs one command, and turns whatever goes wrong into one line and an exit status."""

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pruner.cli import exporting, looking, measuring, searching
from pruner.cli.output import Terminated, terminate
from pruner.errors import NO_MEMORY, PrunerError, no_memory


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PrunerError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 after one line on stderr for unusable input, 130 if interrupted,
    143 if that was by SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in a file can be anything
    try:
        try:
            options = _parser().parse_args(arguments)
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "LSTM with projections"
                )  # PyTorch, that it has no faster kernel for one
                options.command(options)
        finally:
            sys.stdout.flush()
    except (PrunerError, MemoryError, RuntimeError) as error:
        if not isinstance(error, PrunerError) and not no_memory(error):
            raise
        told = NO_MEMORY if no_memory(error) else " ".join(str(error).split())
        print("error:", told, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left early, as `head` does
        _give_up_stdout()
    except OSError as error:
        _give_up_stdout()
        print(f"error: expected a place to print the output, found {error}; give another", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


def run() -> NoReturn:
    """What the installed command `lstm-pruner` calls. Before and after a command, Ctrl-C ends the process and no more."""
    heard = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as a shell has it for what runs in the background
    signal.signal(signal.SIGTERM, terminate)
    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main()
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _give_up_stdout() -> None:
    """Nothing more can be printed; what is left of it must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(_program(), description="Look inside an LSTM and make it smaller.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for group in (looking, exporting, measuring, searching):
        group.add_commands(commands)
    return parser


def _program() -> str:
    """How the command line was called: as a module, or by its installed name."""
    return "lstm-pruner" if Path(sys.argv[0]).stem == "lstm-pruner" else "python -m pruner"
