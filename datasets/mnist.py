"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels in four files."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cnn.data.dataset import Dataset, DatasetPlugin
from cnn.errors import DataError
from cnn.system.fetch import RemoteFile

from ._idx import find_files, read_split  # noqa: TID251 - relative, as it should be

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _remote(folder: str, mirrors: Sequence[str], known: Sequence[tuple[int, str]]) -> tuple[RemoteFile, ...]:
    """The four gzipped files, their sizes and SHA-256 in the order of NAMES."""
    return tuple(
        RemoteFile(f"{folder}/{name}.gz", size, sha256, tuple(f"{mirror}/{name}.gz" for mirror in mirrors))
        for name, (size, sha256) in zip(NAMES, known, strict=True)
    )


class Mnist(DatasetPlugin):
    """Handwritten digits (LeCun, Cortes and Burges)."""

    name = "mnist"
    summary = "handwritten digits, 60,000 + 10,000 images of 28 x 28 x 1, 10 classes"
    licence = "CC BY-SA 3.0 (LeCun, Cortes, Burges)"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    subfolders: ClassVar[tuple[str, ...]] = ("mnist", "MNIST/raw", "")
    # Sizes and digests: the checksum file mnist.txt of TensorFlow Datasets. The mirrors are those that
    # torchvision and TensorFlow Datasets name; the original site rarely answers, so it is last.
    files = _remote(
        "mnist",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "http://yann.lecun.com/exdb/mnist",
        ),
        (
            (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    )
    # SHA-256 of the unpacked files, in the order of NAMES, so that it fits plain files and any gzip of them.
    content: ClassVar[tuple[str, ...]] = (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )

    def locate(self, folders: Sequence[Path]) -> str:
        """The folder that holds all four files, gzipped or plain."""
        return str(self._find(folders)[0].parent)

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads the four files; files whose content is not official are used and noted."""
        paths = self._find(folders)
        train, train_digests = read_split(paths[0], paths[1], (28, 28), len(self.classes))
        test, test_digests = read_split(paths[2], paths[3], (28, 28), len(self.classes))
        digests = train_digests + test_digests
        for sibling in (Mnist, FashionMnist):
            if sibling.name != self.name and digests == sibling.content:
                # The two sets have the same file names.
                raise DataError(f"{paths[0].parent} holds {sibling.name}, not {self.name}; name another --data-dir.")
        other = [path.name for path, digest, known in zip(paths, digests, self.content, strict=True) if digest != known]
        notes = () if not other else (f"not the official files of {self.name} (SHA-256): {', '.join(other)}",)
        return Dataset(self.name, train, test, self.classes, notes, str(paths[0].parent))

    def _find(self, folders: Sequence[Path]) -> list[Path]:
        partial = ""
        for folder in (base / sub for base in folders for sub in self.subfolders):
            found = find_files(folder, NAMES)
            if len(found) == len(NAMES):
                return found
            if found:
                partial = f"{folder} has only {', '.join(path.name for path in found)}"
        raise self.missing(folders, partial)


class FashionMnist(Mnist):
    """Articles of clothing in the format of MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747)."""

    name = "fashion-mnist"
    summary = "clothing, 60,000 + 10,000 images of 28 x 28 x 1, 10 classes"
    licence = "MIT (Zalando SE)"
    classes = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    subfolders = ("fashion-mnist", "FashionMNIST/raw", "")
    extra_folders = (Path("/usr/share/datasets"),)
    # Sizes and digests: the checksum file fashion_mnist.txt of TensorFlow Datasets. The first address is the
    # publisher's repository, the second the bucket its README names.
    files = _remote(
        "fashion-mnist",
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        (
            (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    )
    # Debian's repacked files have the same content: with the name and time of the original gzip header restored,
    # they have the digests above.
    content = (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    )
