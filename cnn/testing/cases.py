"""All cases together: every operation of a backend on every kind of shape."""

from cnn.testing.bfloat16 import bfloat16_cases
from cnn.testing.case import Case
from cnn.testing.elementwise import elementwise_cases
from cnn.testing.losses import loss_cases
from cnn.testing.normalization import normalization_cases
from cnn.testing.pooling import pooling_cases
from cnn.testing.products import all_conv_cases, gemm_cases
from cnn.testing.stored import stored_cases
from cnn.testing.updates import update_cases

CASES: tuple[Case, ...] = (
    *gemm_cases(),
    *all_conv_cases(),
    *bfloat16_cases(),
    *pooling_cases(),
    *elementwise_cases(),
    *normalization_cases(),
    *loss_cases(),
    *update_cases(),
    *stored_cases(),
)
"""Every operation of a backend, for tests and benchmarks alike."""
