"""Words that messages have in common."""

import pytest

from cnn.words import counted, nearest, unknown


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "epoch", "1 epoch"), (2, "epoch", "2 epochs"), (0, "class", "0 classes"), (1000, "batch", "1,000 batches")],
)
def test_counts(count, noun, text):
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("name", "close"), [("cifar", "cifar10"), ("MNIST", "mnist"), ("mnits", "mnist"), ("svhn", None), ("", None)]
)
def test_the_nearest_name(name, close):
    assert nearest(name, ["mnist", "cifar10"]) == close


def test_a_name_that_does_not_exist():
    assert str(unknown("There is no letter", "x", [])) == "There is no letter 'x'; known are: none."
    assert str(unknown("No", "ab", ["abc", "de"], " or f")) == "No 'ab'; did you mean 'abc'? Known are: abc, de or f."
