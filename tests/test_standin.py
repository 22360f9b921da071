"""Intel's own automatic offload, from MKL 2018.0.0, on the stand-in card: right numbers, and the bytes it reports.

What this cannot show: the speed of a card or of its bus, the worker built for a KNC card, and the MPSS daemons.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.automatic_offload import Card, Finished, Outcome, Product, run, start
from helpers.stand_in_card import StandIn

from cnn import registry
from cnn.instruments import private
from cnn.model.zoo import architecture

pytestmark = pytest.mark.phi

WIDE = (12544, 64, 576)
"""Sizes of which no border is left to the host: the bytes that move follow from them alone."""

Offload = Callable[..., Finished]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the stand-in card writes what it did."""
    return tmp_path / "log"


@pytest.fixture
def offload(stand_in: StandIn, mkl_2018: Path, tmp_path: Path, log: Path) -> Offload:
    """Multiplies with the stand-in's controls (lower case) and MKL's variables (upper case)."""

    def multiply(products: list[Product], **controls: object) -> Finished:
        variables = {name: str(controls.pop(name)) for name in list(controls) if name.isupper()}
        environment = stand_in.environment(mkl_2018, log=log, **controls)
        return run(tmp_path / "products", products, environment | variables)

    return multiply


def random(m: int, n: int, k: int, *, accumulate: bool = False) -> Product:
    """A product of normally distributed numbers."""
    generator = np.random.default_rng(m + n + k)
    a, b, c = (generator.standard_normal(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
    return Product(a, b, start=c if accumulate else None)


def wrong(products: list[Product], done: Finished) -> int:
    """Elements beyond the bound."""
    pairs = zip(products, done.outcomes, strict=True)
    return sum(int(product.wrong(outcome.out).sum()) for product, outcome in pairs)


def on_card(outcome: Outcome) -> bool:
    """Whether a card computed a part: the report alone is not enough, as a card may be sent data and return nothing."""
    return any(card.received > 0 for card in outcome.cards.values())


def moved(log: Path) -> list[tuple[int, int]]:
    """Bytes to and from each card that the stand-in counted."""
    found = re.findall(r"card (\d+): \w+ after (\d+) bytes to the card, (\d+) bytes from it", log.read_text())
    return [(int(sent), int(received)) for _, sent, received in sorted(found)]


def reported(done: Finished, card: int) -> tuple[int, int]:
    """Bytes to and from a card that MKL reported."""
    parts = [outcome.cards[card] for outcome in done.outcomes if card in outcome.cards]
    return sum(part.sent for part in parts), sum(part.received for part in parts)


def products_of_step(name: str, batch: int) -> list[Product]:
    """Every product of one training step on random images, with its operands."""
    products = []

    def keep(gemm: Any, a: Any, b: Any, *, transpose_a: bool = False, transpose_b: bool = False, **rest: Any) -> None:
        assert not rest.get("accumulate")
        products.append(Product(a.copy(), b.copy(), transpose_a, transpose_b))
        gemm(a, b, transpose_a=transpose_a, transpose_b=transpose_b, **rest)

    model = architecture(name).build(backend=private(registry.create("numpy"), gemm=keep))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, *model.input_shape), np.uint8)
    model.train_step(images, generator.integers(0, 10, batch))
    return products


# Forward, weight gradient, data gradient; a card takes none of fewer than 128 rows or of fewer than 16 columns.
CONVOLUTIONS = {
    "lenet": {
        "card": {(18432, 20, 25), (2048, 50, 500), (500, 50, 2048), (2048, 500, 50)},
        "host": {(25, 20, 18432)},
    },
    "cifar10_quick": {
        "card": {
            *((8192, 32, 75), (2048, 32, 800), (512, 64, 800)),
            *((800, 32, 2048), (800, 64, 512)),
            *((2048, 800, 32), (512, 800, 64)),
        },
        "host": {(75, 32, 8192)},
    },
}


@pytest.mark.parametrize(("name", "batch"), [("lenet", 32), ("cifar10_quick", 8)])
def test_training_step(name: str, batch: int, offload: Offload, log: Path):
    products = products_of_step(name, batch)
    done = offload(products)
    assert done.devices == 1
    assert wrong(products, done) == 0
    sizes = {True: set(), False: set()}
    for product, outcome in zip(products, done.outcomes, strict=True):
        sizes[on_card(outcome)].add(product.sizes())
    assert sizes[True] >= CONVOLUTIONS[name]["card"]
    assert sizes[False] >= CONVOLUTIONS[name]["host"]
    # MKL cuts a transposed operand into blocks that overlap, and reports the overlap once.
    [(sent, received)], (sent_once, received_once) = moved(log), reported(done, 0)
    assert received == received_once
    assert sent_once < sent < 1.5 * sent_once


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_bytes_of_forward_products(name: str, offload: Offload, log: Path):
    products = products_of_step(name, 8)
    done = offload([product for product in products if not (product.transpose_a or product.transpose_b)])
    assert sum(map(on_card, done.outcomes)) >= 2
    assert moved(log) == [reported(done, 0)]


def test_bytes_follow_from_the_sizes(offload: Offload, log: Path):
    m, n, k = WIDE
    products = [random(m, n, k), random(m, n, k, accumulate=True)]
    done = offload(products)
    assert wrong(products, done) == 0
    for outcome in done.outcomes:
        # A product that accumulates stays on the host.
        [card] = outcome.cards.values()
        assert (card.sent, card.received) == (4 * (m * k + k * n), 4 * m * n)
        assert card.seconds > 0
    assert moved(log) == [reported(done, 0)]


def test_what_the_card_sends_is_what_arrives(offload: Offload):
    products = [random(*WIDE)]
    [outcome] = offload(products, corrupt=1).outcomes
    faulty = products[0].wrong(outcome.out)
    assert faulty.any()
    # One element of each transfer, and no others.
    np.testing.assert_array_equal(outcome.out[faulty], 12345)
    assert faulty[0, 0]


def test_one_wrong_number_is_found(offload: Offload):
    products = [random(*WIDE)]
    done = offload(products)
    out = done.outcomes[0].out
    assert wrong(products, done) == 0
    for value in (out[7, 5] + np.float32(0.01), np.float32(np.nan)):
        out[7, 5] = value
        assert wrong(products, done) == 1


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_work_division(share: float, offload: Offload, log: Path):
    m, n, _ = WIDE
    products = [random(*WIDE)]
    done = offload(products, MKL_MIC_0_WORKDIVISION=share)
    assert wrong(products, done) == 0
    [outcome] = done.outcomes
    assert outcome.division[1:] == [share]
    # MKL rounds the card's rows to whole blocks.
    assert outcome.cards[0].received == pytest.approx(4 * m * n * share, abs=4 * n * 256)
    assert moved(log) == [reported(done, 0)]


def test_two_cards(offload: Offload, log: Path):
    m, n, k = WIDE
    products = [random(*WIDE)]
    done = offload(products, cards=2)
    assert done.devices == 2
    assert wrong(products, done) == 0
    [outcome] = done.outcomes
    assert outcome.division == [0, 0.5, 0.5]
    both = [reported(done, card) for card in (0, 1)]
    assert moved(log) == both
    assert sum(received for _, received in both) == 4 * m * n
    # Each card gets its rows of A and the whole of B.
    assert sum(sent for sent, _ in both) == 4 * (m * k + 2 * k * n)


def test_knights_corner(offload: Offload, log: Path):
    products = [random(*WIDE)]
    done = offload(products, type="KNC")
    assert done.devices == 1
    assert wrong(products, done) == 0
    assert on_card(done.outcomes[0])
    assert re.search(r"started as process \d+ of type KNC", log.read_text())


def test_no_card(offload: Offload, log: Path):
    products = [random(*WIDE)]
    done = offload(products, cards=0)
    assert done.devices == 0
    assert wrong(products, done) == 0
    assert done.outcomes[0].cards == {}
    assert not log.exists()


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_card_killed_in_a_product(runs: int, offload: Offload, log: Path):
    # A part that arrived before must not be added twice.
    products = [random(*WIDE, accumulate=True) for _ in range(3)]
    done = offload(products, die_after=runs)
    assert "died after" in log.read_text()
    # MKL repeats the product on the host, and its status is still success.
    assert wrong(products, done) == 0
    assert [outcome.status for outcome in done.outcomes] == [0, 0, 0]
    before = (runs - 1) // 2
    assert [on_card(outcome) for outcome in done.outcomes] == [True] * before + [False] * (3 - before)


def test_one_of_two_cards_killed(offload: Offload, log: Path):
    products = [random(*WIDE) for _ in range(3)]
    done = offload(products, cards=2, die_after=2)
    assert wrong(products, done) == 0
    assert "card 0: died" in log.read_text()
    first, second, third = done.outcomes
    assert first.cards[0].received > 0
    assert second.cards[0] == Card(-1, second.cards[0].sent, 0)
    assert third.cards[0] == Card(0, 0, 0)
    assert min(second.cards[1].received, third.cards[1].received) > 0


def test_refused_buffer(offload: Offload, log: Path):
    products = [random(*WIDE, accumulate=True) for _ in range(2)]
    done = offload(products, refuse_buffer=2)
    assert wrong(products, done) == 0
    assert [on_card(outcome) for outcome in done.outcomes] == [False, True]
    assert log.read_text().count("refused") == 1


def test_card_without_memory(offload: Offload, log: Path):
    products = [random(*WIDE) for _ in range(2)]
    done = offload(products, refuse_buffer="1+")
    assert wrong(products, done) == 0
    assert not any(map(on_card, done.outcomes))
    assert moved(log) == [(0, 0)]


def test_card_ends_with_its_host(stand_in: StandIn, mkl_2018: Path, tmp_path: Path, log: Path):
    products = [random(*WIDE) for _ in range(20)]
    with start(tmp_path / "products", products, stand_in.environment(mkl_2018, log=log)) as process:
        found = _within(60, lambda: log.exists() and re.search(r"process (\d+)[^$]*with 3 buffers", log.read_text()))
        process.kill()
    card = int(found[1])
    _within(60, lambda: not _runs(card))


def _within(seconds: float, condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
