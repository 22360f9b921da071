"""Times a scikit-learn search over the classifier with one process and with two, in turns: `python bench/search.py`."""

import argparse
from statistics import median

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from cnn.sklearn import CNNClassifier
from cnn.system.timing import now

GRID = {"learning_rate_init": [0.001, 0.002, 0.003, 0.004]}


def seconds(jobs: int, epochs: int) -> float:
    """One search of 4 settings in 3 parts of the digits, in so many processes."""
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(CNNClassifier(image_shape=(8, 8), max_iter=epochs, random_state=0), GRID, cv=3, n_jobs=jobs)
    started = now()
    search.fit(X, y)
    return now() - started


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="searches of each kind")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each of the 13 trainings of a search")
    options = parser.parse_args()
    counts = (1, 2)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            times[count].append(seconds(count, options.epochs))
    for count in counts:
        print(f"n_jobs={count}: {median(times[count]):.1f} s, of {', '.join(f'{each:.1f}' for each in times[count])}")


if __name__ == "__main__":
    main()
