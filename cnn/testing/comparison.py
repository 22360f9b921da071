"""Compares results with the expected values, element by element, and reports where they differ most."""

import numpy as np

from cnn.testing.case import Arrays


class ContractViolation(AssertionError):
    """A backend or a layer does not do what it promises; the message says where and by how much."""


def compare(where: str, results: Arrays, expected: Arrays, allowed: Arrays) -> float:
    """The largest error relative to its bound. Raises ContractViolation if an error exceeds its bound.

    NaN must be exactly where it is expected (between strided rows).
    """
    worst = 0.0
    for name, right in expected.items():
        got = results[name].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity minus itself
            error = np.where((got == right) | (np.isnan(got) & np.isnan(right)), 0.0, np.abs(got - right))
        ratio = np.divide(error, allowed[name], out=np.where(error == 0, 0.0, np.inf), where=allowed[name] > 0)
        ratio = np.where(np.isnan(ratio), np.inf, ratio)
        if ratio.size and ratio.max() > 1:
            at = np.unravel_index(int(ratio.argmax()), ratio.shape)
            place = name + (str([int(i) for i in at]) if at else "")
            raise ContractViolation(
                f"{where}: {place} is {got[at]:.9g}, expected {right[at]:.9g} within {allowed[name][at]:.3g}; "
                f"{np.count_nonzero(ratio > 1)} of {ratio.size} elements are wrong."
            )
        worst = max(worst, float(ratio.max(initial=0)))
    return worst
