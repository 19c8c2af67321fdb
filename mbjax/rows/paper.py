"""The rows of comparisons: what each trains, a flat dict of changed keys, and what it may choose on validation data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Family = Literal["baseline", "metabalance", "control", "reference", "search"]

LEARNING_RATES = (0.01, 0.02, 0.05, 0.1)  # the paper's grid, appendices A.2 and A.3
BETAS = (0.9, 0.99, 0.999, 0.9999)
SAMPLERS = (  # section 3: what the sampler pairs of MS-MetaBalance are made of
    *("natural", "over", "under", "smote", "borderline_smote", "svmsmote", "adasyn"),
    *("nearmiss", "cluster_centroids", "smoteenn", "allknn"),
)
# What every network chooses from on its validation part, where its task has no grid of its own. The number of updates
# is that of the task's configuration (the paper's budget, passes over the data) or 1,000.
GRID: Mapping[str, Sequence[Any]] = {"optimizer.lr": LEARNING_RATES, "updates": (None, 1000)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
      title: as tables show it.
      family: baselines are what MetaBalance is measured against, controls what tells where its gain comes from,
        references are no neural networks.
      changes: configuration keys that define the row and their values, or functions of the task's configuration that
        give them. The command line cannot change them.
      grid: configuration keys (parameters of an estimator) and the values to choose from, beside the task's; all
        combinations are run. An option of the command line takes the place of a key's values.
      estimator: of a reference, its name in `mbjax.compare.baselines.REFERENCES`.
      balanced: of a reference, whether classes are weighted.
      like: a row whose runs this one takes, to adjust their predictions; it then trains nothing itself.
      after: a row whose best settings, of each seed on its validation part, this one starts from; its own grid comes
        on top of them. The other row is a search: no row of the table.
    """

    title: str
    family: Family
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    estimator: str = ""
    balanced: bool = False
    like: str = ""
    after: str = ""


def _network(
    title: str, family: Family, method: str, grid: Mapping[str, Sequence[Any]] | None = None, after: str = "",
    **changes: Any,
) -> Row:  # fmt: skip
    keys = {"method": method, **{key.replace("__", "."): value for key, value in changes.items()}}
    return Row(title, family, keys, grid or {}, after=after)


def _plain(title: str, sampler: str = "natural", **changes: Any) -> Row:
    return _network(title, "baseline", "erm", train__sampler=sampler, **changes)


def _large_batch(title: str, sampler: Any) -> Row:
    size = lambda config: config.meta.steps * config.query.batch_size  # noqa: E731
    return _network(title, "control", "erm", train__sampler=sampler, train__batch_size=size)


def _reference(title: str, estimator: str, *, balanced: bool, **grid: Sequence[Any]) -> Row:
    return Row(title, "reference", grid=grid, estimator=estimator, balanced=balanced)


_TREES = {"learning_rate": (0.03, 0.1), "max_leaf_nodes": (7, 31)}
_LDAM: Mapping[str, Any] = {
    "train__sampler": "natural", "loss__name": "ldam", "loss__beta": 0.9999, "model__head": "cosine",
}  # fmt: skip
CLEAN_SHARES = (0.01, 0.05, 0.1, 0.2)  # of the minority class; the paper's are 1% (loan) and 20% (fraud)
ROWS: dict[str, Row] = {  # of tables of numbers; a task's configuration may name others, see `mbjax.compare.plan.Task`
    "naive": _plain("naive"),
    "over": _plain("over-sampling", "over"),
    "under": _plain("under-sampling", "under"),
    "smote": _plain("SMOTE", "smote"),
    "borderline_smote": _plain("BorderlineSMOTE", "borderline_smote"),
    "svmsmote": _plain("SVMSMOTE", "svmsmote"),
    "adasyn": _plain("ADASYN", "adasyn"),
    "smoteenn": _plain("SMOTEENN", "smoteenn"),
    "nearmiss": _plain("NearMiss", "nearmiss"),
    "cluster_centroids": _plain("ClusterCentroids", "cluster_centroids"),
    "allknn": _plain("AllKNN", "allknn"),
    "inverse_frequency": _plain("inverse frequency", loss__class_weight="inverse"),
    "class_balanced": _plain("class-balanced loss", grid={"loss.beta": BETAS}, loss__class_weight="effective"),
    "focal": _plain("focal loss", loss__name="focal"),
    "l2rw": _network("L2RW", "baseline", "l2rw", {"clean.share": CLEAN_SHARES}, train__sampler="natural"),
    "mw_net": _network(
        "Meta-Weight-Net", "baseline", "mw_net", {"clean.share": CLEAN_SHARES}, train__sampler="natural"
    ),
    "logit_adjustment": _plain("logit adjustment, in the loss", loss__name="logit_adjustment"),
    "balanced_softmax": _plain("balanced softmax", loss__name="balanced_softmax"),
    "ldam_drw": _network("LDAM-DRW", "baseline", "drw", **_LDAM),
    # The paper's weight decay for fraud is 5e-2. Under it losses that are smaller than plain cross-entropy leave the
    # network constant, so these rows are there with the loan table's decay, too, beside naive training with it.
    "naive_light": _plain("naive, weight decay 5e-4", optimizer__weight_decay=5e-4),
    "logit_adjustment_light": _plain(
        "logit adjustment, weight decay 5e-4", loss__name="logit_adjustment", optimizer__weight_decay=5e-4
    ),
    "class_balanced_light": _plain(
        "class-balanced loss, weight decay 5e-4",
        grid={"loss.beta": BETAS},
        loss__class_weight="effective",
        optimizer__weight_decay=5e-4,
    ),
    "focal_light": _plain("focal loss, weight decay 5e-4", loss__name="focal", optimizer__weight_decay=5e-4),
    "mw_net_light": _network(
        "Meta-Weight-Net, weight decay 5e-4",
        "baseline",
        "mw_net",
        {"clean.share": CLEAN_SHARES},
        train__sampler="natural",
        optimizer__weight_decay=5e-4,
    ),
    "ldam_drw_light": _network("LDAM-DRW, weight decay 5e-4", "baseline", "drw", **_LDAM, optimizer__weight_decay=5e-4),
    "naive_priors": Row("naive, priors divided out (logit adjustment post hoc)", "baseline", like="naive"),
    "metabalance": _network("MetaBalance", "metabalance", "metabalance"),
    "ms_search": Row(
        "search over sampler pairs",
        "search",
        {"method": "metabalance", "updates": 200},
        {"support.sampler": SAMPLERS, "query.sampler": SAMPLERS},
    ),
    "ms_metabalance": _network("MS-MetaBalance", "metabalance", "metabalance", after="ms_search"),
    "no_adaptation": _network("MetaBalance without adaptation (γ = 0)", "control", "metabalance", meta__inner_lr=0.0),
    "first_order": _network("MetaBalance, first order", "control", "metabalance", meta__grad_mode="first_order"),
    "large_batch": _large_batch("large batches of the query sampler", lambda config: config.query.sampler),
    "large_batch_natural": _large_batch("large batches of natural data", "natural"),
    "logistic_regression": _reference("logistic regression", "logistic_regression", balanced=False, C=(0.01, 0.1, 1.0)),
    "logistic_regression_balanced": _reference(
        "logistic regression, class weights", "logistic_regression", balanced=True, C=(0.01, 0.1, 1.0)
    ),
    "boosting": _reference("gradient-boosted trees", "hist_gradient_boosting", balanced=False, **_TREES),
    "boosting_balanced": _reference(
        "gradient-boosted trees, class weights", "hist_gradient_boosting", balanced=True, **_TREES
    ),
    "lightgbm": _reference("LightGBM", "lightgbm", balanced=False, learning_rate=(0.03, 0.1), num_leaves=(7, 31)),
    "lightgbm_balanced": _reference(
        "LightGBM, class weights", "lightgbm", balanced=True, learning_rate=(0.03, 0.1), num_leaves=(7, 31)
    ),
    "xgboost": _reference("XGBoost", "xgboost", balanced=False, learning_rate=(0.03, 0.1), max_depth=(3, 6)),
    "xgboost_balanced": _reference(
        "XGBoost, class weights", "xgboost", balanced=True, learning_rate=(0.03, 0.1), max_depth=(3, 6)
    ),
}
