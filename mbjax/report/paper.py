"""What the paper reports: Tables 2, 6 and 7 (ROC-AUC and its standard error over 10 runs)."""

# The errors of naive training were lost in the conversion of the paper's text.
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
