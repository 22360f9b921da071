"""The program of a worker process: loads a BLAS and multiplies matrices that lie in memory shared with its parent.

It runs as a separate file and imports only the standard library, so that no second BLAS or OpenMP is loaded. The
parent imports this module for the message formats. Each message is one packet: a product is a PRODUCT, answered by
SECONDS and the text that the library printed during it; a call of another function is a JSON list.
"""

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
from time import perf_counter  # noqa: TID251 - nothing of `cnn` is loaded here
from typing import Any

PRODUCT = struct.Struct("=c2i4q6qd")
"""Type s or d, CBLAS transpositions of a and b, threads, M, N, K, (offset, leading dimension) of a, b, out, beta."""

SECONDS = struct.Struct("=d")

LARGEST = 1 << 16
"""Bytes of the longest message."""

ROW_MAJOR = 101

MBIND, SET_MEMPOLICY = 237, 238
"""System calls of Linux on x86-64 for which the C library has no functions."""

POINTERS: dict[str, Any] = {"int*": ctypes.c_int, "double*": ctypes.c_double, "char*": ctypes.c_char * 256}
"""Arguments of a call that stand for addresses; what the library writes there is part of the answer."""


class Server:
    """Answers messages one by one until the parent's end of the channel closes."""

    def __init__(self, channel: socket.socket, memory: mmap.mmap, program: dict[str, Any]) -> None:
        """Loads the libraries of `program`, the last of which multiplies. Raises OSError or AttributeError."""
        self.channel, self.memory = channel, memory
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.flush = ctypes.CDLL(None).fflush
        for path in program["libraries"]:
            self.library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        self.set_threads = getattr(self.library, program["set_threads"])
        self.threads = 0
        self.products = {}
        for letter, number in ((b"s", ctypes.c_float), (b"d", ctypes.c_double)):
            product = getattr(self.library, program["product"].format(letter.decode()))
            matrix = [ctypes.c_void_p, ctypes.c_int]
            product.argtypes = [*[ctypes.c_int] * 6, number, *matrix, *matrix, number, *matrix]
            product.restype = None
            self.products[letter] = product

    def serve(self) -> None:
        """Answers messages until the channel closes."""
        while message := self.channel.recv(LARGEST):
            if message.startswith(b"["):
                self.channel.send(json.dumps(self.call(*json.loads(message))).encode())
            else:
                seconds = self.multiply(message)
                self.channel.send(SECONDS.pack(seconds) + self.printed().encode()[: LARGEST - SECONDS.size])

    def multiply(self, message: bytes) -> float:
        """Computes one product; returns the seconds the library took."""
        letter, trans_a, trans_b, threads, m, n, k, *places, beta = PRODUCT.unpack(message)
        if threads != self.threads:
            self.set_threads(threads)
            self.threads = threads
        a, lda, b, ldb, out, ldc = places
        a, b, out = self.base + a, self.base + b, self.base + out
        started = perf_counter()
        self.products[letter](ROW_MAJOR, trans_a, trans_b, m, n, k, 1.0, a, lda, b, ldb, beta, out, ldc)
        return perf_counter() - started

    def call(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Calls the library's function `name` with numbers and POINTERS; returns its result and what it wrote."""
        try:
            function = getattr(self.library, name)
        except AttributeError as error:
            return {"error": str(error)}
        values: list[Any] = []
        written: list[Any] = []
        for argument in arguments:
            if isinstance(argument, str):
                place = POINTERS[argument]()
                written.append(place)
                values.append(ctypes.byref(place))
            elif isinstance(argument, float):
                values.append(ctypes.c_double(argument))
            else:
                values.append(ctypes.c_long(argument))
        result = function(*values)
        texts = [place.value for place in written]
        out = [text.decode() if isinstance(text, bytes) else text for text in texts]
        return {"result": result, "written": out}

    def printed(self) -> str:
        """What the library has printed since the last call; the output goes to a file that is emptied here."""
        self.flush(None)
        size = os.fstat(1).st_size
        if not size:
            return ""
        text = os.pread(1, size, 0).decode(errors="replace")
        os.ftruncate(1, 0)
        os.lseek(1, 0, os.SEEK_SET)
        return text


def end_with(channel: socket.socket) -> None:
    """Ends this process, even in the middle of a product, once the parent's end of the channel is closed."""
    closed = select.poll()
    closed.register(channel, 0)
    closed.poll()
    os._exit(0)


def main() -> None:
    """Runs the server; the arguments are the descriptors of channel and memory, and the program as JSON."""
    # Ctrl-C reaches every process of the terminal; the parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptors, program = [int(text) for text in sys.argv[1:3]], json.loads(sys.argv[3])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptors[0])
    threading.Thread(target=end_with, args=[channel], daemon=True).start()
    try:
        if program["memory_policy"]:
            set_memory_policy(*program["memory_policy"])
        server = Server(channel, mmap.mmap(descriptors[1], program["bytes"]), program)
    except (OSError, AttributeError) as error:
        sys.exit(str(error))
    channel.send(b"{}")
    server.serve()


def set_memory_policy(mode: int, nodes: int) -> None:
    """Places this process's memory on the NUMA nodes of the mask from now on (set_mempolicy(2)). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.c_ulong(nodes)
    if libc.syscall(SET_MEMPOLICY, mode, ctypes.byref(mask), ctypes.c_ulong(64)):
        raise OSError(ctypes.get_errno(), f"set_mempolicy: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
