"""Training over a link of limited bandwidth: two network namespaces of this machine, joined by a veth pair under tc.

    sudo .venv/bin/python bench/slow_link.py --rates 100mbit,1gbit

needs root, iproute2 (ip, tc), a kernel with veth and sch_tbf, and MPICH (`pip install 'cnn-blas[mpi]'`). Each rank has
its own namespace and one thread, so 2 idle cores are needed too. It prints the times that `cnn bench --ranks` measures
beside the scaling model's prediction from the latency and bandwidth of the link, and removes everything it set up.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPACES = {"cnn-bench-a": "10.77.77.1", "cnn-bench-b": "10.77.77.2"}
INTERFACE = "cnn0"
BURST = "64kb"
"""Bytes that may be sent at once: at most one packet that the kernel has not split yet."""
LAUNCHER = """#!/bin/sh
# Hydra calls this instead of ssh, with options, an address, and the words of a command.
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in
{cases}
esac
shift
exec ip netns exec "$space" sh -c "$*"
"""


def main() -> None:
    """Sets up the link, measures at each rate and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100mbit,1gbit", help="rates in the notation of tc, separated by commas")
    parser.add_argument("model", nargs="?", default="lenet,cifar10_quick", help="networks, separated by commas")
    parser.add_argument("--batch-size", default="64", help="images per step: of each rank, and of all ranks together")
    parser.add_argument("--rounds", default="7", help="rounds of each measurement")
    options = parser.parse_args()
    mpiexec = _check()
    print(
        f"{'rate':<8}  {'network, scaling':<22}  {'ms':>8}  {'exposed':>8}  {'hidden':>8}  {'model ms':>24}  "
        f"{'error':>6}"
    )
    with _namespaces(), _launcher() as launcher:
        for rate in options.rates.split(","):
            for space in SPACES:
                _limit(space, rate)
            # The first namespace starts the ranks.
            first = f"ip netns exec {next(iter(SPACES))} {shlex.quote(mpiexec)} -launcher-exec {shlex.quote(launcher)}"
            command = f"{first} -hosts {','.join(SPACES.values())} -ppn 1"
            _show(rate, json.loads(_bench(command, options)))


def _check() -> str:
    """The path of mpiexec. Ends the program with one sentence if something is missing."""
    if os.geteuid():
        sys.exit("slow_link.py needs root to create network namespaces; run it with sudo.")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            sys.exit(f"slow_link.py needs {tool}, which was not found; install iproute2.")
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if found is None:
        sys.exit(f"slow_link.py needs the mpiexec of MPICH beside {sys.executable}; run pip install 'cnn-blas[mpi]'.")
    return found


@contextmanager
def _namespaces() -> Iterator[None]:
    """Two namespaces joined by one veth pair, for the duration of the block."""
    try:
        for space in SPACES:
            _run("ip", "netns", "add", space)
        first, second = SPACES
        pair = ["type", "veth", "peer", "name", INTERFACE, "netns", second]
        _run("ip", "link", "add", INTERFACE, "netns", first, *pair)
        for space, address in SPACES.items():
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _run("ip", "-n", space, "link", "set", interface, "up")
        _limit(first, "1gbit")
        while any("UP" not in _run("ip", "-n", space, "-br", "link", "show", INTERFACE).split()[1] for space in SPACES):
            time.sleep(0.05)
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


def _limit(space: str, rate: str) -> None:
    shaper = f"root tbf rate {rate} burst {BURST} latency 100ms".split()
    _run("tc", "-n", space, "qdisc", "replace", "dev", INTERFACE, *shaper)


@contextmanager
def _launcher() -> Iterator[str]:
    """A program that starts a command in the namespace of an address, as ssh does on a host."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "launch.sh"
        cases = "\n".join(f"{address}) space={space} ;;" for space, address in SPACES.items())
        path.write_text(LAUNCHER.format(cases=cases))
        path.chmod(0o755)
        yield str(path)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"`{shlex.join(words)}` failed: {said[-1]}. slow_link.py needs a kernel with veth and sch_tbf.")
    return done.stdout


def _bench(command: str, options: argparse.Namespace) -> str:
    # Otherwise UCX would see that both ends are on one machine, and use shared memory.
    environment = os.environ | {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": INTERFACE}
    words = ["bench", options.model, "--ranks", "2", "--mpiexec", command, "--threads", "1", "--json"]
    words += ["--batch-size", options.batch_size, "--rounds", options.rounds]
    done = subprocess.run([sys.executable, "-m", "cnn", *words], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def _show(rate: str, table: dict[str, Any]) -> None:
    link = table["link"]
    print(f"{rate}: latency {link['latency_us']['value']:.1f} us, bandwidth {link['gbs']['value'] * 1e3:.1f} MB/s")
    for row in table["results"]:
        seconds, predicted = row["seconds"], row["predicted"]
        name, interval = (
            f"{row['model']}, {row['scaling']}",
            f"{predicted['low'] * 1e3:.1f}-{predicted['high'] * 1e3:.1f}",
        )
        model = f"{predicted['value'] * 1e3:.1f} ({interval})"
        times = "  ".join(f"{each * 1e3:8.1f}" for each in (seconds, row["exposed"], row["hidden"]))
        print(f"{rate:<8}  {name:<22}  {times}  {model:>24}  {row['error']:>+6.0%}")


if __name__ == "__main__":
    main()
