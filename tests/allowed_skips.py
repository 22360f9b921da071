"""The tests that may be skipped where CI is set, which is an x86-64 Linux with gcc, MPI and MKL."""

import os
from importlib.util import find_spec
from pathlib import Path

from helpers.chromium import find_chromium
from helpers.ready_backends import no_avx512
from helpers.skips import AllowedSkip


def no_torch() -> bool:
    return find_spec("torch") is None


def no_torchvision() -> bool:
    return any(find_spec(name) is None for name in ("torch", "torchvision", "onnxscript"))


def no_data() -> bool:
    return "CNN_DATA_DIR" not in os.environ


def no_fashion() -> bool:
    """CNN_DATA_DIR may have only MNIST and CIFAR-10."""
    return no_data() or not (Path(os.environ["CNN_DATA_DIR"]) / "fashion-mnist").exists()


def no_chromium() -> bool:
    return find_chromium() is None


def root() -> bool:
    return os.geteuid() == 0


def one_cpu() -> bool:
    return len(os.sched_getaffinity(0)) == 1


def no_events() -> bool:
    """Neither CAP_PERFMON nor CAP_SYS_ADMIN, one of which perf_event_open needs to look at more than one process."""
    [mask] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return not int(mask.split()[1], 16) & (1 << 38 | 1 << 21) and not every_event()


def every_event() -> bool:
    return int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 0


ON_KNIGHTS_LANDING = (
    "test_agreement.py::test_every_layer_agrees_with_the_reference",
    "test_backends.py::test_rows_a_part_of_an_element_apart_are_refused",
    "test_contract.py::test_backend_keeps_the_contract",
    "test_contract.py::test_planted_fault_is_rejected",
    "test_gradients.py::test_layer",
    "test_gradients.py::test_network_with_its_loss",
    "test_phi.py::TestKnightsLanding::test_affinity_binds_the_threads_of_products",
    "test_phi.py::TestKnightsLanding::test_arrays_and_worker_take_memory_from_the_nodes_of_mcdram",
    "test_phi.py::TestKnightsLanding::test_every_output_says_that_it_is_none",
    "test_phi.py::TestKnightsLanding::test_its_kernels_are_the_ones_in_the_worker",
    "test_phi.py::TestKnightsLanding::test_mcdram_where_there_is_none",
    "test_phi.py::TestKnightsLanding::test_on_a_knights_landing_nothing_is_forced_and_nothing_remarked",
    "test_phi.py::TestKnightsLanding::test_other_kernels_are_refused",
    "test_phi.py::TestKnightsLanding::test_threads_per_core",
    "test_phi.py::TestOldMkl::test_current_mkl_is_refused",
    "test_phi.py::TestOldMkl::test_learns_what_mkl_learns",
    "test_phi.py::TestTuning::test_candidates_of_knights_landing",
)
"""What runs the kernels for Knights Landing, on its own or on another processor with AVX-512."""

ALLOWED = (
    *(AllowedSkip(test, "no AVX-512|needs a processor with AVX-512", no_avx512) for test in ON_KNIGHTS_LANDING),
    AllowedSkip("test_datasets.py::test_real_idx_files", "^mnist is not in", no_data),
    AllowedSkip("test_datasets.py::test_real_idx_files", "^fashion-mnist is not in", no_fashion),
    AllowedSkip("test_datasets.py::test_mnist_5k_is_a_part_of_the_real_training_set", "^mnist is not in", no_data),
    AllowedSkip("test_datasets.py::test_real_cifar10", "^cifar10 is not in", no_data),
    AllowedSkip("test_live.py::test_the_page_in_a_browser", "^Chromium is not installed", no_chromium),
    AllowedSkip("test_onnx_import.py::test_what_pytorch_exports", "^PyTorch with torchvision", no_torchvision),
    AllowedSkip("test_phi.py::TestKnightsLanding::test_affinity_binds_the_threads_of_products", "^one CPU", one_cpu),
    AllowedSkip("test_rapl.py::test_a_real_event_is_opened_and_scaled", "may not be read by this user", no_events),
    AllowedSkip("test_rapl.py::test_no_pmu_and_no_permission_are_explained", "lets every user", every_event),
    AllowedSkip(
        "test_storage.py::test_a_folder_without_permission_is_an_error_with_the_cause", "^root may write", root
    ),
    AllowedSkip("test_versus.py::test_a_network_is_compared_with_every_setting", "^PyTorch is not installed", no_torch),
    AllowedSkip(
        "test_versus.py::test_pytorch_computes_the_same_numbers_and_other_numbers_are_refused",
        "^PyTorch is not installed",
        no_torch,
    ),
)
