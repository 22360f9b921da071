"""What a data set is: labelled images in a training and a test split, and the plug-in that brings them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 and labels (N,) int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A loaded data set. `notes` are one-line remarks the user must see, such as an unofficial digest."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class DatasetPlugin(ABC):
    """One data set."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, folders: Sequence[Path]) -> Dataset: ...
