"""What networks are deployed with, for `versus.py`: ONNX Runtime and OpenVINO, on the model's own ONNX file.

They are imported when they are used, not with this module, so that they need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from versus_torch import TOLERANCES, same
from versus_workers import Evidence, Floats, Work, rate

from cnn.onnx.export import IMAGES, PROBABILITIES
from cnn.precision import BFLOAT16, FLOAT32

Infer = Callable[[], Floats]
RUNTIMES = {"onnxruntime": (FLOAT32,), "openvino": (FLOAT32, BFLOAT16)}
"""The packages, and the precisions that each of them computes in on a CPU."""


class DeployedSide:
    """One runtime: the network in each of its precisions. It takes pixels (N, H, W, C) and gives probabilities."""

    def __init__(self, work: Work, runtime: str) -> None:
        self.work, self.runtime = work, runtime
        self.ways: dict[str, Infer] = {}

    def version(self) -> str:
        """The runtime's version."""
        from importlib import import_module

        return str(import_module(self.runtime).__version__).partition("-")[0]

    def add(self, precision: str, evidence: Evidence, content: bytes) -> None:
        """Loads the network and raises Disagreement unless it gives the probabilities of the evidence."""
        infer = (self._onnxruntime if self.runtime == "onnxruntime" else self._openvino)(precision, evidence, content)
        same("the probabilities", infer(), evidence.probabilities, TOLERANCES[precision].numbers)
        self.ways[precision] = infer

    def rate(self, precision: str, seconds: float) -> float:
        """Images per second."""
        return self.work.batch * rate(self.ways[precision], seconds)

    def _onnxruntime(self, precision: str, evidence: Evidence, content: bytes) -> Infer:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.work.threads, 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def infer() -> Floats:
            found: Floats = session.run([PROBABILITIES], {IMAGES: evidence.images})[0]
            return found

        return infer

    def _openvino(self, precision: str, evidence: Evidence, content: bytes) -> Infer:
        import openvino

        core = openvino.Core()
        network = core.read_model(content)
        network.reshape(list(evidence.images.shape))
        hint = openvino.Type.bf16 if precision == BFLOAT16 else openvino.Type.f32
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.work.threads,
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(network, "CPU", settings).create_infer_request()

        def infer() -> Floats:
            request.infer({IMAGES: evidence.images}, share_inputs=True)
            # A copy, because the next call overwrites the tensor.
            found: Floats = request.get_tensor(PROBABILITIES).data.copy()
            return found

        return infer
