"""Checks for authors of backends and layers; no test runner is needed.

    from cnn.testing import check_backend, check_gradients

    print(check_backend("mine"))               # the contract of cnn.backend.Backend, case by case
    check_gradients(MyLayer(3), (8, 8, 2))     # backward against differences of forward

`CASES` has every operation on every kind of shape; benchmarks time the same cases. `conv_cases` makes the cases of one
convolution. `Recorder` lists the matrix products that a copy of a backend computes.
"""

from cnn.product import Product
from cnn.testing.case import Bound, Case
from cnn.testing.cases import CASES
from cnn.testing.comparison import ContractViolation
from cnn.testing.concurrency import check_threads
from cnn.testing.contract import Report, check_backend, check_case
from cnn.testing.gradients import check_gradients
from cnn.testing.products import conv_cases, gemm_case
from cnn.testing.recorder import Recorder

__all__ = [
    "CASES",
    "Bound",
    "Case",
    "ContractViolation",
    "Product",
    "Recorder",
    "Report",
    "check_backend",
    "check_case",
    "check_gradients",
    "check_threads",
    "conv_cases",
    "gemm_case",
]
