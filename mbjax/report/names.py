"""How pages name scores."""

TITLES = {
    "roc_auc": "ROC-AUC", "average_precision": "average precision", "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy", "g_mean": "G-mean", "majority_accuracy": "majority-class accuracy",
    "minority_accuracy": "minority-class accuracy", "log_loss": "log loss", "calibration_error": "calibration error",
    "rank1_accuracy": "rank-1 accuracy",
}  # fmt: skip
