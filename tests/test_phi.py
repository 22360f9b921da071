"""The backends for the Xeon Phi on Intel's MKL 2018.0.0: kernels for Knights Landing, and automatic offload.

Cards are the stand-in of tests/helpers/coi: products that it computes, bytes and failures are real, speeds are not.
"""

import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.openblas_worker import arena_of, close, gone, square, while_it_multiplies, worker_of
from helpers.ready_backends import no_avx512, ready

from cnn import plugins, registry
from cnn.cli import main
from cnn.data.dataset import load_dataset
from cnn.errors import BackendUnavailable, CnnError, UsageError
from cnn.measure import tuning
from cnn.measure.profiler import reported_products
from cnn.model.zoo import architecture
from cnn.product import Product
from cnn.system.threads import limit_threads
from cnn.training.fitting import fit

pytestmark = pytest.mark.phi

WIDE = (12544, 64, 576)
"""Sizes of which no border is left to the host: the bytes that move follow from them alone."""


@pytest.fixture(autouse=True)
def old_mkl(mkl_2018):
    """Skips with the reason if there is no MKL of 2018."""


def make(name: str, **options: Any) -> Any:
    """A new instance, so that its worker has the current environment."""
    return plugins.load(plugins.BACKENDS, name)(**options)


def kernels(backend: Any) -> set[str]:
    """The libraries with kernels that the worker has loaded."""
    names = {Path(path).name for path in worker_of(backend).mapped()}
    return {name for name in names if name.startswith(("libmkl_def", "libmkl_mc", "libmkl_avx"))}


def native() -> bool:
    return "avx512er" in Path("/proc/cpuinfo").read_text()


needs_avx512 = pytest.mark.skipif(no_avx512(), reason="this processor has no AVX-512, and so none of these kernels")


class TestKnightsLanding:
    @needs_avx512
    def test_its_kernels_are_the_ones_in_the_worker(self):
        backend = make("mkl-phi")
        assert kernels(backend) == {"libmkl_avx512_mic.so"}
        # After a death, too.
        a, b, out, right, _ = square(backend, 100)
        os.kill(worker_of(backend).pid, signal.SIGKILL)
        backend.gemm(a, b, out=out)
        assert close(out, right)
        assert kernels(backend) == {"libmkl_avx512_mic.so"}

    @needs_avx512
    @pytest.mark.skipif(native(), reason="nothing can keep these kernels away here")
    def test_other_kernels_are_refused(self, monkeypatch):
        plugin = plugins.load(plugins.BACKENDS, "mkl-phi")
        chosen = plugin.environment
        monkeypatch.setattr(plugin, "environment", lambda self: chosen(self) | {"MKL_DEBUG_CPU_TYPE": "5"})
        with pytest.raises(
            BackendUnavailable, match=r"does not run its kernels for Knights Landing .*use MKL 2018 or 2019"
        ):
            plugin()

    def test_processor_without_avx512_is_refused(self, monkeypatch):
        plugin = plugins.load(plugins.BACKENDS, "mkl-phi")
        monkeypatch.setattr(sys.modules[plugin.__module__], "_processor_flags", lambda: {"avx2"})
        with pytest.raises(BackendUnavailable, match="needs a processor with AVX-512"):
            plugin()

    @needs_avx512
    @pytest.mark.skipif(native(), reason="this is one")
    def test_every_output_says_that_it_is_none(self, tmp_path, capsys):
        remark = "not KNL speed"
        for command in (["profile", "--repeats", "1"], ["bench", "--rounds", "1", "--steps-only"], ["info"]):
            for form in ([], ["--json"]):
                assert main([*command, "--backend", "mkl-phi", *form]) == 0
                assert remark in capsys.readouterr().out
        run = tmp_path / "run"
        assert main(["train", "--model", "mlp", "--epochs", "1", "--backend", "mkl-phi", "--out", str(run)]) == 0
        assert remark in capsys.readouterr().out
        assert remark in json.loads((run / "summary.json").read_text())["library"]
        assert main(["eval", str(run / "model.safetensors"), "mnist-5k", "--backend", "mkl-phi", "--json"]) == 0
        assert remark in capsys.readouterr().out

    @needs_avx512
    @pytest.mark.skipif(native(), reason="every test shows it")
    def test_on_a_knights_landing_nothing_is_forced_and_nothing_remarked(self, monkeypatch):
        plugin = plugins.load(plugins.BACKENDS, "mkl-phi")
        flags = {"avx512f", "avx512er", "avx512pf"}
        monkeypatch.setattr(sys.modules[plugin.__module__], "_processor_flags", lambda: flags)
        # The user's own setting replaces the missing processor.
        monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "6")
        assert plugin().library.remark is None
        monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
        with pytest.raises(BackendUnavailable, match="does not run its kernels for Knights Landing"):
            plugin()

    @needs_avx512
    @pytest.mark.parametrize("affinity", ["compact", "scatter", "balanced"])
    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU binds every thread")
    def test_affinity_binds_the_threads_of_products(self, affinity):
        backend = make("mkl-phi", affinity=affinity)
        with limit_threads(2):
            a, b, out, right, _ = square(backend, 300)
            backend.gemm(a, b, out=out)
        assert close(out, right)
        bound = [cpus for cpus in allowed_cpus(worker_of(backend).pid) if cpus.isdecimal()]
        assert len(set(bound)) == 2

    @needs_avx512
    def test_threads_per_core(self, monkeypatch):
        with limit_threads(2):
            assert make("mkl-phi", threads_per_core=1).threads() == min(2, cores())
        plugin = plugins.load(plugins.BACKENDS, "mkl-phi")
        monkeypatch.setattr(sys.modules[plugin.__module__], "_cores", lambda: (1, 2))
        with pytest.raises(UsageError, match=r"threads_per_core is 3; give at most 2, as the cores of .* have"):
            plugin(threads_per_core=3)
        with limit_threads(2):
            assert plugin(threads_per_core=1).threads() == 1

    @needs_avx512
    def test_mcdram_where_there_is_none(self):
        with pytest.raises(BackendUnavailable, match=r"no NUMA node without processors .*flat mode"):
            make("mkl-phi", mcdram="bind")

    @needs_avx512
    @pytest.mark.parametrize(
        ("policy", "shown"), [("bind", "bind"), ("preferred", "prefer"), ("interleave", "interleave")]
    )
    def test_arrays_and_worker_take_memory_from_the_nodes_of_mcdram(self, monkeypatch, policy, shown):
        # Node 0, which every machine has, instead of one without processors.
        plugin = plugins.load(plugins.BACKENDS, "mkl-phi")
        monkeypatch.setattr(sys.modules[plugin.__module__], "memory_only_nodes", lambda: [0])
        backend = plugin(mcdram=policy)
        a, b, out, right, _ = square(backend, 100)
        backend.gemm(a, b, out=out)
        assert close(out, right)
        maps = Path(f"/proc/{worker_of(backend).pid}/numa_maps").read_text().splitlines()
        assert {line.split()[1] for line in maps} == {f"{shown}:0"}
        assert any("cnn-arrays" in line for line in maps)


class TestOldMkl:
    @pytest.mark.parametrize(
        ("name", "lacks"),
        [pytest.param("mkl-phi", "its kernels", marks=needs_avx512), ("mkl-offload", "automatic offload")],
    )
    def test_current_mkl_is_refused(self, name, lacks, monkeypatch):
        monkeypatch.setenv("CNN_MKL_ROOT", str(Path(ready("mkl").library.path).parent))
        if native() and name == "mkl-phi":
            pytest.skip("on a Knights Landing it may have kernels")
        with pytest.raises(BackendUnavailable, match=rf"{lacks}.*`cnn backends get {name}` downloads"):
            make(name)

    def test_what_mkl_refuses_is_an_error(self):
        backend = make("mkl-offload")
        x = backend.zeros((4, 4))
        at = arena_of(backend).offset(x)
        # A leading dimension of 1 for 4 columns.
        seconds, printed = worker_of(backend).multiply(b"s", 111, 111, 1, 4, 4, 4, at, 1, at, 1, at, 1, 0.0)
        product = Product(4, 4, 4, False, False, False, np.dtype(np.float32))
        with pytest.raises(CnnError, match=r"MKL did not compute the product 4 x 4 x 4: .*Parameter 9 was incorrect"):
            backend.finished(product, seconds, printed)

    @pytest.mark.parametrize("name", [pytest.param("mkl-phi", marks=needs_avx512), "mkl-offload"])
    def test_learns_what_mkl_learns(self, name):
        data = load_dataset("mnist-5k")

        def trained(backend: str) -> tuple[float, float]:
            model = architecture("lenet").build(data=data, backend=backend, seed=0)
            recipe = architecture("lenet").recipe
            for _ in fit(model, data.train, epochs=2, optimizer=recipe.optimizer, schedule=recipe.schedule):
                pass
            return model.evaluate(data.test)

        with limit_threads(2):
            (loss, accuracy), (other_loss, other_accuracy) = trained(name), trained("mkl")
        assert accuracy > 0.9
        assert accuracy == pytest.approx(other_accuracy, abs=0.003)
        assert loss == pytest.approx(other_loss, rel=0.01)


class TestNoCard:
    def test_is_ready_and_says_so(self, capsys):
        assert main(["profile", "--backend", "mkl-offload", "--repeats", "1"]) == 0
        out = capsys.readouterr().out
        assert "no coprocessor: every product ran on the host" in out
        assert out.count("no card") == 11

    def test_every_product_is_reported_on_the_host(self, capsys):
        assert main(["profile", "--backend", "mkl-offload", "--repeats", "1", "--batch-size", "8", "--json"]) == 0
        products = json.loads(capsys.readouterr().out)["products"]
        sizes = [(each["layer"], each["direction"], each["m"], each["n"], each["k"]) for each in products]
        assert sizes[:2] == [("conv1", "forward", 8 * 24 * 24, 20, 25), ("conv2", "forward", 8 * 8 * 8, 50, 500)]
        assert sizes[-3:] == [
            ("conv2", "weight gradient", 500, 50, 512),
            ("conv2", "data gradient", 512, 500, 50),
            ("conv1", "weight gradient", 25, 20, 4608),
        ]
        for each in products:
            assert (each["where"], each["why"], each["bytes_to_card"], each["card_seconds"]) == (
                "host",
                "no card",
                0,
                0,
            )
            assert each["host_seconds"] > 0

    def test_host_fallback_is_never_switched_off(self, monkeypatch):
        monkeypatch.setenv("MKL_MIC_ENABLE", "1")
        monkeypatch.setenv("MKL_MIC_DISABLE_HOST_FALLBACK", "1")
        backend = make("mkl-offload")
        a, b, out, right, _ = square(backend, 64)
        backend.gemm(a, b, out=out)
        assert close(out, right)

    def test_mkl_that_ends_its_process_is_an_error_with_its_words(self, monkeypatch):
        plugin = plugins.load(plugins.BACKENDS, "mkl-offload")
        chosen = plugin.environment
        fatal = {"MKL_MIC_ENABLE": "1", "MKL_MIC_DISABLE_HOST_FALLBACK": "1"}
        monkeypatch.setattr(plugin, "environment", lambda self: chosen(self) | fatal)
        with pytest.raises(
            BackendUnavailable, match=r"exit status 1; its last output: .*AO library failed to initialize"
        ):
            plugin()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"work_division": 1.5}, r"work_division is \(1.5,\); give shares"),
            ({"work_division": (0.7, 0.7)}, "that add up to at most 1"),
            ({"work_division": -0.1}, "shares of at least 0"),
            ({"devices": -1}, "give numbers from 0 up"),
            ({"max_memory": 0}, "max_memory is 0 MiB"),
            ({"thresholds": (0, -1, 0)}, "give numbers of at least 0"),
            ({"thresholds": (0, 0)}, "thresholds must be"),
            ({"offload_report": 3}, r"offload_report must be 0 \| 1 \| 2, not 3"),
        ],
    )
    def test_options_out_of_range(self, options, message):
        with pytest.raises(UsageError, match=message):
            registry.create("mkl-offload", **options)


@pytest.fixture
def card(stand_in, mkl_2018, monkeypatch, tmp_path):
    """Makes a backend that sees stand-in cards, with their controls and its options; the cards' log is `card.log`."""

    def with_cards(controls: dict[str, Any] | None = None, **options: Any) -> Any:
        environment = stand_in.environment(mkl_2018, log=with_cards.log, **(controls or {}))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return make("mkl-offload", **({"thresholds": (0, 0, 0)} | options))

    with_cards.log = tmp_path / "log"
    return with_cards


def multiplied(backend: Any, m: int, n: int, k: int, *, dtype: Any = np.float32, accumulate: bool = False) -> Any:
    """(whether the product is right, its report)."""
    rng, reports = np.random.default_rng(m + n + k), []
    a, b, c = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    out = backend.asarray(c)
    backend.instruments.reporting(reports.append).gemm(
        backend.asarray(a), backend.asarray(b), out=out, accumulate=accumulate
    )
    right = a.astype(np.float64) @ b + (c if accumulate else 0)
    allowed = 4 * k**0.5 * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(c))
    [report] = reports
    return bool((np.abs(out - right) <= allowed).all()), report


class TestCard:
    def test_report_is_mkl_s(self, card):
        backend, (m, n, k) = card(), WIDE
        assert backend.library.remark == "1 coprocessor: card 0 (64 cores, 256 threads, 1.30 GHz, 16.0 GiB)"
        for accumulate in (False, True):
            right, report = multiplied(backend, m, n, k, accumulate=accumulate)
            assert right
            assert (report.where, report.why) == ("card 0", "above thresholds")
            assert (report.bytes_to_card, report.bytes_from_card) == (4 * (m * k + k * n), 4 * m * n)
            assert 0 < report.card_seconds <= report.host_seconds
        assert report.product == Product(m, n, k, False, False, True, np.dtype(np.float32))

    def test_double_precision(self, card):
        m, n, k = WIDE
        right, report = multiplied(card(), m, n, k, dtype=np.float64)
        assert right
        assert (report.where, report.bytes_from_card) == ("card 0", 8 * m * n)

    def test_its_numbers_are_the_result(self, card):
        right, report = multiplied(card({"corrupt": 1}), *WIDE)
        assert not right
        assert report.where == "card 0"

    @pytest.mark.parametrize(
        ("thresholds", "sizes", "where", "why"),
        [
            (None, WIDE, "host", "threshold"),
            (None, (2176, 2112, 300), "card 0", "above thresholds"),
            (WIDE, WIDE, "host", "threshold"),
            ((12543, 63, 575), WIDE, "card 0", "above thresholds"),
            ((12544, 63, 575), WIDE, "host", "threshold"),
            ((12543, 64, 575), WIDE, "host", "threshold"),
            ((12543, 63, 576), WIDE, "host", "threshold"),
            ((0, 0, 0), (64, 12544, 576), "host", "MKL kept it"),
        ],
    )
    def test_thresholds_are_those_of_rows_and_columns_as_shown(self, card, thresholds, sizes, where, why):
        right, report = multiplied(card(thresholds=thresholds), *sizes)
        assert right
        assert (report.where, report.why) == (where, why)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_two_cards_and_a_division(self, card, threads):
        backend = card({"cards": 2}, work_division=[0.5, 0.25])
        assert backend.library.remark.startswith("2 coprocessors: card 0 (64 cores")
        with limit_threads(threads):
            # MKL divides by zero with fewer threads than this.
            assert backend.threads() == 3
            right, report = multiplied(backend, *WIDE)
        assert right
        assert report.where == "card 0 50%, card 1 25%, host 25%"

    def test_shares_for_other_than_the_cards_there_are(self, card):
        with pytest.raises(UsageError, match="work_division gives 1 shares; there are 2 cards"):
            card({"cards": 2}, work_division=0.5)

    def test_devices(self, card):
        backend = card({"cards": 2}, devices=1)
        assert backend.library.remark.startswith("1 coprocessor: card 1 (")
        right, report = multiplied(backend, *WIDE)
        assert right
        assert report.where == "card 1"
        assert "card 0: " not in card.log.read_text()

    def test_knights_corner(self, card):
        right, report = multiplied(card({"type": "KNC"}), *WIDE)
        assert right
        assert report.where == "card 0"

    def test_max_memory(self, card):
        # MKL takes far more than the 32 MB of the operands.
        for most, where in ((1024, "card 0"), (1, "host")):
            right, report = multiplied(card(max_memory=most), *WIDE)
            assert right
            assert report.where == where

    def test_card_that_dies(self, card):
        backend = card({"die_after": 1})
        for _ in range(2):
            right, report = multiplied(backend, *WIDE)
            assert right
            # MKL does not report the repeated product, nor why.
            assert (report.where, report.why) == ("host", "MKL kept it")

    def test_one_of_two_cards_that_dies(self, card):
        backend = card({"cards": 2, "die_after": 2})
        reports = [multiplied(backend, *WIDE) for _ in range(2)]
        assert all(right for right, _ in reports)
        assert [report.where for _, report in reports] == ["card 0 50%, card 1 50%", "card 1 50%, host 50%"]
        assert reports[1][1].why == "card 0 failed"

    def test_refused_buffer(self, card):
        backend = card({"refuse_buffer": 2})
        right, report = multiplied(backend, *WIDE)
        assert right
        assert report.where == "host"
        assert multiplied(backend, *WIDE)[1].where == "card 0"

    def test_worker_that_dies_while_the_card_computes(self, card):
        backend, (m, n, k) = card(), WIDE
        rng = np.random.default_rng(0)
        a, b = (backend.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in ((m, k), (k, n)))
        out, pid = backend.asarray(np.ones((m, n), np.float32)), worker_of(backend).pid
        thread = while_it_multiplies(backend, lambda worker: os.kill(worker.pid, signal.SIGKILL))
        backend.gemm(a, b, out=out, accumulate=True)
        thread.join()
        assert np.abs(out - (a.astype(np.float64) @ b + 1)).max() < 1e-3
        assert gone(pid)

    @pytest.mark.parametrize(("level", "data"), [(1, 0), (2, 2)])
    def test_mkl_s_own_words_are_passed_on(self, card, capfd, level, data):
        multiplied(card(offload_report=level), *WIDE)
        said = capfd.readouterr().err
        assert said.count("[MKL] [MIC 00] [AO SGEMM MIC Time]") == 1
        assert said.count("Data]") == data


class TestTuning:
    def test_nothing_to_choose_without_a_card(self):
        assert make("mkl-offload").instruments.option_candidates() == {}

    @pytest.mark.parametrize("cards", [1, 2])
    def test_candidates_are_for_the_cards_there_are(self, card, cards):
        candidates = card({"cards": cards}).instruments.option_candidates()
        assert list(candidates) == ["thresholds", "work_division"]
        assert {len(shares) for shares in candidates["work_division"] if shares is not None} == {cards}
        for name, values in candidates.items():
            card({"cards": cards}, **{name: values[-1]})

    @needs_avx512
    def test_candidates_of_knights_landing(self):
        candidates = make("mkl-phi").instruments.option_candidates()
        assert candidates["threads_per_core"][:2] == [None, 1]
        # Memory without processors is rare.
        assert candidates["mcdram"][0] is None
        for name, values in candidates.items():
            make("mkl-phi", **{name: values[-1]})

    @pytest.mark.usefixtures("forget_backends")
    def test_a_card_that_is_slower_than_the_host_is_not_taken(self, stand_in, mkl_2018, monkeypatch, tmp_path):
        for name, value in stand_in.environment(mkl_2018).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(tuning, "TURN", 0.01)
        instruments = type(make("mkl-offload").instruments)
        monkeypatch.setattr(instruments, "option_candidates", lambda self: {"thresholds": [None, (0, 0, 0)]})
        # The stand-in card shares the processor with the host, and copies besides.
        out = tmp_path / "tuned.toml"
        options = ["--backend", "mkl-offload", "--threads", "2", "--rounds", "6"]
        assert main(["tune", "mlp", *options, "--out", str(out)]) == 0
        text = out.read_text()
        assert "1 coprocessor: card 0 (64 cores" in text
        assert tomllib.loads(text) == {"model": "mlp", "backend": "mkl-offload", "threads": 2}


class TestTrainingOnACard:
    def test_products_of_a_step_of_lenet(self, card):
        products = reported_products(architecture("lenet"), card(), 32)
        places = {(each.layer, each.direction): each.report for each in products}
        assert len(products) == len(places) == 11
        on_card = {place for place, report in places.items() if report.where == "card 0"}
        assert {("conv1", "forward"), ("conv2", "forward"), ("conv2", "weight gradient")} < on_card
        assert ("conv2", "data gradient") in on_card
        # 25 rows are fewer than a card takes.
        assert places["conv1", "weight gradient"].why == "MKL kept it"
        for place, report in places.items():
            assert (report.bytes_from_card > 0) == (place in on_card)

    def test_learns_what_the_host_learns(self, card):
        data = load_dataset("mnist-5k")
        reports = []

        def trained(backend: Any) -> tuple[float, float, int]:
            model = architecture("lenet").build(data=data, backend=backend, seed=0)
            recipe = architecture("lenet").recipe
            for _ in fit(model, data.train, epochs=1, optimizer=recipe.optimizer, schedule=recipe.schedule):
                pass
            on_card = sum(report.where == "card 0" for report in reports)
            return *model.evaluate(data.test), on_card

        with_card = card().instruments.reporting(reports.append)
        (loss, accuracy, on_card), (other_loss, other_accuracy, _) = trained(with_card), trained(registry.create("mkl"))
        assert on_card > 4 * 63
        assert accuracy > 0.8
        assert accuracy == pytest.approx(other_accuracy, abs=0.003)
        assert loss == pytest.approx(other_loss, rel=0.01)

    @pytest.mark.usefixtures("forget_backends")
    def test_the_command(self, stand_in, mkl_2018, monkeypatch, tmp_path, capsys):
        for name, value in stand_in.environment(mkl_2018).items():
            monkeypatch.setenv(name, value)
        options = ["--backend", "mkl-offload", "--backend-option", "thresholds=0,0,0"]
        run = tmp_path / "run"
        assert main(["train", "--epochs", "1", "--model", "mlp", *options, "--out", str(run)]) == 0
        assert "1 coprocessor: card 0 (64 cores" in capsys.readouterr().out
        assert json.loads((run / "settings.json").read_text())["options"]["backend_options"] == {
            "thresholds": [0, 0, 0]
        }
        assert main(["profile", "--repeats", "1", *options]) == 0
        out = capsys.readouterr().out
        assert "card 0  above thresholds" in out
        assert "MKL kept it" in out


def allowed_cpus(pid: int) -> list[str]:
    """The CPUs that each thread of a process may run on."""
    texts = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return [line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Cpus_allowed_list")]


def cores() -> int:
    folder = Path("/sys/devices/system/cpu")
    paths = [folder / f"cpu{cpu}/topology/thread_siblings_list" for cpu in os.sched_getaffinity(0)]
    return len({path.read_text() for path in paths})
