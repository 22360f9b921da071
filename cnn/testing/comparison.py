"""Compares results with what was expected, element by element, and says where they differ most."""

import numpy as np

from cnn.testing.case import Arrays


class ContractViolation(AssertionError):
    """A backend or a layer that does not do what is promised; the message says where and by how much."""


def compare(where: str, results: Arrays, expected: Arrays, allowed: Arrays) -> float:
    """The largest error as a part of its bound. Raises ContractViolation for one beyond it.

    NaN must stand where it is expected (what lies between strided rows) and nowhere else.
    """
    worst = 0.0
    for name, right in expected.items():
        got = results[name].astype(np.float64)
        error = np.where((got == right) | (np.isnan(got) & np.isnan(right)), 0.0, np.abs(got - right))
        share = np.divide(error, allowed[name], out=np.where(error == 0, 0.0, np.inf), where=allowed[name] > 0)
        share = np.where(np.isnan(share), np.inf, share)
        if share.size and share.max() > 1:
            at = np.unravel_index(int(share.argmax()), share.shape)
            place = name + (str([int(i) for i in at]) if at else "")
            raise ContractViolation(
                f"{where}: {place} is {got[at]:.9g}, expected {right[at]:.9g} within {allowed[name][at]:.3g}; "
                f"{np.count_nonzero(share > 1)} of {share.size} elements are wrong."
            )
        worst = max(worst, float(share.max(initial=0)))
    return worst
