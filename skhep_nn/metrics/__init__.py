"""Significance, scores with event weights, class weights, and the dependence of a score on a quantity."""

from skhep_nn.metrics.ams import AMSCurve, BestCut, ams_curve, ams_score, best_cut
from skhep_nn.metrics.auc import auc_score, auc_scorer, make_auc_scorer
from skhep_nn.metrics.challenge import (
    ChallengeScores,
    SplitAMS,
    ams_of_predictions,
    ams_scorer,
    challenge_scores,
    make_ams_scorer,
    mean_split_ams,
)
from skhep_nn.metrics.classification import (
    ClassificationSummary,
    binned_scores,
    classification_summary,
)
from skhep_nn.metrics.correlation import distance_correlation
from skhep_nn.metrics.sculpting import MassSculpting, mass_sculpting
from skhep_nn.metrics.tolerance import (
    make_within_tolerance_scorer,
    within_tolerance_score,
    within_tolerance_scorer,
)
from skhep_nn.metrics.weights import class_balanced_weights, rescale_weights
from skhep_nn.utils.old_modules import former_names

__all__ = [
    "AMSCurve",
    "BestCut",
    "ChallengeScores",
    "ClassificationSummary",
    "MassSculpting",
    "SplitAMS",
    "ams_curve",
    "ams_of_predictions",
    "ams_score",
    "ams_scorer",
    "auc_score",
    "auc_scorer",
    "best_cut",
    "binned_scores",
    "challenge_scores",
    "class_balanced_weights",
    "classification_summary",
    "distance_correlation",
    "make_ams_scorer",
    "make_auc_scorer",
    "make_within_tolerance_scorer",
    "mass_sculpting",
    "mean_split_ams",
    "rescale_weights",
    "within_tolerance_score",
    "within_tolerance_scorer",
]

__getattr__ = former_names("skhep_nn.metrics")
