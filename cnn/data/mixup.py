"""Mixup: each image of a batch is averaged with another one of the batch, and so are their losses."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.ops.input import Changes


class Partners(NamedTuple):
    """What images are averaged with: `share` of themselves, the rest of those at `order` (M,) after `changes`."""

    share: float
    order: npt.NDArray[np.int64]
    changes: Changes


class Mix(NamedTuple):
    """How the images of a batch are mixed: image i keeps `share`, and `places[i]` in the batch gives the rest."""

    share: float
    places: npt.NDArray[np.int64]

    @classmethod
    def draw(cls, alpha: float, count: int, rng: np.random.Generator) -> "Mix":
        """Draws the mix of a batch of `count` images.

        One share for all images, from a Beta distribution (alpha, alpha), and partners by a permutation of the batch:
        Zhang et al. 2018, "mixup: Beyond empirical risk minimization" (arXiv 1710.09412), and its code. The share is
        the larger of the two parts; with the partners' roles exchanged, the other one gives the same images.
        """
        share = float(rng.beta(alpha, alpha))
        return cls(max(share, 1 - share), rng.permutation(count))

    def of(self, rows: slice, chosen: npt.NDArray[np.int64], changes: Changes) -> Partners:
        """The partners of some images of the batch, whose images are `chosen` (N,) and changed by `changes`."""
        places = self.places[rows]
        return Partners(self.share, chosen[places], changes.of(places))
