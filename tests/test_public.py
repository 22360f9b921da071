"""The names of the package `cnn`: where each comes from, and what loading one does not load."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
from helpers.fresh_python import printed

import cnn


def test_every_name_is_what_its_module_defines():
    for name in cnn.__all__:
        found = getattr(cnn, name)
        assert found is not None
        assert name in dir(cnn)
    assert cnn.CnnError.__module__ == "cnn.errors"
    assert cnn.schedules.Step.__module__ == "cnn.schedules"


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(cnn.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen.keys() == set(cnn.__all__)
    for name, module in seen.items():
        assert getattr(import_module(module), name) is getattr(cnn, name)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cnn' has no attribute 'nonsense'"):
        _ = cnn.nonsense


@pytest.mark.parametrize("name", ["CnnError", "schedules", "optimizers", "Sequential", "fit", "open_meter", "job"])
def test_a_name_loads_neither_the_compiler_nor_a_backend_and_sets_no_variable(name):
    code = f"""
        import os, sys
        before = dict(os.environ)
        import cnn
        cnn.{name}
        print([each for each in ("numba", "mkl", "mpi4py", "matplotlib") if each in sys.modules])
        print([each for each in sys.modules if each.startswith(("cnn.backends", "cnn.datasets", "cnn.compiled"))])
        print(dict(os.environ) == before)
    """
    assert printed(code) == "[]\n[]\nTrue\n"
