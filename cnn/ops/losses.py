"""Losses with their gradients, and counts of correct answers."""

import numpy as np

from cnn.arrays import Array


def count_correct(scores: Array, labels: Array) -> int:
    """How many rows of scores (N, K) have their largest element at the label; the first one wins a tie."""
    return int(np.count_nonzero(np.argmax(scores, axis=1) == labels))


def checked_count(result: tuple[float, int], classes: int) -> tuple[float, int]:
    """Returns `result`, (loss, correct answers), unchanged.

    Raises IndexError for a negative count, by which a kernel reports a label outside the classes.
    """
    if result[1] < 0:
        raise IndexError(f"A label is outside the {classes} classes; number the labels from 0 to {classes - 1}.")
    return result


class Losses:
    """Each loss returns (the loss summed over the images, the number of correct answers).

    out, if given, receives the gradient of the MEAN loss over the batch, (N, K).
    """

    def softmax_cross_entropy(
        self, scores: Array, labels: Array, out: Array | None, *, smoothing: float = 0.0
    ) -> tuple[float, int]:
        """-sum of target * log softmax(scores (N, K)), labels (N,) int64; the row's maximum is subtracted to bound exp.

        The target is 1 - smoothing at the label, and everywhere smoothing / K on top.
        """
        rows = np.arange(len(labels))
        shifted = scores - scores.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        totals = exponentials.sum(axis=1, keepdims=True)
        chosen = shifted[rows, labels]
        if smoothing:
            chosen = (1 - smoothing) * chosen + smoothing * shifted.mean(axis=1)
        loss = float(np.sum(np.log(totals[:, 0]) - chosen, dtype=np.float64))
        if out is not None:
            np.divide(exponentials, totals, out=out)
            if smoothing:
                out -= smoothing / scores.shape[1]
            out[rows, labels] -= 1 - smoothing
            out /= len(labels)
        return loss, count_correct(scores, labels)

    def squared_error(
        self, scores: Array, labels: Array, out: Array | None, *, low: float, high: float
    ) -> tuple[float, int]:
        """The mean over the K outputs of (score - target)**2; the target is `high` at the label, `low` elsewhere."""
        rows = np.arange(len(labels))
        errors = scores - np.asarray(low, scores.dtype)
        errors[rows, labels] -= np.asarray(high - low, scores.dtype)
        loss = float(np.sum(errors * errors, dtype=np.float64)) / scores.shape[1]
        if out is not None:
            np.multiply(errors, 2 / errors.size, out=out)
        return loss, count_correct(scores, labels)

    def softmax(self, scores: Array, out: Array) -> None:
        """out (N, K) = exp(scores) / sum over the row."""
        np.subtract(scores, scores.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        out /= out.sum(axis=1, keepdims=True)

    def target_probabilities(self, scores: Array, out: Array, *, low: float, high: float) -> None:
        """out (N, K) = each score's height above `low`, not below 0, over the row's sum.

        A row that does not reach `high` is lifted until its largest score does, so that the sum is never 0.
        """
        lift = np.maximum(high - scores.max(axis=1, keepdims=True), 0)
        np.add(scores, lift - low, out=out)
        np.maximum(out, 0, out=out)
        out /= out.sum(axis=1, keepdims=True)
