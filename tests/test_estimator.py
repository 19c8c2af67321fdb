"""The scikit-learn classifiers: what they do with data and parameters, and the tools that they work in."""

import copy
import pickle
from typing import Any

import imblearn.over_sampling
import imblearn.pipeline
import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from mbjax import ImbalancedClassifier, MetaBalanceClassifier, UserError
from mbjax.data.tables.columns import TableColumns
from mbjax.estimator import METHODS, settings
from mbjax.options import flatten
from mbjax.rows import CHOSEN

clone: Any = sklearn.base.clone  # of what type it gives, type checkers know too little
COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)
QUICK: dict[str, Any] = {"max_updates": 100, "random_state": 0}


def table(n=400, share=0.15, seed=0):
    """Two classes that two of three numbers tell apart, rather well."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    return rng.normal(size=(n, 3)) + 1.5 * y[:, None] * np.array([1, 1, 0]), y


def frame(n=300, seed=0):
    """A table of a number and a category, each with missing values, and labels of two words."""
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], n)
    late = rng.random(n) < np.where(colour == "red", 0.6, 0.05)
    amount = rng.normal(size=n) + late
    X = pd.DataFrame({"amount": amount, "colour": pd.Categorical(colour)})
    X.loc[::11, "amount"] = np.nan
    X.loc[::13, "colour"] = np.nan
    return X, np.where(late, "late", "in time")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "model",
    [MetaBalanceClassifier(params={"model.members": 2}), ImbalancedClassifier("erm")],  # of 32 it takes a minute more
    ids=["metabalance", "erm"],
)
def test_scikit_learns_checks_pass(model):
    inexact = "training is stochastic; test_a_weight_counts_as_so_many_examples has the statistical test"
    check_estimator(model, expected_failed_checks={"check_sample_weight_equivalence_on_dense_data": inexact})


def test_probabilities_are_at_the_frequencies_of_training_and_rank_as_they_should():
    X, y = table(800)
    X_test, y_test = table(4000, seed=1)
    model = MetaBalanceClassifier(random_state=0).fit(X, y)
    p = model.predict_proba(X_test)
    assert roc_auc_score(y_test, p[:, 1]) > 0.9
    assert p[:, 1].mean() == pytest.approx(y_test.mean(), abs=0.04)  # without the correction about twice as much
    raw = clone(model).set_params(calibrate=False).fit(X, y).predict_proba(X_test)
    assert raw[:, 1].mean() > p[:, 1].mean() + 0.05
    np.testing.assert_array_equal(model.predict(X_test), p.argmax(1))
    np.testing.assert_allclose(model.decision_function(X_test), np.log(p[:, 1] / p[:, 0]), atol=1e-6)
    assert model.score(X_test, y_test) == (p.argmax(1) == y_test).mean()
    assert len(model.history_) * 50 == model.n_iter_
    model.set_params(early_stopping=True).fit(X, y)
    losses = [row["validation_loss"] for row in model.history_]
    assert len(losses) - 1 - int(np.argmin(losses)) in (10, *range(10))
    assert model.n_iter_ == 5000 or len(losses) - 1 - int(np.argmin(losses)) == 10


def test_a_second_fit_compiles_nothing_whatever_the_learning_rates_are():
    X, y = table()
    MetaBalanceClassifier(**QUICK).fit(X, y).predict_proba(X)
    COMPILED.clear()
    other = MetaBalanceClassifier(max_updates=150, random_state=1, learning_rate=0.1, inner_lr=0.5)
    other.fit(X[:-3], y[:-3]).predict_proba(X)
    assert not COMPILED
    MetaBalanceClassifier(**QUICK, hidden=(5,)).fit(X, y)  # the counter does count
    assert COMPILED


def test_string_labels_categories_and_missing_values_in_pandas_and_polars():
    X, y = frame()
    model = MetaBalanceClassifier(**QUICK).fit(X, y)
    assert model.classes_.tolist() == ["in time", "late"]
    assert model.feature_names_in_.tolist() == ["amount", "colour"]
    assert model.n_features_in_ == 2
    p = model.predict_proba(X)
    assert p[X["colour"] == "red", 1].mean() > 0.25 > 0.15 > p[X["colour"] == "blue", 1].mean()
    np.testing.assert_array_equal(model.predict(X), model.classes_[p.argmax(1)])
    # The same table in polars, and with text in place of pandas's categories.
    for same in (pl.from_pandas(X), X.astype({"colour": object})):
        np.testing.assert_array_equal(clone(model).fit(same, y).predict_proba(same), p)
    unseen = X.assign(colour="violet")
    assert np.isfinite(model.predict_proba(unseen)).all()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename(columns={"amount": "total"}))
    with pytest.raises(ValueError, match="column 'amount' holds 'much' in data row 1 where training had numbers"):
        model.predict(X.assign(amount="much"))


def test_arrays_of_objects_are_columns_of_their_kinds():
    X, y = frame()
    as_frame = MetaBalanceClassifier(**QUICK).fit(X.set_axis(["x0", "x1"], axis=1), y)
    as_array = MetaBalanceClassifier(**QUICK).fit(X.to_numpy(object), y)
    np.testing.assert_allclose(as_array.predict_proba(X.to_numpy(object))[:5], as_frame.predict_proba(
        X.set_axis(["x0", "x1"], axis=1))[:5])  # fmt: skip


def test_images():
    digits: Any = load_digits()
    rows = np.flatnonzero((digits.target == 3) | ((digits.target == 8) & (np.arange(1797) % 5 == 0)))
    images = (digits.images[rows, :, :, None] * 15).astype(np.uint8)
    model = MetaBalanceClassifier(max_updates=60, random_state=0).fit(images, digits.target[rows])
    assert model.score(images, digits.target[rows]) > 0.9
    assert model.predictor_.model["name"] == "cnn"
    with pytest.raises(ValueError, match=r"\[n, features\], or images"):
        model.fit(images[..., 0], digits.target[rows])


def test_a_weight_counts_as_so_many_examples():
    """Labels are coins; where x0 > 0, an example of class 1 counts four times, so that its probability is 0.8 there."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 2)), rng.integers(0, 2, 600)
    weight = np.where((X[:, 0] > 0) & (y == 1), 4, 1)
    options: dict[str, Any] = {
        "hidden": (8,),
        "max_updates": 150,
        "early_stopping": False,
        "params": {"query.batch_size": 64},
    }
    for make in (MetaBalanceClassifier, lambda **k: ImbalancedClassifier("erm", **k)):
        found = []
        for seed in range(4):
            weighted = make(random_state=seed, **options).fit(X, y, sample_weight=weight)
            repeated = make(random_state=seed, **options).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
            p = [model.predict_proba(X)[:, 1] for model in (weighted, repeated)]
            found.append([[q[X[:, 0] > 0.3].mean(), q[X[:, 0] < -0.3].mean()] for q in p])
        weighted, repeated = np.mean(found, axis=0)
        np.testing.assert_allclose(weighted, repeated, atol=0.04)
        np.testing.assert_allclose(weighted, [0.8, 0.5], atol=0.07)  # 0.5 and 0.5 without weights


def test_class_weights_set_the_frequencies_that_predictions_are_for():
    X, y = table(800)
    plain = MetaBalanceClassifier(**QUICK).fit(X, y)
    balanced = MetaBalanceClassifier(**QUICK, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(plain.predictor_.priors, np.bincount(y) / len(y), atol=1e-3)  # rows held out are whole
    np.testing.assert_allclose(balanced.predictor_.priors, [0.5, 0.5], atol=1e-3)
    rate = lambda model: model.predict(X)[y == 1].mean()  # noqa: E731
    assert rate(balanced) > rate(plain) + 0.1


def test_validation_data_of_ones_own_stop_training():
    X, y = table()
    wrong = 1 - y  # whatever is learned makes it worse
    model = MetaBalanceClassifier(random_state=0, n_iter_no_change=2).fit(X, y, X_val=X, y_val=wrong)
    assert model.n_iter_ == 150
    assert MetaBalanceClassifier(**QUICK, early_stopping=False).fit(X, y).history_[-1].keys().isdisjoint(
        {"validation_loss"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "rare", "held"),
    [
        (ImbalancedClassifier, 24, False),
        (ImbalancedClassifier, 30, True),
        (MetaBalanceClassifier, 270, False),
        (MetaBalanceClassifier, 280, True),
    ],
)
def test_auto_holds_out_where_enough_rare_examples_would_be_held(model, rare, held):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(800, 3)), np.repeat([0, 1], [800 - rare, rare])
    model = model(validation_fraction=0.18, **QUICK).fit(X, y)
    assert ("validation_loss" in model.history_[0]) == held


def test_a_warm_start_goes_on():
    X, y = table()
    model = MetaBalanceClassifier(**QUICK, early_stopping=False, warm_start=True).fit(X, y)
    first = model.predict_proba(X)
    model.fit(X, y)
    assert (model.n_iter_, len(model.history_)) == (200, 4)
    assert model.history_[2]["loss"] < model.history_[0]["loss"]
    assert np.abs(model.predict_proba(X) - first).max() > 1e-3
    with pytest.raises(ValueError, match="the network is not the one that was fitted before"):
        model.set_params(hidden=(3,)).fit(X, y)
    with pytest.raises(ValueError, match="y has other classes than before"):
        model.fit(X, y + 1)


def test_partial_fit_learns_pass_by_pass():
    X, y = table(1200)
    model = MetaBalanceClassifier(random_state=0)
    with pytest.raises(ValueError, match="needs classes="):
        model.partial_fit(X, y)
    for _ in range(20):
        for start in range(0, 1200, 400):
            model.partial_fit(X[start : start + 400], y[start : start + 400], classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    p = model.predict_proba(X)
    assert roc_auc_score(y, p[:, 1]) > 0.9
    assert p[:, 2].max() < 1e-6  # no example of it was ever there
    np.testing.assert_allclose(model.predictor_.priors, np.bincount(y, minlength=3) / 1200)


def test_it_can_be_cloned_pickled_copied_and_shown():
    X, y = table()
    model = MetaBalanceClassifier(**QUICK).fit(X, y)
    p = model.predict_proba(X)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.predict_proba(X), p)
        other.warm_start = True
        assert other.fit(X, y).n_iter_ > model.n_iter_
    assert not hasattr(clone(model), "predictor_")
    assert "MetaBalanceClassifier" in model._repr_html_()
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X), p)


def test_a_bar_is_shown_where_it_is_asked_for(capsys):
    X, y = table()
    ImbalancedClassifier("erm", **QUICK).fit(X, y)
    assert capsys.readouterr().err == ""
    ImbalancedClassifier("erm", **QUICK, verbose=True).fit(X, y)
    assert "100/100" in capsys.readouterr().err


def test_it_works_in_the_tools_of_scikit_learn_and_imbalanced_learn():
    X, y = table()
    model = ImbalancedClassifier("erm", **QUICK)
    assert cross_val_score(model, X, y, cv=2, scoring="roc_auc").min() > 0.8
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model), {"imbalancedclassifier__learning_rate": [1e-6, 0.05]}, cv=2,
        scoring="neg_log_loss",
    ).fit(X, y)  # fmt: skip
    assert search.best_params_ == {"imbalancedclassifier__learning_rate": 0.05}
    calibrated = CalibratedClassifierCV(model, cv=2).fit(X, y)
    assert calibrated.predict_proba(X)[:, 1].mean() == pytest.approx(y.mean(), abs=0.05)
    tuned = TunedThresholdClassifierCV(model, scoring="balanced_accuracy", cv=2).fit(X, y)
    assert tuned.predict(X)[y == 1].mean() > model.fit(X, y).predict(X)[y == 1].mean()
    sampled = imblearn.pipeline.make_pipeline(imblearn.over_sampling.RandomOverSampler(random_state=0), model)
    assert roc_auc_score(y, sampled.fit(X, y).predict_proba(X)[:, 1]) > 0.85
    importance: Any = permutation_importance(model, X, y, scoring="roc_auc", random_state=0)
    assert importance.importances_mean[2] < 0.05 < importance.importances_mean[:2].min()


def test_weights_are_routed_to_it():
    X, y = table()
    weight = np.where(y == 1, 5.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        step: Any = ImbalancedClassifier("erm", **QUICK).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), step)
        routed.fit(X, y, sample_weight=weight)
    shares = np.bincount(y, weights=weight) / weight.sum()
    np.testing.assert_allclose(step.predictor_.priors, shares, atol=5e-3)  # 0.15 is class 1's without them


@pytest.mark.parametrize("method", ["smote", "ldam_drw", "mw_net"])
def test_other_methods_train(method):
    X, y = table()
    model = ImbalancedClassifier(method, random_state=0).fit(X, y)
    assert roc_auc_score(y, model.predict_proba(X)[:, 1]) > 0.85
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(y.mean(), abs=0.1)


def configured(model, **given):
    options: dict[str, Any] = {"seed": 3, "image": False, "stops": True, "one_pass": False, **given}
    return settings.configure(model.get_params(deep=False), **options)


def test_parameters_are_keys_of_the_configuration():
    for name, changes in METHODS.items():
        values = flatten(configured(ImbalancedClassifier(name)).to_dict())
        assert {key: values[key] for key in changes} == changes
    config = configured(ImbalancedClassifier())
    assert (config.meta.steps, config.query.sampler, config.model.hidden, config.updates) == (
        8, "class_balanced", (64, 64), 5000,
    )  # fmt: skip
    values = flatten(configured(MetaBalanceClassifier()).to_dict())
    assert {key: values[key] for key in CHOSEN} == CHOSEN
    assert (values["query.sampler"], values["query.batch_size"], values["updates"]) == ("class_balanced", 24, 5000)
    mlp = configured(MetaBalanceClassifier(params={"model.name": "mlp"}, learning_rate=0.1))
    assert (mlp.model.name, mlp.optimizer.name, mlp.optimizer.lr) == ("mlp", "adamw", 0.1)
    config = configured(
        MetaBalanceClassifier(pairs=5, inner_lr=0.3, beta=0.5, batch_size=7, params={"loss.name": "focal"}), stops=False
    )
    assert (config.meta.steps, config.meta.inner_lr, config.meta.beta, config.loss.name) == (5, 0.3, 0.5, "focal")
    assert (config.support.batch_size, config.query.batch_size, config.updates, config.seed) == (7, 7, 500, 3)
    paper = configured(MetaBalanceClassifier(params="paper"))
    assert (paper.meta.steps, paper.query.batch_size, paper.query.sampler, paper.model.hidden) == (
        80,
        16,
        "under",
        (25,),
    )
    assert (paper.epochs, paper.updates, paper.optimizer.lr) == (100, None, 0.02)
    assert configured(ImbalancedClassifier("erm", params="paper")).optimizer.lr == 0.05
    assert configured(MetaBalanceClassifier(), image=True).model.to_dict() == {"name": "cnn"}
    assert configured(MetaBalanceClassifier(), one_pass=True).epochs == 1


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"learning_rate": -1}, "learning_rate=-1: a number above 0 is needed"),
        ({"batch_size": 0}, "batch_size=0: a whole number of at least 1 is needed"),
        ({"scaling": "none"}, "scaling='none': choose one of standard, robust, robust_smooth_clip"),
        ({"early_stopping": "yes"}, "early_stopping='yes': True, False or \"auto\" is needed"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0: a number above 0 and below 1 is needed"),
        ({"params": {"loss.nam": 1}}, "params has 'loss.nam', which is no key of the configuration; did you mean"),
        ({"params": {"loss.name": "hinge"}}, "params['loss.name']='hinge': choose one of "),
        ({"method": "metabalanced"}, "method='metabalanced': choose one of "),
        (
            {"method": "smote", "params": {"train.neighbors": 999}},
            "params['train.sampler']='smote': class '1' has too few training examples, ",
        ),
        ({"learning_rate": 1e30}, "the loss is nan after 50 updates: lower learning_rate or "),
    ],
)
def test_a_mistake_is_one_line_in_the_words_of_the_estimator(parameters, line):
    model = ImbalancedClassifier(**parameters)
    X, y = table()
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        model.fit(X, y)
    assert isinstance(raised.value, UserError)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
    assert "config." not in str(raised.value)


def test_robust_scaling_is_by_median_and_quartiles():
    X, y = table()
    X[0, 0] = 1e6  # an outlier
    standard, robust = (MetaBalanceClassifier(**QUICK, scaling=s).fit(X, y) for s in ("standard", "robust"))
    standard_columns, columns = standard.predictor_.preprocessing, robust.predictor_.preprocessing
    assert isinstance(standard_columns, TableColumns)
    assert isinstance(columns, TableColumns)
    assert standard_columns.numbers[0].scale > 1e4
    number = columns.numbers[0]
    assert number.shift == pytest.approx(np.median(X[:, 0]), abs=0.1)
    assert 1 < number.scale < 3
    assert columns.transform(pd.DataFrame(X, columns=["x0", "x1", "x2"]))[0, 0] == 10
    assert roc_auc_score(y[1:], robust.predict_proba(X[1:])[:, 1]) > 0.85
