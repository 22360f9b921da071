"""What `cnn info` concludes, what a shell is told of how a line goes on, and `cnn` alone."""

import json
from textwrap import dedent

import pytest
from helpers.fresh_python import printed

from cnn import registry
from cnn.cli import COMMANDS, main
from cnn.commands import _verdicts
from cnn.commands._verdicts import fastest, verdicts
from cnn.data.dataset import DatasetStatus
from cnn.energy.meters import ReaderStatus
from cnn.system.threads import LoadedLibrary, ThreadBudget


def concluded(budget=None, libraries=(), meters=(), data=()):
    found = verdicts(registry.statuses(), budget or ThreadBudget(2, None, None, 2), list(libraries), meters, data)
    return {verdict.text: verdict for verdict in found}


def one(found, words):
    (verdict,) = [each for text, each in found.items() if words in text]
    return verdict


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(_verdicts, "LOOKED_AT", 0.0)
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache" / "kernels" / "old").mkdir(parents=True)


@pytest.mark.parametrize(
    ("budget", "fine", "words"),
    [
        (ThreadBudget(2, None, None, 2), True, "2 threads on 2 CPUs"),
        (ThreadBudget(8, 2.0, 8, 2), False, "--threads or CNN_NUM_THREADS asks for 8, but 2 threads is all"),
        (ThreadBudget(2, None, None, 2, openmp=64), False, "OMP_NUM_THREADS asks for 64, but 2 threads is all"),
        (ThreadBudget(8, None, None, 1, openmp=1), False, "1 thread on 8 CPUs, as OMP_NUM_THREADS is 1"),
    ],
)
def test_threads(budget, fine, words):
    verdict = one(concluded(budget), words)
    assert (verdict.fine, verdict.cure is None) == (fine, fine)


def test_runtimes_meters_and_data():
    libraries = [LoadedLibrary(f"/lib/{name}.so", "openmp", None, 2, None, None) for name in ("libgomp", "libiomp5")]
    found = concluded(
        libraries=libraries,
        meters=[ReaderStatus("rapl", "processor", None, "energy_uj may not be read by this user; sudo chmod a+r")],
        data=[DatasetStatus("mnist", "", "", present=False, reason='run "cnn data get mnist"')],
    )
    assert "use packages" in one(found, "2 OpenMP runtimes").cure
    assert "sudo chmod" in one(found, "energy meter (rapl)").cure
    assert one(found, "not there yet: mnist").cure == "`cnn data get mnist` downloads one"
    found = concluded(meters=[ReaderStatus("rapl", "processor", "package 0", None)])
    assert all(one(found, words).fine for words in ("measured by rapl", "every data set", "no two OpenMP"))


def test_the_cache(tmp_path, monkeypatch):
    assert one(concluded(), "the cache in").fine
    (tmp_path / "cache" / "kernels" / "old" / "k").write_bytes(bytes(2_000_000))
    assert one(concluded(), "(kernels 2 MB)").fine
    monkeypatch.setattr(_verdicts, "OLD_KERNELS", 1e6)
    assert "remove all folders but" in one(concluded(), "2 MB of kernels of other versions").cure
    (tmp_path / "cache").chmod(0o777)
    assert "forbid it" in one(concluded(), "the cache is not used: other users can write").cure


def test_other_work_is_named(monkeypatch):
    for share, fine in ((0.5, False), (0.01, True), (None, True)):
        monkeypatch.setattr(
            _verdicts.OtherWork, "__exit__", lambda self, *error, share=share: setattr(self, "share", share)
        )
        assert one(concluded(), "other work").fine is fine


def test_a_faster_backend_is_found(monkeypatch):
    found = [each for each in registry.statuses() if each.name in ("numpy", "reference")]
    monkeypatch.setattr(_verdicts, "SIDE", 16)
    verdict = fastest(found, "numpy", 1)
    assert verdict.fine
    assert verdict.text.startswith("products of 16 x 16 matrices with 1 thread: numpy ")
    twice = [found[0], *[each for each in registry.statuses() if each.name == "openblas" and each.library]]
    monkeypatch.setattr(_verdicts, "in_turns", lambda jobs, *_, **__: [[1.0], [0.5]][: len(jobs)])
    if len(twice) == 2:
        assert fastest(twice, twice[0].name, 1).cure == f"try --backend {twice[1].name}, or CNN_BACKEND={twice[1].name}"


def test_info_ends_in_them(capsys):
    assert main(["info", "--json", "--backend", "numpy"]) == 0
    assert {"fine", "text", "cure"} == set(json.loads(capsys.readouterr().out)["verdicts"][0])
    assert main(["info", "--backend", "numpy"]) == 0
    assert "\nverdicts:\n  " in capsys.readouterr().out


def test_cnn_alone_says_what_to_type_first(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "cnn train DIR " in said
    assert all(line.split()[1] in (*COMMANDS, "--help") for line in said.splitlines() if line.startswith("  cnn "))
    assert max(map(len, said.splitlines())) <= 100


def test_a_shell_completes_commands_and_options(tmp_path):
    code = """
        import os
        from cnn.cli import main
        for line in ("cnn tra", "cnn train --pad", "cnn data ge"):
            if not os.fork():
                os.environ |= {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "|", "COMP_LINE": line}
                os.environ["_ARGCOMPLETE_STDOUT_FILENAME"] = FILE
                os.environ["COMP_POINT"] = str(len(line))
                main([])
            os.wait()
            print(open(FILE).read().strip())
    """
    assert printed(f"FILE = {str(tmp_path / 'out')!r}\n" + dedent(code)) == "train\n--pad-crop\nget\n"
