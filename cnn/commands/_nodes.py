"""`cnn compare --nodes`: its options, and the predicted training on many nodes."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice

from cnn.energy.calibration import Calibration
from cnn.energy.devices import catalogue
from cnn.energy.links import links
from cnn.errors import UsageError
from cnn.model.architecture import Architecture
from cnn.report.curve import Curve
from cnn.report.predicted import targets
from cnn.report.scaling import Node, curves
from cnn.terminal.arguments import expanded, whole_number
from cnn.words import counted, unknown

NODE = "2x-e5-2620v3"
"""A node of the cluster that this library was proposed for."""
MOST_COUNTS = 1000
"""Numbers of nodes in one prediction."""
NETWORKS = ("ethernet-1g", "ethernet-10g", "infiniband-fdr")


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """--nodes and the options that go with it."""
    parser.add_argument(
        "--nodes",
        type=_counts,
        metavar="COUNTS",
        help="also predict training on these numbers of nodes, separated by commas; 1,2,4,...,1024 continues the "
        f"series. The nodes are each --device (default: {NODE}), and this machine if it is calibrated",
    )
    parser.add_argument(
        "--link",
        metavar="KEYS",
        help=f"links between nodes, separated by commas (default: {','.join(NETWORKS)})",
    )
    parser.add_argument("--links", type=expanded, metavar="FILE", help="TOML file with links of your own")
    parser.add_argument(
        "--scaling",
        choices=("weak", "strong"),
        default="weak",
        help="weak: --batch-size is the batch of each node; strong: it is divided among all nodes",
    )


def node_curves(
    architecture: Architecture, options: argparse.Namespace, calibrations: Sequence[Calibration]
) -> tuple[list[Curve], list[str]]:
    """The curve of each kind of node and link, and a sentence about the numbers of nodes that have no row.

    Each calibration makes this machine one more kind of node. Raises UsageError for options that do not fit.
    """
    if options.nodes is None:
        if options.link or options.links:
            raise UsageError(
                "--link and --links need --nodes; give the numbers of nodes, such as --nodes 1,2,4,...,1024."
            )
        return [], []
    if options.mode != "train":
        raise UsageError(
            "--nodes predicts only training, as nodes that classify exchange nothing; leave out --mode infer."
        )
    known = links(options.links)
    asked = options.link.split(",") if options.link else NETWORKS
    for key in asked:
        if key not in known:
            raise unknown("There is no link", key, known)
    keys = options.device.split(",") if options.device else [NODE]
    nodes = [
        Node.of_target(target, options.thresholds, options.threads, options.algorithm)
        for target in targets(keys, catalogue(options.devices))
    ]
    nodes += [Node.of_calibration(each) for each in calibrations]
    joined, batch, weak = [known[key] for key in asked], options.batch_size, options.scaling == "weak"
    too_many = [] if weak else [number for number in options.nodes if number > batch]
    # If all are too many, `curves` refuses the first of them.
    counts = [number for number in options.nodes if number not in too_many] or too_many
    found = [curve for node in nodes for curve in curves(architecture, node, joined, counts, batch, weak=weak)]
    texts = ", ".join(map(str, too_many))
    return found, [
        f"no row for {texts} nodes: a batch of {counted(batch, 'image')} is too small for them."
    ] if too_many else []


def _counts(text: str) -> list[int]:
    """Increasing whole numbers; "..." continues the series of the two before it."""
    found: list[int] = []
    parts = text.split(",")
    for place, part in enumerate(parts):
        if part != "...":
            found.append(whole_number(part))
        elif 2 <= place < len(parts) - 1:
            found += islice(_between(found[-2], found[-1], whole_number(parts[place + 1])), MOST_COUNTS)
        else:
            raise argparse.ArgumentTypeError(f"{text!r}: '...' must stand between numbers, after at least two")
    if len(found) > MOST_COUNTS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MOST_COUNTS} numbers")
    if found != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of nodes must increase")
    return found


def _between(first: int, second: int, last: int) -> Iterator[int]:
    """The terms between `second` and `last` of a series that continues by a whole ratio, or else by a difference."""
    while first < second and (after := 2 * second - first if second % first else second * second // first) < last:
        yield after
        first, second = second, after
