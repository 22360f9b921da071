"""Which backend is chosen and why; none is loaded before it is needed; `mkl` is MKL."""

import os
import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fresh_python import printed, python
from helpers.ready_backends import ALL, ready

from cnn import registry
from cnn.errors import BackendUnavailable, ShapeError, UsageError
from cnn.system.machine import this_machine


class TestChoice:
    def test_by_name(self, forget_backends):
        assert registry.choose("numpy") == (registry.create("numpy"), "named")

    def test_by_use(self, forget_backends, monkeypatch):
        monkeypatch.setenv("CNN_BACKEND", "numpy")
        assert registry.use_backend("reference") is registry.create("reference")
        assert registry.choose() == (registry.create("reference"), "named")
        assert registry.choose("numpy")[0].name == "numpy"

    def test_by_environment(self, forget_backends, monkeypatch):
        monkeypatch.setenv("CNN_BACKEND", "reference")
        assert registry.choose() == (registry.create("reference"), "CNN_BACKEND")
        assert registry.current_backend().name == "reference"

    def test_environment_variable_in_a_process(self):
        code = """
            import cnn
            print(cnn.current_backend().name)
        """
        assert printed(code, CNN_BACKEND="reference") == "reference\n"

    @pytest.mark.parametrize(
        ("vendor", "vector", "kernels", "first", "others"),
        [
            ("GenuineIntel", "AVX-512 (F)", "", "mkl", "openblas, numpy"),
            ("AuthenticAMD", "AVX-512 (F)", "", "openblas", "mkl, numpy"),
            ("AuthenticAMD", "AVX-512 (F)", "Haswell", "mkl", "openblas, numpy"),
            ("AuthenticAMD", "AVX2", "", "mkl", "openblas, numpy"),
            (None, None, "", "mkl", "openblas, numpy"),
        ],
    )
    def test_default_is_the_fastest_that_is_ready(
        self, forget_backends, monkeypatch, vendor, vector, kernels, first, others
    ):
        machine = replace(this_machine(), vendor=vendor, vector=vector and (vector,))
        monkeypatch.setattr(registry, "this_machine", lambda: machine)
        monkeypatch.setenv("OPENBLAS_CORETYPE", kernels)
        assert registry.choose() == (ready(first), f"first ready of {first}, {others}")

    def test_one_instance_a_process(self):
        assert registry.create("numpy") is registry.create("numpy")

    def test_unknown_name_lists_the_known(self, forget_backends, monkeypatch):
        known = r"There is no backend 'cuda'; known are: mkl, mkl-offload, mkl-phi, numpy, openblas, reference"
        with pytest.raises(UsageError, match=known):
            registry.create("cuda")
        with pytest.raises(UsageError, match=known):
            registry.use_backend("cuda")
        monkeypatch.setenv("CNN_BACKEND", "cuda")
        with pytest.raises(UsageError, match=known):
            registry.choose()

    def test_failed_use_changes_nothing(self, forget_backends):
        registry.use_backend("reference")
        with pytest.raises(UsageError, match="There is no backend 'cuda'"):
            registry.use_backend("cuda")
        assert registry.current_backend().name == "reference"

    @pytest.mark.parametrize("value", ["1", "true", "MKL"])
    def test_value_is_a_name_not_a_truth_value(self, forget_backends, monkeypatch, value):
        monkeypatch.setenv("CNN_BACKEND", value)
        with pytest.raises(UsageError, match=f"no backend '{value}'"):
            registry.choose()


class TestAbsentBackend:
    """Makes MKL appear to be missing."""

    missing = "import sys; sys.modules['mkl'] = None\n"

    def test_named_and_absent_is_an_error_with_cause_and_cure(self):
        code = self.missing + "import cnn; cnn.use_backend('mkl')"
        result = python(code)
        assert result.returncode == 1
        assert re.search(r"BackendUnavailable: Backend 'mkl' needs Intel MKL.*; install mkl", result.stderr)

    def test_named_by_environment_is_never_replaced(self):
        result = python(self.missing + "import cnn; print(cnn.current_backend().name)", CNN_BACKEND="mkl")
        assert result.returncode == 1
        assert result.stdout == ""
        assert "BackendUnavailable: Backend 'mkl' needs Intel MKL" in result.stderr

    def test_not_named_the_next_is_used_and_said(self):
        code = self.missing + "from cnn.registry import choose; b, why = choose(); print(b.name, '-', why)"
        assert printed(code).startswith("openblas - first ready of ")

    def test_status_gives_the_reason(self):
        code = self.missing + "from cnn.registry import statuses\nfor s in statuses(): print(s.name, s.reason)"
        lines = dict(line.split(" ", 1) for line in printed(code).splitlines())
        assert lines["mkl"].startswith("Backend 'mkl' needs Intel MKL")
        assert lines["numpy"] == lines["reference"] == "None"

    def test_none_ready_says_why_of_each(self, forget_backends, monkeypatch):
        def refuse(name):
            raise BackendUnavailable(f"no {name} today.")

        monkeypatch.setattr(registry, "create", refuse)
        with pytest.raises(
            BackendUnavailable, match=r"mkl: no mkl today. openblas: no openblas today. numpy: no numpy today."
        ):
            registry.choose()


class TestLoading:
    def test_import_loads_no_array_library_no_plug_in_and_no_blas(self):
        code = """
            import sys
            import cnn
            print([name for name in sys.modules if name.startswith(("numpy", "scipy", "mkl", "cnn."))])
            try:
                maps = open("/proc/self/maps").read().lower()
            except FileNotFoundError:
                maps = ""
            print([name for name in ("blas", "mkl", "iomp5", "gomp") if name in maps])
        """
        # The CPUs of the process are read at once, before a library binds it to one.
        assert printed(code) == "['cnn.system', 'cnn.system.affinity']\n[]\n"

    def test_names_are_there_at_first_use(self):
        code = """
            import sys
            import cnn
            print(cnn.Sequential.__name__, cnn.Conv2D.__name__, cnn.use_backend.__name__)
            print([name for name in sys.modules if name.startswith(("cnn.backends", "cnn.datasets", "mkl"))])
        """
        assert printed(code) == "Sequential Conv2D use_backend\n[]\n"

    def test_only_the_backend_that_is_used_is_loaded(self):
        code = """
            import sys
            import cnn
            cnn.use_backend("numpy")
            print([name for name in sys.modules if name.startswith("cnn.backends.")])
        """
        assert printed(code) == "['cnn.backends.numpy']\n"

    def test_unknown_attribute(self):
        import cnn

        with pytest.raises(AttributeError, match="no_such_name"):
            _ = cnn.no_such_name


PRODUCT = """
    import numpy as np
    from cnn import registry
    b = registry.create({name!r})
    a = np.ones((64, 48), np.float32)
    out = np.empty((64, 64), np.float32)
    b.gemm(a, a, out=out, transpose_b=True)
    assert (out == 48).all()
    a = a.astype(np.float64)
    out = out.astype(np.float64)
    b.gemm(a, a, out=out, transpose_b=True)
"""


class TestMkl:
    @pytest.fixture(autouse=True)
    def mkl(self):
        return ready("mkl")

    def test_products_go_through_mkl(self):
        lines = [line for line in self.verbose("mkl") if "GEMM" in line]
        assert [re.match(r"MKL_VERBOSE ([A-Z]+_64)\(T,N,64,64,48,", line)[1] for line in lines] == [
            "SGEMM_64",
            "DGEMM_64",
        ]

    @pytest.mark.parametrize("name", ["numpy", "reference"])
    def test_those_of_other_backends_do_not(self, name):
        # NumPy's own BLAS may be MKL too where it was built so.
        if "mkl" in registry.create("numpy").library.name.lower():
            pytest.skip("NumPy was built with MKL")
        assert not any("GEMM" in line for line in self.verbose(name))

    @staticmethod
    def verbose(name: str) -> list[str]:
        """MKL's own log of a product on the backend; MKL is in the process in any case."""
        code = "import mkl\n" + textwrap.dedent(PRODUCT.format(name=name))
        return printed(code, MKL_VERBOSE="1").splitlines()

    def test_library_is_the_file_in_the_process(self):
        library = registry.create("mkl").library
        assert library.name == "Intel MKL"
        assert Path(library.path).name.startswith("libmkl_rt")
        assert re.match(r"\d{4}\.", library.version)
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert os.path.realpath(library.path) in maps.read_text()

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs memory that is not there until used")
    def test_sizes_are_64_bit(self):
        # Two rows more than 2**31 elements apart; only the pages that are touched take memory.
        code = """
            import mmap
            import numpy as np
            from cnn import registry
            apart, no_reserve = 2**31 + 8, 0x4000
            memory = mmap.mmap(-1, 4 * (apart + 64), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
            flat = np.frombuffer(memory, np.float32)
            a = np.lib.stride_tricks.as_strided(flat, (2, 3), (4 * apart, 4))
            a[...] = [[1, 2, 3], [4, 5, 6]]
            out = np.empty((2, 2), np.float32)
            registry.create("mkl").gemm(a, np.ones((3, 2), np.float32), out=out)
            print(out.tolist())
        """
        assert printed(code) == "[[6.0, 6.0], [15.0, 15.0]]\n"


@pytest.mark.parametrize("name", ALL)
def test_rows_a_part_of_an_element_apart_are_refused(name):
    # A field of a record array: 13 bytes from row to row.
    rows = np.zeros(4, [("row", np.float32, 3), ("flag", np.int8)])["row"]
    backend = ready(name)
    with pytest.raises(ShapeError, match=r"a \(4, 3\) has strides \(13, 4\) bytes"):
        backend.gemm(rows, np.ones((3, 2), np.float32), out=np.empty((4, 2), np.float32))
