"""Finds the calls of `cnn` in shell lines, and reports what is wrong with one without running it."""

import argparse
import re
import shlex

from cnn import plugins
from cnn.backend_options import check_options
from cnn.cli import COMMANDS, _parser
from cnn.energy.devices import catalogue
from cnn.energy.links import links
from cnn.errors import CnnError
from cnn.model.zoo import ZOO
from cnn.report.predicted import targets

VALUES = {
    "COMMAND": "train",
    "DATASET": "mnist-5k",
    "DEVICE": "tesla-k40",
    "DIR": "folder",
    "EPOCHS": "5",
    "FILE": "file",
    "IMAGE": "image.png",
    "K": "2",
    "KEY": "tesla-k40",
    "M,N,K": "1,2,3",
    "MODE": "train",
    "MODEL": "lenet",
    "N": "2",
    "NAME": "mnist",
    "NAME=VALUE": "name=value",
    "NET": "lenet",
    "RUN": "runs/first",
    "W": "100",
}
"""The value of each placeholder when a command line is parsed."""

INCOMPLETE = re.compile(r"arguments are required|expected (one|at least one) argument|required: ACTION")


def commands(text: str) -> list[list[str]]:
    """The arguments of every call of cnn in shell lines, with placeholders filled in."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a lone quote: no shell
            continue
        for call in _calls(words):
            starters = ("mpiexec", "srun", "sudo")
            names = [place for place, word in enumerate(call) if word in ("cnn", ".venv/bin/cnn")]
            if names and len(call) > names[0] + 1 and (names[0] == 0 or call[0] in starters):
                found.append([_filled(word) for word in call[names[0] + 1 :] if word != "..."])
    return found


def _calls(words: list[str]) -> list[list[str]]:
    """The words of a line, divided where another program begins."""
    calls: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set(";&|<>"):
            calls.append([])
        else:
            calls[-1].append(word)
    return calls


def _filled(word: str) -> str:
    bare = word.strip("[]").removesuffix("...")
    if re.fullmatch(r"[A-Z][A-Z,=]*", bare) and bare not in VALUES:
        raise AssertionError(f"the placeholder {word} has no value in VALUES; add one")
    return VALUES.get(bare, word)


def parse(words: list[str]) -> argparse.Namespace:
    """The options of `cnn WORDS`, none of them abbreviated. Raises CnnError."""
    parser = _parser(words)
    for each in _parsers(parser):
        each.allow_abbrev = False
    return parser.parse_args(words)


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and all its subparsers."""
    actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return [parser, *(each for action in actions for choice in action.choices.values() for each in _parsers(choice))]


def options_of(command: str) -> set[str]:
    """The long options of a command and its actions."""
    found = {option for parser in _parsers(_parser([command])) for option in parser._option_string_actions}
    return {option for option in found if option.startswith("--")}


OPTIONS = set().union(*map(options_of, COMMANDS))


def problem(words: list[str], mentioned: bool) -> str | None:
    """What is wrong with a command line, or None; one that is only mentioned may be incomplete."""
    if words[-1] == "--help":
        return None if words[0] in COMMANDS else f"there is no command {words[0]}"
    try:
        options = parse(words)
        check_values(vars(options))
    except CnnError as error:
        if not (mentioned and INCOMPLETE.search(str(error))):
            return str(error)
        # The parser reports missing arguments first.
        unknown = [
            word for word in words if word.startswith("--") and word.partition("=")[0] not in options_of(words[0])
        ]
        return f"there is no option {unknown[0]}" if unknown else None
    return None


def check_values(options: dict[str, object]) -> None:
    """Raises CnnError for a network, data set, backend, device or link that does not exist."""
    for name in filter(None, str(options.get("model") or "").split(",")):
        if name not in ZOO and not name.endswith((".toml", ".safetensors")):
            raise CnnError(f"there is no network {name}")
    dataset = options.get("dataset")
    if dataset not in (None, *plugins.names(plugins.DATASETS)) and not str(dataset).endswith(".csv"):
        raise CnnError(f"there is no data set {options['dataset']}")
    for name in filter(None, str(options.get("backend") or "").split(",")):
        plugin = plugins.load(plugins.BACKENDS, name)
        check_options(name, plugin, options.get("backend_options") or {})
    if isinstance(options.get("device"), str):
        targets(str(options["device"]).split(","), catalogue())
    for key in filter(None, str(options.get("link") or "").split(",")):
        if key not in links():
            raise CnnError(f"there is no link {key}")
