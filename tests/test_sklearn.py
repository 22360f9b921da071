"""The classifier in scikit-learn: its checks, pipelines, searches, weights, and threads in joblib's processes."""

import pickle
import sys
from importlib import import_module

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

import cnn
from cnn.errors import CnnError, ShapeError
from cnn.sklearn import CNNClassifier, default_layers
from cnn.system.threads import budget

DIGITS, NAMES = load_digits(return_X_y=True)
DIGITS, NAMES = DIGITS[:300], NAMES[:300]

EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "an image of weight 2 is seen once in an epoch, not twice: "
    "another number of images makes other batches",
}
"""The checks that cannot hold, with the reasons."""


def digits(**settings):
    return CNNClassifier(**{"image_shape": (8, 8), "backend": "numpy", "random_state": 0, "max_iter": 8, **settings})


@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn_hold_but_for_the_expected():
    results = check_estimator(CNNClassifier(backend="numpy"), on_fail=None, on_skip=None)
    assert len(results) > 50
    failed = {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}
    assert failed.keys() == EXPECTED.keys(), failed


def test_a_pipeline_learns_digits_and_is_kept(tmp_path):
    pipeline = make_pipeline(MinMaxScaler(), digits(early_stopping=True, max_iter=20))
    pipeline.fit(DIGITS[:250], NAMES[:250])
    assert pipeline.score(DIGITS[250:], NAMES[250:]) > 0.85
    assert pipeline[-1].n_iter_ <= 20
    assert pipeline[-1].history_["val_loss"][0] is not None
    expected = pipeline.predict_proba(DIGITS[250:])
    joblib.dump(pipeline, tmp_path / "p")
    for again in (joblib.load(tmp_path / "p"), pickle.loads(pickle.dumps(pipeline))):
        assert again.predict_proba(DIGITS[250:]).tolist() == expected.tolist()


def test_searches_and_validation_take_it():
    assert cross_val_score(digits(), DIGITS, NAMES, cv=2).min() > 0.6
    search = GridSearchCV(digits(), {"learning_rate_init": [1e-6, 0.003], "network": [None, "mlp"]}, cv=2)
    search.fit(DIGITS, NAMES)
    assert search.best_params_["learning_rate_init"] == 0.003
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()


def test_joblibs_processes_share_the_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CNN_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    alone = budget().count
    budgets = joblib.Parallel(n_jobs=2)(joblib.delayed(budget)() for _ in range(2))
    assert [each.count for each in budgets] == [1, 1]
    assert budgets[0].openmp == 1
    assert budget().count == alone
    # The processes that wait for more work end with the test.
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def test_every_form_of_network_and_image():
    images = DIGITS.reshape(-1, 8, 8)
    layers = [cnn.Conv2D(8, 3, activation="relu"), cnn.Flatten(), cnn.Linear(10)]
    expected = digits(network=layers).fit(images, NAMES).predict(images)
    assert (expected == NAMES).mean() > 0.8
    for same, layout in ((DIGITS, "NHWC"), (images[..., None], "NHWC"), (images[:, None], "NCHW")):
        again = digits(network=layers, layout=layout, image_shape=(8, 8) if same.ndim == 2 else None)
        assert again.fit(same, NAMES).predict(same).tolist() == expected.tolist()
    mlp = cnn.architecture("mlp")
    assert digits(network=mlp, max_iter=1).fit(DIGITS, NAMES).model_.name == "mlp"
    named = CNNClassifier("mlp", backend="numpy", max_iter=1).fit(np.zeros((4, 784)), [0, 1, 0, 1])
    assert named.model_.input_shape == (28, 28, 1)
    assert len(default_layers((8, 8, 1), 2)) == 7
    with pytest.raises(ValueError, match="Rows of 5 numbers are no images"):
        CNNClassifier("mlp", backend="numpy").fit(np.zeros((4, 5)), [0, 1, 0, 1])


def test_settings_of_another_kind_are_named():
    for settings, words in (
        ({"image_shape": (8,)}, r"image_shape must be \(H, W\) or \(H, W, C\), not \(8,\)"),
        ({"image_shape": "8x8"}, "image_shape must be"),
        ({"image_shape": (8, "8")}, "number of image_shape must be a whole number of at least 1, not '8'"),
        ({"n_jobs": "all"}, "n_jobs must be a whole number"),
    ):
        with pytest.raises(ValueError, match=words):
            digits(**settings).fit(DIGITS, NAMES)


def test_partial_fit_and_warm_start_go_on():
    with pytest.raises(ValueError, match="classes must be passed"):
        digits().partial_fit(DIGITS, NAMES)
    one = digits()
    for _ in range(6):
        one.partial_fit(DIGITS[:150], NAMES[:150], classes=range(10)).partial_fit(DIGITS[150:], NAMES[150:])
    assert one.score(DIGITS, NAMES) > 0.8
    assert one.n_iter_ == 12
    for labels, classes, words in (([99] * 3, None, "not among"), (NAMES[:3], [1, 2], "not the same")):
        with pytest.raises(ValueError, match=words):
            one.partial_fit(DIGITS[:3], labels, classes=classes)
    warm = digits(warm_start=True, max_iter=2).fit(DIGITS, NAMES)
    first = warm.history_[0].train_loss
    assert warm.fit(DIGITS, NAMES).history_[2].train_loss < first
    with pytest.raises(ValueError, match="warm_start needs the classes"):
        warm.fit(DIGITS[:5], NAMES[:5])


def test_weights_move_the_answers():
    names = np.array(["few"] * 3 + ["many"] * 47)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4))
    settings = {"backend": "numpy", "random_state": 0, "max_iter": 30, "batch_size": 10, "alpha": 0.01}
    shares = [
        (CNNClassifier(class_weight=weight, **settings).fit(X, names).predict(X) == "few").mean()
        for weight in (None, "balanced", {"few": 1000.0, "other": 1})
    ]
    assert shares[0] < shares[1] <= shares[2]
    half = np.where(names == "few", 0.0, 1.0)
    ignored = CNNClassifier(**settings).fit(X, names, sample_weight=half)
    assert (ignored.predict(X) == "many").all()
    with pytest.raises(ValueError, match=r"All weights are 0|non-zero"):
        CNNClassifier(**settings).fit(X, names, sample_weight=np.zeros(50))


def test_the_seed_decides_everything():
    answers = [
        digits(random_state=seed, max_iter=2).fit(DIGITS, NAMES).predict_proba(DIGITS).tobytes() for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_without_scikit_learn_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "cnn.sklearn")
    with pytest.raises(
        CnnError, match=r"needs scikit-learn 1\.6 or newer; install it: pip install cnn-blas\[sklearn\]"
    ):
        import_module("cnn.sklearn")


def test_rows_that_are_no_images_of_the_given_shape_are_refused():
    with pytest.raises(ShapeError, match=r"Rows of 64 numbers are no images of \(7, 8, 1\); give their image_shape"):
        digits(image_shape=(7, 8)).fit(DIGITS[:20], NAMES[:20])
