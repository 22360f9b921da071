"""The tests that may be skipped where CI is set, which is an x86-64 Linux with gcc, MPI and MKL."""

import os
from importlib.util import find_spec
from pathlib import Path

from helpers.skips import AllowedSkip


def no_torch() -> bool:
    return find_spec("torch") is None


def no_data() -> bool:
    return "CNN_DATA_DIR" not in os.environ


def no_fashion() -> bool:
    """CNN_DATA_DIR may have only MNIST and CIFAR-10."""
    return no_data() or not (Path(os.environ["CNN_DATA_DIR"]) / "fashion-mnist").exists()


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


ALLOWED = (
    AllowedSkip("test_datasets.py::test_real_idx_files", "^mnist is not in", no_data),
    AllowedSkip("test_datasets.py::test_real_idx_files", "^fashion-mnist is not in", no_fashion),
    AllowedSkip("test_datasets.py::test_mnist_5k_is_a_part_of_the_real_training_set", "^mnist is not in", no_data),
    AllowedSkip("test_datasets.py::test_real_cifar10", "^cifar10 is not in", no_data),
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
