"""The `onnxdam` command group. Nothing heavy is imported until a command needs it: `onnxdam --help` answers at once."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

import onnxdam
from onnxdam.errors import OnnxDamError

from . import exits

COMMANDS = {  # name: one line of help (listed here, so that help imports no command)
    "train": "Train a network with masks and write it as a model to prune.",
    "prune": "Remove masked channels from a model, check it, write it.",
    "inspect": "Show what a model costs, and what of it is dead, constant or pinned.",
    "explain": "Show why a channel stays, down to an output or an unknown operator.",
    "features": "Show which features of its inputs a model reads, and how much it asks for each.",
    "verify": "Check that two models are the same function.",
    "bench": "Measure two models against each other.",
    "deploy": "Write what a server needs to serve a model (NVIDIA Triton).",
    "doctor": "Show versions and providers, and what is wrong with them.",
}


class _Group(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exits.MEANING.items()])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(onnxdam.__version__, prog_name="onnxdam")
def main() -> None:
    """Exact slimming of ONNX models: masked channels go, the function stays."""


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the `onnxdam` command: every outcome ends in one line and one exit status."""
    gc.set_threshold(50_000, 20, 20)  # graphs are many small objects that live long: a third of the time was collection
    warnings.showwarning = _show_warning
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in the background of a shell
        signal.signal(signal.SIGINT, _stop)
    sys.exit(status(arguments))


def status(arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit status."""
    try:
        result = main.main(arguments, prog_name="onnxdam", standalone_mode=False)
        return result if isinstance(result, int) else exits.DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return exits.BAD_INPUT
    except click.ClickException as error:
        _failed(_one_line(error))
        return exits.BAD_INPUT
    except OnnxDamError as error:
        _failed(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort, exits.Terminated) as error:
        return _interrupted(error)
    except exits.Stopped as stopped:
        _failed(str(stopped))
        return stopped.code
    except MemoryError:
        _failed("there is not enough memory; nothing was written")
        return exits.BAD_INPUT
    except SystemExit:  # click's way to say that the reader of our output went away, as `head` does
        return exits.DONE
    except Exception as error:
        if (cause := _signal_behind(error)) is not None:
            return _interrupted(cause)
        traceback.print_exc()
        _failed(f"an error in onnxdam itself ({type(error).__name__}); please report it with the lines above")
        return exits.BUG


def _one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message.rstrip('.')} (see {context.command_path} --help)"


def _interrupted(error: BaseException) -> int:
    terminated = isinstance(error, exits.Terminated)
    _failed(f"{'terminated' if terminated else 'interrupted'}; nothing was written")
    return exits.TERMINATED if terminated else exits.INTERRUPTED


def _signal_behind(error: BaseException | None) -> BaseException | None:
    """The signal that an error comes from: one that arrives while a compiled module is imported is an ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | exits.Terminated):
            return error
        error = error.__cause__ or error.__context__
    return None


def _stop(number: int, frame: FrameType | None) -> None:
    """Raises; but not into the import of a compiled module, which can crash of it: the signal comes again then."""
    if any(f.f_code.co_filename.startswith("<frozen importlib") for f in _stack(frame)):
        _once_more(number)
        return
    raise KeyboardInterrupt if number == signal.SIGINT else exits.Terminated


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """What is raised in a destructor goes nowhere; a signal that arrived there comes again."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        _once_more(signal.SIGINT)
    elif isinstance(lost.exc_value, exits.Terminated):
        _once_more(signal.SIGTERM)
    else:
        sys.__unraisablehook__(lost)


def _once_more(number: int) -> None:
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _failed(message: str) -> None:
    click.echo(f"FAILED  {message}", err=True)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    click.echo(f"warning: {message}", err=True)
