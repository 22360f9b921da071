"""A backend with OpenBLAS in a worker process, to test workers without an old MKL."""

import os
import threading
import time
from pathlib import Path

import numpy as np

from cnn import registry
from cnn.backend import Library
from cnn.worker.backend import WorkerBackend
from cnn.worker.process import Program

OPENBLAS = registry.create("openblas").library


class OpenblasWorker(WorkerBackend):
    """The library of the `openblas` backend, in another process."""

    name = "openblas-worker"
    library = Library("OpenBLAS", OPENBLAS.version)
    libraries = (OPENBLAS.path,)
    symbol = "scipy_cblas_{}gemm"

    def program(self):
        return Program(
            list(self.libraries), "scipy_openblas_set_num_threads", self.symbol, environment=dict(os.environ)
        )


# Which process computes, and where arrays are, is private to a worker backend. But tests kill that process and inspect
# its memory.
def worker_of(backend):
    """The worker that will compute the backend's next product."""
    return backend._worker


def arena_of(backend):
    """The memory that a worker backend shares with its worker."""
    return backend._arena


def square(backend, size, seed=0):
    """Random (a, b, out) of the backend, and the correct a @ b."""
    rng = np.random.default_rng(seed)
    a, b, out = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(3))
    return *(backend.asarray(x) for x in (a, b, out)), a.astype(np.float64) @ b, out


def close(out, right):
    """Whether a float32 product of standard normal matrices is correct."""
    return bool(np.abs(out - right).max() < 1e-5 * len(right))


def while_it_multiplies(backend, action):
    """Runs `action` in another thread as soon as the worker gets the next product; returns the thread."""
    asked, worker = threading.Event(), worker_of(backend)
    # By then the worker has the request; no public function runs in between.
    answer = worker._answer

    def told():
        asked.set()
        return answer()

    def act():
        if asked.wait(10):
            action(worker)

    worker._answer = told
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def gone(pid, seconds=10.0):
    """Whether the process ends within that time; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
