"""The winner of a comparison, kept: `best/` holds a model that `mbjax predict` reads, or what makes the baseline."""

import importlib
import importlib.util
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mbjax import atomic, config, sealed, train
from mbjax.compare import baselines, plan
from mbjax.data import preprocessing
from mbjax.evaluation import calibration, decisions
from mbjax.predict import Predictor
from mbjax.types import Dataset

FOLDER, ABOUT, MAKE, PIPELINE = "best", "best.json", "make.py", "pipeline.skops"


def save(run: plan.Run, title: str, out: pathlib.Path, source: plan.Source) -> str:
    """Keeps the model of a run in the folder `best` of the comparison; an earlier winner's is then `best.old`.

    A network is trained again as the run was, or taken from the run's own folder. Logistic regression is a network
    without hidden layers and is kept as such. Of another baseline `make.py` has the lines that fit it again and, if
    skops is installed, `pipeline.skops` the fitted scikit-learn pipeline: reading that file runs the code it names.

    Args:
      run: the run.
      title: its row's.
      out: the comparison's folder.
      source: of `Task.dataset`.

    Returns:
      What is there now, in a sentence.
    """
    folder = out / FOLDER
    about = {"row": run.row, "key": run.key, "seed": run.seed, "settings": dict(run.settings)}
    if folder.exists() and _about(folder) != about:
        sealed.set_aside(folder, "old")
    what = f"{title}, seed {run.seed}"
    if not run.estimator:
        train.train_and_evaluate(run.config, folder, source and plan.load(source, run.config))
        kept = f"{what}: mbjax predict {folder} NEW_ROWS --out=FILE"
    else:
        folder.mkdir(exist_ok=True)
        kept = _keep_baseline(run, folder, source, what)
    atomic.write_text(folder / ABOUT, sealed.dumps(about, indent=2) + "\n")
    return kept


def _about(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return sealed.read(folder / ABOUT)
    except (OSError, sealed.Damaged):
        return {}


def _keep_baseline(run: plan.Run, folder: pathlib.Path, source: plan.Source, what: str) -> str:
    dataset = plan.load(source, run.config)
    fitted = baselines.fit(run.estimator, dataset, seed=run.seed, balanced=run.balanced, settings=run.settings)
    atomic.write_text(folder / MAKE, make_lines(run, fitted, own=source is not None))
    if isinstance(fitted, LogisticRegression):
        shutil.rmtree(folder / "model", ignore_errors=True)
        as_network(fitted, dataset, balanced=run.balanced, decision=run.config.decision.to_dict()).save(
            folder / "model"
        )
        return f"{what}: mbjax predict {folder} NEW_ROWS --out=FILE; {folder / MAKE} fits it again"
    if type(fitted).__module__.startswith("mbjax."):  # of which skops knows nothing
        return f"{what}: {folder / MAKE} fits it again"
    if importlib.util.find_spec("skops") is None:
        return f"{what}: {folder / MAKE} fits it again (with skops installed, the fitted pipeline is kept, too)"
    import skops.io  # pyright: ignore[reportMissingImports]

    pipeline = make_pipeline(FunctionTransformer(preprocessing.of(dataset).transform), fitted)
    skops.io.dump(pipeline, folder / PIPELINE)
    return f"{what}: {folder / PIPELINE}, which runs code when it is read; {folder / MAKE} fits it again"


def as_network(
    fitted: LogisticRegression, dataset: Dataset, *, balanced: bool, decision: Mapping[str, Any]
) -> Predictor:
    """Logistic regression as a network without hidden layers, with probabilities at the training priors.

    Args:
      fitted: to the training part of `dataset`.
      dataset: what it was fitted to.
      balanced: whether classes were weighted, so that its own probabilities are at equal priors.
      decision: the options of `config.decision`.
    """
    counts = dataset.class_counts
    priors, classes = counts / counts.sum(), len(counts)
    weights, bias = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
    head = {"kernel": weights.T.astype(np.float32), "bias": bias.astype(np.float32)}
    sampled = np.full(classes, 1 / classes) if balanced else priors
    held, validation = dataset.splits.get("validation"), None
    if held is not None:
        validation = calibration.shift_priors(baselines.predict(fitted, held.x), sampled, priors), held.y
    return Predictor(
        model={"name": "mlp", "hidden": (), "dropout": (), "head": "linear", "outputs": len(weights)},
        variables={"params": {"Dense_0": head}},
        preprocessing=preprocessing.of(dataset),
        classes=dataset.classes,
        priors=priors,
        sampled_priors=sampled,
        decision=decisions.decide(decision, dataset.classes, validation),
    )


def _public_module(kind: type) -> str:
    """The shortest name of a module that a class can be imported from, such as `sklearn.ensemble`."""
    parts = kind.__module__.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return next(name for name in names if getattr(importlib.import_module(name), kind.__name__, None) is kind)


def make_lines(run: plan.Run, fitted: Any, *, own: bool) -> str:
    """The Python that fits a baseline again and predicts new rows.

    Args:
      run: its run.
      fitted: the estimator.
      own: whether the data set was the caller's own, which no line can load.
    """
    options, defaults = run.config.data.to_dict(), config.defaults(run.config.to_dict())
    as_json = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    flat = config.flatten({"data": options}).items()
    changed = {name.split(".")[1] for name, value in flat if defaults.get(name) != as_json(value)}
    options = {key: options[key] for key in sorted(changed)}
    loaded = "...  # your Dataset" if own else f"data.load({run.config.task!r}, seed={run.seed}, **{options!r})"
    given = {**run.settings, "random_state": run.seed}
    given |= {"max_iter": fitted.max_iter} if isinstance(fitted, LogisticRegression) else {}
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    weight = ', sample_weight=compute_sample_weight("balanced", y)' if run.balanced else ""
    kind = type(fitted)
    imports = [f"from {_public_module(kind)} import {kind.__name__}", "from mbjax import data"]
    if run.balanced:
        imports.insert(1, "from sklearn.utils.class_weight import compute_sample_weight")
    lines = [
        "import pandas as pd", *imports, "",
        f"dataset = {loaded}",
        "x, y = dataset.train.x.reshape(len(dataset.train), -1), dataset.train.y",
        f"model = {kind.__name__}({arguments})",
        f"model.fit(x, y{weight})",
        'new = dataset.preprocessing.transform(pd.read_csv("new.csv"))',
        "print(pd.DataFrame(model.predict_proba(new), columns=dataset.classes))",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
