"""Inspection of fitted networks, and importance of features before any fit.

The plots are in `skhep_nn.plotting`, scores against a quantity in `skhep_nn.metrics`.
"""

from skhep_nn.inspection.blocks import block_reliance, bottleneck_outputs, bottleneck_reliance
from skhep_nn.inspection.feature_importance import forest_importance, mutual_dependence
from skhep_nn.inspection.maps import feature_maps
from skhep_nn.inspection.rank_correlation import rank_correlations

__all__ = [
    "block_reliance",
    "bottleneck_outputs",
    "bottleneck_reliance",
    "feature_maps",
    "forest_importance",
    "mutual_dependence",
    "rank_correlations",
]
