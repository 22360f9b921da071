"""The command `cnn`: finds the subcommand, runs it, and turns every foreseen failure into one sentence."""

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import cnn
from cnn.distributed.launch import launched, speaks
from cnn.errors import CnnError, UsageError
from cnn.paths import named, sentence
from cnn.system import environment
from cnn.system.limits import check_limits
from cnn.terminal.printing import coloured, drop, flush, prepare_streams, tell
from cnn.terminal.visible import visible, visible_output
from cnn.words import nearest

COMMANDS = {
    "train": "train a model and save it",
    "lr-find": "find a learning rate: the loss over some steps at growing rates",
    "report": "show a training run or compare several: text, a page, a picture",
    "runs": "average runs over their seeds, in a table beside what was published",
    "eval": "measure a saved model's accuracy on a data set",
    "predict": "classify image files with a saved model",
    "import": "read a network from an ONNX file, or PyTorch's weights",
    "export": "write a saved model as an ONNX file",
    "summary": "show a network's layers, parameters, operations and memory",
    "cost": "count FLOP and bytes of a step, layer by layer and phase by phase",
    "profile": "show where the time of a training step goes, layer by layer",
    "bench": "compare layers and networks across backends and threads",
    "tune": "find the fastest threads, batch size and options of a backend for a network",
    "compare": "compare devices and backends: time, power and energy of a step",
    "devices": "list the devices whose time and energy can be predicted",
    "calibrate": "measure this machine, to predict its time and energy",
    "model": "compare the model of time and energy with measurements",
    "data": "list and download data sets, draw their images",
    "reference": "explain layers, optimizers, recipes and their settings",
    "backends": "list backends and fetch the library of one",
    "info": "show backends, libraries, threads, processor, energy meters and data sets",
    "phi": "the former name of cnn backends get mkl-phi",
}


FIRST = f"""\
cnn-blas {cnn.__version__}: convolutional networks on CPUs. What to type first:

  cnn train                        train LeNet on 4,000 digits that come with the package
  cnn train DIR                    train on your own pictures, with a folder for each class
  cnn predict runs/RUN PICTURE     classify pictures with what was trained
  cnn info                         see what this machine has, and what to look at
  cnn --help                       all commands"""


def complete(output: Any = None) -> None:
    """Answers a shell that asks how a line goes on, and ends the process. Does nothing without argcomplete."""
    try:
        import argcomplete
    except ImportError:
        return
    line = os.environ.get("COMP_LINE", "")
    settings = {} if output is None else {"output_stream": output, "exit_method": lambda code: None}
    argcomplete.autocomplete(_parser(line.split()[1:]), **settings)


# NumPy is imported only after `check_limits`: these imports and those of `cnn` itself do not need it.
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `cnn ARGUMENTS` and returns its exit code: 0, 1 for a failure, 2 for wrong usage, 130 if interrupted.

    Of the processes of one launch, the first reports an error that gets here; `cnn.distributed.job` reports the others.
    """
    prepare_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_ARGCOMPLETE" in os.environ:
        complete()
    if not given:
        print(FIRST)
        return 0
    try:
        check_limits()
        parser = _parser(given)
        options = _parsed(parser, given)
        if getattr(options, "config", None):
            from cnn.commands._config_file import apply_config

            apply_config(options.parser, options, COMMANDS)
            options = parser.parse_args(given)
        environment.check()
        if getattr(options, "import", None):
            from cnn.plugins import import_modules

            import_modules(getattr(options, "import"))
        options.command = shlex.join(["cnn", *given])
        # It loads NumPy, which `environment.check` must come before.
        from cnn.precision import within

        with visible_output(), within(getattr(options, "precision", None)):
            code = int(options.run(options) or 0)
            flush()
            return code
    except CnnError as error:
        _tell(str(error))
        if launched():
            from cnn.distributed.job import end_launch

            end_launch(error)
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except MemoryError:
        _tell("there is not enough memory; use a smaller batch or data set")
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) is gone, so the buffered rest is dropped.
        drop("stdout")
        return 1
    except OSError as error:
        # Whoever opens a file that the user named says more; this is for all the others.
        _tell(sentence(named(error, "the output"), error, "file or folder"))
        return 1


def _tell(text: str) -> None:
    if speaks():
        line = text.replace("\n", "\\n")
        tell(f"{coloured('cnn:', 'error', sys.stderr)} {visible(line, getattr(sys.stderr, 'encoding', None))}")


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the requested subcommand is imported, so that `cnn --help` is quick."""
    parser = _Parser(
        prog="cnn",
        description="Convolutional networks on CPUs, on the BLAS you name.",
        epilog="See cnn COMMAND --help for details.",
    )
    parser.add_argument("--version", action="version", version=f"cnn-blas {cnn.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        asked = name in given[:1]
        module = import_module(f"cnn.commands.{name.replace('-', '_')}") if asked else None
        command = commands.add_parser(
            name, help=summary, description=module.__doc__ if module else None, formatter_class=_Formatter
        )
        if module:
            module.add_arguments(command)
            command.add_argument(
                "--import",
                metavar="MODULE",
                help="import a module first, such as one with layers of your own; several are separated by commas",
            )
            command.set_defaults(run=module.run, parser=command)
    return parser


def _parsed(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace:
    """The options given. Raises UsageError for one that does not exist, with the nearest one that does."""
    options, rest = parser.parse_known_args(given)
    if rest:
        command = getattr(options, "parser", parser)
        name = next((word.partition("=")[0] for word in rest if word.startswith("--")), "")
        arguments = {f"--{action.dest}": action.metavar for action in command._actions if not action.option_strings}
        close = nearest(name, _long_options(command)) if name else None
        if name in arguments:
            command.error(f"{arguments[name]} is given without {name}")
        command.error(f"unrecognized arguments: {' '.join(rest)}" + (f"; did you mean {close}?" if close else ""))
    return options


def _long_options(parser: argparse.ArgumentParser) -> list[str]:
    """Those of a parser and of its subcommands."""
    found = [name for name in parser._option_string_actions if name.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [name for each in action.choices.values() for name in _long_options(each)]
    return found


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage like every other failure: in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}{' See' if message.endswith('?') else '; see'} {self.prog} --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        close = nearest(str(value), map(str, action.choices or ()))
        if close is not None and value not in (action.choices or ()):
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; did you mean {close!r}?")
        super()._check_value(action, value)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Wraps each paragraph of a description, leaves tables in it as they are, and shows defaults other than None."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (part if "  " in part else textwrap.fill(part, width) for part in text.strip().split("\n\n"))
        return textwrap.indent("\n\n".join(paragraphs), indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)
