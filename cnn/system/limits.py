"""Refuses limits of the shell or batch system under which libraries end the process, where that can be known before."""

from functools import cache
from threading import Event, Thread

from cnn.errors import CnnError
from cnn.system.affinity import allowed_cpus

ADDRESSES, OF_A_THREAD = 800_000_000, 50_000_000
"""Bytes of address space that the libraries take, and for each CPU: with less, LLVM, MKL or Rust abort."""

STACK = 1 << 19
"""The least stack in bytes: compiled kernels and BLAS keep blocks of matrices there."""

POOLS, MOST = 3, 64
"""NumPy's BLAS, the backend's BLAS and the kernels have a pool of threads each, with at most MOST in a pool."""


@cache
def check_limits() -> None:
    """Raises CnnError if this process cannot have the addresses, the stack or the threads that every backend takes.

    Called before NumPy is loaded, whose BLAS interrupts the process (SIGINT) if it gets no thread.
    """
    pool = min(len(allowed_cpus() or (0,)), MOST)
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for kind, least, option, what in (
        (resource.RLIMIT_AS, ADDRESSES + pool * OF_A_THREAD, "-v", "address space"),
        (resource.RLIMIT_STACK, STACK, "-s", "stack"),
    ):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and limit < least:
            raise CnnError(
                f"This process is limited to {limit / 1e6:.2f} MB of {what}, and the libraries need about "
                f"{least / 1e6:.2f} MB; raise the limit (ulimit {option})."
            )
    _check_threads(POOLS * pool)


def _check_threads(count: int) -> None:
    """Raises CnnError unless that many more threads can run at once."""
    release, started = Event(), list[Thread]()
    try:
        for _ in range(count):
            thread = Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError) as error:
        raise CnnError(
            f"Only {len(started)} more threads can be started here, and up to {count} are needed; raise the limit of "
            "processes (ulimit -u, or that of the container), or use fewer CPUs (taskset)."
        ) from error
    finally:
        release.set()
        for thread in started:
            thread.join()
