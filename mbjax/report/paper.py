"""What the paper reports, with its standard errors: Tables 2, 6, 7 (ROC-AUC), 1, 8 (accuracy), 3 (rank-1 accuracy)."""

# Over 10 runs. The errors of naive training were lost in the conversion of the paper's text.
ROC_AUC: dict[str, dict[str, tuple[float, float | None]]] = {
    "loan": {
        "naive": (0.655, None),
        "over": (0.647, 0.013),
        "under": (0.645, 0.004),
        "smote": (0.616, 0.008),
        "svmsmote": (0.633, 0.011),
        "allknn": (0.660, 0.002),
        "mw_net": (0.659, None),
        "class_balanced": (0.658, None),
        "metabalance": (0.666, 0.003),
        "ms_metabalance": (0.668, 0.004),
        "borderline_smote": (0.632, None),
        "adasyn": (0.612, None),
        "nearmiss": (0.604, None),
        "cluster_centroids": (0.558, 0.009),
        "smoteenn": (0.617, None),
    },
    "fraud": {
        "naive": (0.968, None),
        "over": (0.966, 0.003),
        "under": (0.966, 0.003),
        "smote": (0.968, 0.008),
        "svmsmote": (0.968, 0.003),
        "allknn": (0.967, 0.003),
        "mw_net": (0.986, None),
        "class_balanced": (0.976, None),
        "metabalance": (0.967, 0.004),
        "ms_metabalance": (0.977, 0.002),
        "borderline_smote": (0.950, None),
        "adasyn": (0.963, None),
        "nearmiss": (0.926, None),
        "cluster_centroids": (0.966, 0.004),
        "smoteenn": (0.955, None),
    },
}

# Over 4 runs, on balanced test data; shares where the paper has per cent. Those of over, under, mixup, cutmix,
# class_balanced (the paper's LRwt) and m2m were lost in the conversion of Table 1, and so their errors are left out.
# Section 6 gives the naive model with the priors divided out and with its threshold set on test data, without errors.
ACCURACY: dict[str, dict[str, tuple[float, float | None]]] = {
    "cifar10_severe": {
        "naive": (0.1614, 0.00238),
        "naive_priors": (0.2278, None),
        "naive_matched": (0.2703, None),
        "over_mixup": (0.1247, 0.00340),
        "over_cutmix": (0.1063, 0.00070),
        "mw_net": (0.1390, 0.00953),
        "metabalance": (0.2988, 0.00165),
    },
    "cifar10_moderate": {
        "naive": (0.3152, 0.00806),
        "over_mixup": (0.3104, 0.00471),
        "over_cutmix": (0.1792, 0.00352),
        "mw_net": (0.3031, 0.00826),
        "metabalance": (0.4059, 0.00321),
    },
}

# Table 3, where female images are scarce: rank-1 accuracy and the gap, without errors and the number of runs.
RANK1: dict[str, dict[str, tuple[float, float | None]]] = {
    "total": {"naive": (0.9012, None), "over": (0.8467, None), "metabalance": (0.9190, None)},
    "female": {"naive": (0.8688, None), "over": (0.7948, None), "metabalance": (0.8956, None)},
    "male": {"naive": (0.9531, None), "over": (0.9298, None), "metabalance": (0.9565, None)},
    "gap": {"naive": (0.0843, None), "over": (0.1350, None), "metabalance": (0.0609, None)},
}


def of(task: str, scenario: str = "") -> dict[str, tuple[float, float | None]]:
    """The paper's primary scores on a task, by row; none of a task that it does not have."""
    if task == "celeba":
        return RANK1["total"]
    return ROC_AUC.get(task) or ACCURACY.get(f"{task}_{scenario}", {})
