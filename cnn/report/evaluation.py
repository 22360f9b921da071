"""What a model does on the images of a split: confusion, precision and recall, calibration, and the worst mistakes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.dataset import Split
from cnn.model.sequential import Sequential

BINS = 10
"""Of the probability of the answer, equally wide."""
MISTAKES = 24


@dataclass(frozen=True)
class Evaluation:
    """Answers to N images of K classes: `probabilities` (N, K), `labels` (N,)."""

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[Any]

    @classmethod
    def of(cls, model: Sequential, split: Split, batch_size: int = 256) -> "Evaluation":
        """Classifies the images. Raises UsageError if the split has classes that the model does not have."""
        split = model.with_own_labels(split)
        return cls(model.classes, split.labels, model.predict(split.images, batch_size=batch_size))

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each image."""
        found: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return found

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """The number of images by true class (rows) and answer (columns)."""
        table = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(table, (self.labels, self.answers), 1)
        return table

    def mistakes(self, most: int = MISTAKES) -> npt.NDArray[np.int64]:
        """The places of the images that were answered wrongly with the highest probability, the worst first."""
        sure = self.probabilities.max(axis=1)
        wrong = np.flatnonzero(self.answers != self.labels)
        return wrong[np.argsort(-sure[wrong], kind="stable")][:most]

    def calibration(self) -> list[dict[str, Any]]:
        """For each bin of the answer's probability that holds images: their number, mean probability and accuracy."""
        sure, right = self.probabilities.max(axis=1).astype(np.float64), self.answers == self.labels
        place = np.minimum((sure * BINS).astype(int), BINS - 1)
        return [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "images": int(inside.sum()),
                "probability": float(sure[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
            for k in range(BINS)
            if (inside := place == k).any()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; a precision or recall of no images is None.

        The expected calibration error is the mean over images of |accuracy - mean probability| of their bin (Guo et al.
        2017, "On Calibration of Modern Neural Networks", equation 3).
        """
        confusion, bins = self.confusion, self.calibration()
        right, rows, columns = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        count = len(self.labels)
        return {
            "images": count,
            "accuracy": float(right.sum() / count),
            "wrong": int(count - right.sum()),
            "classes": [
                {
                    "name": name,
                    "images": int(rows[k]),
                    "answers": int(columns[k]),
                    "precision": float(right[k] / columns[k]) if columns[k] else None,
                    "recall": float(right[k] / rows[k]) if rows[k] else None,
                }
                for k, name in enumerate(self.classes)
            ],
            "confusion": confusion.tolist(),
            "calibration": bins,
            "calibration_error": sum(each["images"] * abs(each["accuracy"] - each["probability"]) for each in bins)
            / count,
            "mistakes": [
                {
                    "image": int(place),
                    "true": self.classes[self.labels[place]],
                    "answer": self.classes[self.answers[place]],
                    "probability": float(self.probabilities[place].max()),
                    "true_probability": float(self.probabilities[place, self.labels[place]]),
                }
                for place in self.mistakes()
            ],
        }
