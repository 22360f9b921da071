"""Plug-ins are found anywhere, by their entry points alone; the repository's own are those in pyproject."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from helpers.fresh_python import printed, python
from helpers.ready_backends import ALL, SURE

from cnn import plugins, registry

ROOT = Path(__file__).resolve().parents[1]


TOY = '''
"""A backend and a data set of somebody else's."""

import numpy as np

from cnn import Backend, Dataset, DatasetPlugin, Library, Split
from cnn.backend import gemm_sizes


class Toy(Backend):
    name = "toy"

    def __init__(self):
        self.library = Library("toy", "1.0")
        self.products = 0

    def gemm(self, a, b, *, out, transpose_a=False, transpose_b=False, accumulate=False):
        gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        self.products += 1
        product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
        out[...] = out + product if accumulate else product


class Dots(DatasetPlugin):
    name = "dots"

    def load(self, folders):
        images = np.zeros((8, 6, 6, 1), np.uint8)
        images[::2, 2:4, 2:4] = 255
        split = Split(images, np.arange(8) % 2)
        return Dataset(self.name, split, split, ("dot", "none"))
'''


def install(folder: Path, name: str, module: str, entry_points: dict[str, str]) -> Path:
    """Puts a distribution of one module into a folder, as an installer leaves it: module, metadata, entry points."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n{line}\n" for group, line in entry_points.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    return folder


def past_entry_points(code: str) -> list[str]:
    """The lines that import plug-ins by their module."""
    found = []
    for node in ast.walk(ast.parse(code)):
        named = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [ast.unparse(node) for name in named if re.match(r"(cnn\.)?(backends|datasets)(\.|$)", name)]
    return found


class TestThirdParty:
    @pytest.fixture
    def toy(self, tmp_path):
        points = {"cnn.backends": "toy = toy_cnn:Toy", "cnn.datasets": "dots = toy_cnn:Dots"}
        return install(tmp_path / "site", "toy_cnn", TOY, points)

    def test_is_found_beside_the_library_s_own(self, toy):
        code = """
            from cnn import plugins
            print(plugins.names(plugins.BACKENDS), plugins.names(plugins.DATASETS))
        """
        assert printed(code) == f"{plugins.names(plugins.BACKENDS)} {plugins.names(plugins.DATASETS)}\n"
        both = printed(code, toy)
        assert "'toy'" in both
        assert "'dots'" in both

    def test_trains_a_step(self, toy):
        code = """
            import numpy as np
            import cnn
            data = cnn.load_dataset("dots")
            layers = [cnn.Conv2D(3, 3, activation="relu"), cnn.MaxPool2D(2), cnn.Flatten(), cnn.Linear(2)]
            model = cnn.Sequential(layers, data.shape, classes=data.classes)
            assert model.backend.name == "toy", model.backend
            optimizer = cnn.optimizers.SGD(0.0)
            optimizer.attach(model.backend, model.parameters)
            losses = []
            for _ in range(3):
                loss, _ = model.train_step(data.train.images, data.train.labels)
                optimizer.step(0.1)
                losses.append(loss)
            assert losses[0] > losses[1] > losses[2], losses
            print(model.backend.library, model.backend.products)
        """
        assert printed(code, toy, CNN_BACKEND="toy") == "toy 1.0 15\n"

    def test_keeps_the_contract(self, toy):
        code = """
            from cnn.testing import CASES, check_backend
            print(check_backend("toy", CASES[::9]).backend)
        """
        assert printed(code, toy) == "toy\n"

    def test_is_profiled_and_recorded_although_it_knows_nothing_of_instruments(self, toy):
        code = """
            import numpy as np
            from cnn import registry
            from cnn.cli import main
            from cnn.testing import Recorder
            assert main("profile mlp --backend toy --batch-size 2 --repeats 1 --json".split()) == 0
            toy = registry.create("toy")
            recorder = Recorder(toy)
            a, out = np.ones((2, 3)), np.empty((2, 2))
            recorder.backend.gemm(a, a, out=out, transpose_b=True)
            assert (out == 3).all() and len(recorder.products) == 1
            assert toy.instruments.option_candidates() == {}
        """
        assert '"products": []' in printed(code, toy)

    def test_two_of_one_name_are_an_error(self, toy, tmp_path):
        other = install(tmp_path / "other", "other_cnn", TOY, {"cnn.backends": "toy = other_cnn:Toy"})
        result = python("from cnn import registry; registry.create('toy')", toy, other)
        assert result.returncode == 1
        message = (
            r"CnnError: Two plug-ins of cnn.backends are called 'toy': (toy|other)_cnn:Toy and (toy|other)_cnn:Toy"
        )
        assert re.search(message, result.stderr)

    def test_broken_module_is_an_error_that_says_where(self, tmp_path):
        site = install(tmp_path / "site", "sad", "import no_such_module\n", {"cnn.backends": "sad = sad:Sad"})
        result = python("from cnn import registry; registry.create('sad')", site)
        assert "CnnError: Plug-in 'sad' of cnn.backends cannot be loaded from sad:Sad" in result.stderr
        # It does not affect the others.
        code = "from cnn.registry import statuses; print({s.name: bool(s.library) for s in statuses()})"
        assert "'sad': False" in printed(code, site)
        assert "'numpy': True" in printed(code, site)

    def test_what_is_no_backend_is_refused(self, tmp_path):
        site = install(tmp_path / "site", "odd", "class Odd: pass\n", {"cnn.backends": "odd = odd:Odd"})
        result = python("from cnn import registry; registry.create('odd')", site)
        assert "CnnError: Plug-in 'odd' is a Odd, not a cnn.Backend; correct its entry point." in result.stderr


class TestRepository:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def test_packages_listed_are_the_folders_on_disk(self):
        tops = {"cnn": "cnn", "backends": "cnn.backends", "datasets": "cnn.datasets"}
        found = set()
        for top, package in tops.items():
            for init in (ROOT / top).rglob("__init__.py"):
                found.add(".".join([package, *init.parent.relative_to(ROOT / top).parts]))
            for module in (ROOT / top).rglob("*.py"):
                assert (module.parent / "__init__.py").exists(), f"{module} lies in a folder that is no package"
        assert set(self.project["tool"]["setuptools"]["packages"]) == found
        mapped = self.project["tool"]["setuptools"]["package-dir"]
        assert mapped == {"cnn.backends": "backends", "cnn.datasets": "datasets"}

    def test_every_backend_and_data_set_on_disk_is_registered(self):
        for folder in ("backends", "datasets"):
            group = f"cnn.{folder}"
            points = self.project["project"]["entry-points"][group]
            for name, value in points.items():
                module, _, attribute = value.partition(":")
                source = ROOT / folder / f"{module.rpartition('.')[2]}.py"
                assert f"class {attribute}(" in source.read_text()
                assert plugins.load(group, name).name == name
        files = {path.stem.replace("_", "-") for path in (ROOT / "backends").glob("[!_]*.py")}
        assert files == set(self.project["project"]["entry-points"]["cnn.backends"])

    def test_no_import_reaches_plug_ins_past_the_entry_points(self):
        for folder in ("cnn", "backends", "datasets", "tests", "bench"):
            paths = list((ROOT / folder).rglob("*.py"))
            assert paths
            for path in paths:
                assert past_entry_points(path.read_text(encoding="utf-8")) == [], path

    @pytest.mark.parametrize(
        "line",
        [
            "import cnn.backends",
            "import datasets.mnist as m",
            "from cnn import datasets",
            "from cnn.backends.mkl import MklBackend",
            "from backends import numpy",
        ],
    )
    def test_an_import_past_the_entry_points_is_found(self, line):
        assert len(set(past_entry_points(f"import numpy\nfrom . import backends\n{line}"))) == 1

    def test_each_backend_says_what_computes_or_why_it_cannot(self):
        statuses = registry.statuses()
        assert [status.name for status in statuses] == ALL
        libraries = {status.name: status.library for status in statuses if status.reason is None}
        assert libraries.keys() >= SURE
        for library in libraries.values():
            assert library.name
            assert library.version
            assert str(library).startswith(f"{library.name} {library.version}")
        assert all(status.reason for status in statuses if status.name not in libraries)
