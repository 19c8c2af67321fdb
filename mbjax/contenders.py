"""The rows of a comparison: what each trains, and the settings that it may choose from on validation data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Family = Literal["baseline", "metabalance", "control", "reference"]

LEARNING_RATES = (0.01, 0.02, 0.05, 0.1)  # the paper's grid, appendices A.2 and A.3
BETAS = (0.9, 0.99, 0.999, 0.9999)
SAMPLERS = (  # section 3: what the sampler pairs of MS-MetaBalance are made of
    *("natural", "over", "under", "smote", "borderline_smote", "svmsmote", "adasyn"),
    *("nearmiss", "cluster_centroids", "smoteenn", "allknn"),
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A row.

    Attributes:
      title: as tables show it.
      family: baselines are what MetaBalance is measured against, controls what tells where its gain comes from.
      method: of `mbjax.methods.METHODS`, or, in the family of references, of `mbjax.references.REFERENCES`.
      overrides: configuration keys and their values, or functions of the task's configuration that give them; of a
        reference, `balanced`.
      grid: configuration keys (parameters of the estimator) and the values to choose from; all combinations are run.
      like: a row whose runs this one takes, to adjust their predictions; it then trains nothing itself.
    """

    title: str
    family: Family
    method: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    like: str = ""


def _plain(
    title: str, method: str = "erm", grid: Mapping[str, Sequence[Any]] | None = None, **overrides: Any
) -> Contender:
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return Contender(title, "baseline", method, overrides, {"optimizer.lr": LEARNING_RATES, **(grid or {})})


def _meta(title: str, family: Family, grid: Mapping[str, Sequence[Any]] | None = None, **overrides: Any) -> Contender:
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    grid = {"optimizer.lr": LEARNING_RATES, "updates": (None, 1000)} if grid is None else grid
    return Contender(title, family, "metabalance", overrides, grid)


def _reference(title: str, name: str, *, balanced: bool, **grid: Sequence[Any]) -> Contender:
    return Contender(title, "reference", name, {"balanced": balanced}, grid)


# The paper's weight decay for fraud, 5e-2, was set for plain losses. Under it, losses that scale examples down leave
# the network constant; rows that change the loss have the other table's decay, and a naive row to compare with.
_LIGHT: dict[str, Any] = {"optimizer__weight_decay": 5e-4}
_TREES = {"learning_rate": (0.03, 0.1), "max_leaf_nodes": (7, 31)}
CONTENDERS: dict[str, Contender] = {
    "naive": _plain("naive"),
    "over": _plain("over-sampling", train__sampler="over"),
    "under": _plain("under-sampling", train__sampler="under"),
    "smote": _plain("SMOTE", train__sampler="smote"),
    "borderline_smote": _plain("BorderlineSMOTE", train__sampler="borderline_smote"),
    "svmsmote": _plain("SVMSMOTE", train__sampler="svmsmote"),
    "adasyn": _plain("ADASYN", train__sampler="adasyn"),
    "smoteenn": _plain("SMOTEENN", train__sampler="smoteenn"),
    "nearmiss": _plain("NearMiss", train__sampler="nearmiss"),
    "cluster_centroids": _plain("ClusterCentroids", train__sampler="cluster_centroids"),
    "allknn": _plain("AllKNN", train__sampler="allknn"),
    "inverse_frequency": _plain("inverse frequency", loss__class_weight="inverse", **_LIGHT),
    "class_balanced": _plain(
        "class-balanced loss", grid={"loss.beta": BETAS}, loss__class_weight="effective", **_LIGHT
    ),
    "focal": _plain("focal loss", loss__name="focal", **_LIGHT),
    "l2rw": _plain("L2RW", "l2rw", {"clean.share": (0.01, 0.05)}),
    "mw_net": _plain("Meta-Weight-Net", "mw_net", {"clean.share": (0.01, 0.05)}, **_LIGHT),
    "logit_adjustment": _plain("logit adjustment, in the loss", loss__name="logit_adjustment", **_LIGHT),
    "balanced_softmax": _plain("balanced softmax", loss__name="balanced_softmax", **_LIGHT),
    "ldam_drw": _plain("LDAM-DRW", "drw", loss__name="ldam", loss__beta=0.9999, model__head="cosine", **_LIGHT),
    "naive_light": _plain("naive, weight decay 5e-4", **_LIGHT),
    "naive_priors": Contender("naive, priors divided out (logit adjustment post hoc)", "baseline", "erm", like="naive"),
    "metabalance": _meta("MetaBalance", "metabalance"),
    "ms_metabalance": _meta(
        "MS-MetaBalance", "metabalance", {"support.sampler": SAMPLERS, "query.sampler": SAMPLERS}, updates=200
    ),
    "no_adaptation": _meta("MetaBalance without adaptation (γ = 0)", "control", meta__inner_lr=0.0),
    "first_order": _meta("MetaBalance, first order", "control", meta__grad_mode="first_order"),
    "large_batch": Contender(
        "large batches of the query sampler",
        "control",
        "erm",
        {
            "train.sampler": lambda config: config.query.sampler,
            "train.batch_size": lambda config: config.meta.steps * config.query.batch_size,
        },
        {"optimizer.lr": LEARNING_RATES, "updates": (None, 1000)},
    ),
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
