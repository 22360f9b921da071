"""Whether a network has learned anything in an epoch, or answers as one that only guesses."""

from math import inf, log, sqrt

import numpy as np

from cnn.losses import SoftmaxCrossEntropy
from cnn.training.results import EpochResult
from cnn.training.trainer import Trainer

FEWEST, NEARLY, DEVIATIONS = 100, 0.99, 3
"""Images of which a share says something, the part of a guess's loss that counts as one, and of chance."""


def guessing(trainer: Trainer, result: EpochResult) -> str | None:
    """What to try if the epoch's loss and accuracy are those of the best guess that ignores the images, else None.

    That guess gives every image the shares of the classes as probabilities: its loss is their entropy, ln K for K
    classes of one size, and its accuracy that of the largest class.
    """
    labels = trainer.train.labels
    if len(labels) < FEWEST:
        return None
    counts = np.bincount(labels)
    shares = [float(each) / len(labels) for each in counts if each]
    largest = max(shares)
    entropy = -sum(share * log(share) for share in shares) if isinstance(trainer.model.loss, SoftmaxCrossEntropy) else 0
    lucky = largest + DEVIATIONS * sqrt(largest * (1 - largest) / len(labels))
    if len(shares) < 2 or result.train_accuracy > lucky or not NEARLY * entropy <= result.train_loss < inf:
        return None
    rate = result.learning_rate
    guess = f"loss {entropy:.3f}, accuracy {largest:.1%}" if entropy else f"accuracy {largest:.1%}"
    return (
        f"the network answered at random in epoch {result.epoch}, as one that ignores the images ({guess}); if this "
        f"stays so, try another learning rate (--lr {rate / 10:.2g} or {rate * 10:.2g}), --optimizer Adam, or --seed"
    )
