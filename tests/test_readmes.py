"""The READMEs: every link leads somewhere, every command line is parsed, every block of code runs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command_lines import check_values, options_of, parse
from helpers.readmes import ROOT, Readme, readmes

from cnn import plugins
from cnn.cli import COMMANDS
from cnn.commands._config_file import apply_config
from cnn.energy.devices import catalogue
from cnn.model.architecture import read_architecture
from cnn.system.cache import cache_folder

READMES = readmes()
every = pytest.mark.parametrize("readme", READMES, ids=[each.name for each in READMES])
GROUPS = {plugins.BACKENDS: ("Backend", "CblasBackend"), plugins.DATASETS: ("DatasetPlugin",)}
"""The base classes of what each group of entry points names."""


def test_the_first_readme_is_short():
    text = (ROOT / tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"]).read_text()
    assert len(text.splitlines()) <= 200


def test_the_first_readme_leads_to_every_other_one():
    first = (ROOT / "README.md").read_text()
    for readme in READMES:
        assert readme.name == "README.md" or f"]({readme.name})" in first, readme.name


@every
def test_links_lead_somewhere(readme):
    assert readme.wrong_links() == []


@every
def test_names_exist(readme):
    assert readme.wrong_names() == []


@every
def test_command_lines_are_parsed(readme):
    assert readme.wrong_commands() == []


@every
def test_languages_are_those_that_are_tested(readme):
    assert {block.language for block in readme.blocks("", "python", "toml", "sh")} == {
        block.language for block in readme._parts[0]
    }


@every
def test_python_names_exist(readme):
    assert readme.wrong_python() == []


FEW = """
from dataclasses import replace
import cnn.data.dataset as module

def few(*given, load=module.load_dataset, **options):
    data = load(*given, **options)
    parts = {"train": 320, "test": 80}
    splits = {part: getattr(data, part) for part in parts}
    return replace(data, **{part: split.take(range(min(parts[part], len(split)))) for part, split in splits.items()})

module.load_dataset = few
del module, few
"""
"""Cuts every data set to its first images, so that the examples take seconds."""


@pytest.mark.parametrize("readme", [each for each in READMES if each.blocks("python")], ids=lambda each: each.name)
def test_python_runs(readme, tmp_path):
    """Runs all blocks of a file one after the other, in a separate process and folder."""
    code = "\n\n".join([FEW, *(block.text for block in readme.blocks("python") if not block.not_run)])
    chosen = {name: value for name, value in os.environ.items() if not name.startswith("CNN_")}
    chosen |= {"CNN_BACKEND": "numpy", "CNN_CACHE_DIR": str(cache_folder())}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=chosen, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


TOML = [(each, block) for each in READMES for block in each.blocks("toml")]


@pytest.mark.parametrize(("readme", "block"), TOML, ids=[each.name for each, _ in TOML])
def test_toml_is_what_it_is_shown_for(readme, block, tmp_path):
    table = tomllib.loads(block.text)
    path = tmp_path / "block.toml"
    path.write_text(block.text)
    if "layers" in table:
        model = read_architecture(path).build(backend="numpy")
        scores = model.predict(np.zeros((2, *model.input_shape), np.uint8))
        assert scores.shape == (2, 10)
    elif "project" in table:
        check_entry_points(readme, table)
    elif all(isinstance(each, dict) and "kind" in each for each in table.values()):
        assert catalogue(path).keys() >= table.keys()
    else:
        check_config(path)


def check_entry_points(readme, table):
    """Each names a class in this README's Python blocks, with the kind and the name of its entry point."""
    classes = {
        node.name: node
        for block in readme.blocks("python")
        for node in ast.parse(block.text).body
        if isinstance(node, ast.ClassDef)
    }
    for group, points in table["project"]["entry-points"].items():
        for name, value in points.items():
            found = classes[value.partition(":")[2]]
            assert ast.unparse(found.bases[0]) in GROUPS[group]
            assert any(ast.unparse(statement) == f"name = {name!r}" for statement in found.body)


def check_config(path):
    """Every command that takes --config takes this file."""
    for name in taking_config():
        words = [*(["model.safetensors", "mnist-5k"] if name == "eval" else []), "--config", str(path)]
        options = parse([name, *words])
        apply_config(options.parser, options, COMMANDS)
        check_values(vars(options.parser.parse_args(words)))


def taking_config():
    return {name for name in COMMANDS if "--config" in options_of(name)}


def test_the_commands_that_take_a_file_of_options_are_named():
    (sentence,) = re.findall(r"^(.*?) take `--config FILE`", (ROOT / "cnn/commands/README.md").read_text(), re.M)
    assert set(re.findall(r"`cnn (\w+)`", sentence)) == taking_config()


PLANTED = """# Title

See [there](nowhere.md), [here](#title), [a heading](#no-such-heading) and [a file](../outside.md).

    cnn train mnist --epochs 2
    cnn train mnist --epoch 2
    cnn train --epochs two
    cnn fly
    mpiexec -n 2 cnn train --model nonet
    cnn train --backend numpy --backend-option speed=9

Say `cnn eval`, `cnn eval --speed` or `cnn bench --ranks`, `--epochs N`, `--spede`, `cnn.fit`, `cnn.fitt`,
`cnn/cli.py` and `cnn/clip.py`.

```python
from cnn.training.fitting import fit
from cnn import nothing
import cnn

cnn.schedules.Constant(1), cnn.schedules.Konstant(1)
```

```python
def broken(:
```
"""


@pytest.fixture
def planted(tmp_path):
    (tmp_path / "cnn").mkdir()
    (tmp_path / "cnn" / "cli.py").touch()
    (tmp_path / "README.md").write_text(PLANTED)
    (tmp_path.parent / "outside.md").touch()
    return Readme(tmp_path / "README.md", tmp_path)


def test_planted_mistakes_are_found(planted):
    assert planted.wrong_links() == [
        f"README.md links to {target}" for target in ("nowhere.md", "#no-such-heading", "../outside.md")
    ]
    assert planted.wrong_names() == [
        f"README.md names {what}" for what in ("the option --spede", "cnn.fitt", "the file cnn/clip.py")
    ]
    wrong = planted.wrong_commands()
    for line, words in zip(
        wrong,
        ("--epoch 2", "--epochs two", "cnn fly", "nonet", "has no setting 'speed'", "eval --speed"),
        strict=True,
    ):
        assert words in line
    found = planted.wrong_python()
    for line, words in zip(
        found,
        ("imports fit from cnn.training.fitting", "cnn.nothing", "uses cnn.schedules.Konstant", "invalid syntax"),
        strict=True,
    ):
        assert words in line


def test_blocks_that_are_not_run_say_why(tmp_path):
    text = "# A\n\n<!-- not run: needs a library -->\n```python\nimport absent\n```\n\n```python\nprint(1)\n```\n"
    (tmp_path / "README.md").write_text(text)
    blocks = Readme(tmp_path / "README.md", tmp_path).blocks("python")
    assert [block.not_run for block in blocks] == ["needs a library", None]
    assert sum(block.not_run is not None for each in READMES for block in each.blocks("python")) == 1


def test_every_readme_is_found(tmp_path):
    for name in ("README.md", "a/b/README.md", ".hidden/README.md", "venv/lib/README.md", "build/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "venv/pyvenv.cfg").touch()
    assert [each.name for each in readmes(tmp_path)] == ["README.md", "a/b/README.md"]
    assert {Path(each.name).parent for each in READMES} >= {
        Path(each) for each in (".", "backends", "bench", "cnn/commands", "cnn/distributed", "cnn/energy", "datasets")
    }
