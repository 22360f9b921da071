"""Imports go one way: lower parts of the package never import higher ones."""

import ast
from pathlib import Path

import pytest

import cnn

FLOORS = (
    *("errors", "words", "paths", "toml", "arrays", "config", "plugins", "terminal", "system"),
    *("meter", "arithmetic", "convolution", "product", "shard", "precision", "ops"),
    *("instruments", "backend", "backend_options", "registry", "compiled", "cblas", "worker", "backends"),
    *("initializers", "layers", "losses", "optimizers", "schedules", "data", "datasets", "model", "cost"),
    *(
        "training",
        "onnx",
        "sklearn",
        "measure",
        "distributed",
        "energy",
        "report",
        "testing",
        "commands",
        "cli",
        "__main__",
    ),
)
"""The modules and packages of `cnn`, each of which imports only those before it."""

PACKAGE = Path(cnn.__file__).parent
PLUGINS = ("backends", "datasets")
"""Packages that lie beside `cnn` in the sources."""


def sources():
    """Each Python file below the package's own, with the module or package that it belongs to."""
    for path in sorted(PACKAGE.glob("*.py")):
        if path.name != "__init__.py":  # it gives public names to those above it
            yield path.stem, path
    for folder in filter(Path.is_dir, sorted(PACKAGE.iterdir())):
        yield from ((folder.name, path) for path in sorted(folder.rglob("*.py")))
    for name in PLUGINS:
        yield from ((name, path) for path in sorted((PACKAGE.parent / name).rglob("*.py")))


def imported(path):
    """The modules and packages of `cnn` that a file imports, at its start or in a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # Only type checkers read these.
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # `from cnn import registry` is a module, `from cnn import fit` a public name from high above.
            names = [f"cnn.{alias.name}" for alias in node.names] if node.module == "cnn" else [node.module]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cnn":
            names = [f"cnn.{node.attr}"]
        yield from (name.split(".")[1] for name in names if name.startswith("cnn.") and name != "cnn.__version__")


def test_each_module_and_package_has_its_floor():
    assert sorted({owner for owner, _ in sources()}) == sorted(FLOORS)


@pytest.mark.parametrize("owner", FLOORS)
def test_nothing_imports_what_stands_higher(owner):
    below = FLOORS[: FLOORS.index(owner) + 1]
    files = [path for each, path in sources() if each == owner]
    wrong = [f"{path.name} imports {name}" for path in files for name in imported(path) if name not in below]
    assert not wrong
