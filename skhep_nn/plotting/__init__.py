"""Displays: plots of fits, scores and data, with the interface of scikit-learn's displays.

A display is created by `from_estimator` or `from_predictions` (for images by `from_images`, for features
by `from_data`). It keeps the computed values as attributes, and each call of `plot` draws them again. There is
no display of the ROC curve: use :class:`sklearn.metrics.RocCurveDisplay`, which takes estimators of this package
and event weights.

Drawing needs matplotlib: ``pip install 'skhep_nn[plot]'``.
"""

from skhep_nn.plotting.ams import AMSCurveDisplay
from skhep_nn.plotting.binned_scores import BinnedScoresDisplay
from skhep_nn.plotting.blocks import BottleneckOutputDisplay, RelianceDisplay
from skhep_nn.plotting.embedding import EmbeddingDisplay
from skhep_nn.plotting.feature_importance import (
    FeatureImportanceDisplay,
    MutualDependenceDisplay,
    RankCorrelationDisplay,
)
from skhep_nn.plotting.history import HistoryDisplay
from skhep_nn.plotting.images import ImageSamplesDisplay, MeanImagesDisplay
from skhep_nn.plotting.lr_range import LRRangeDisplay
from skhep_nn.plotting.mass_sculpting import MassSculptingDisplay
from skhep_nn.plotting.predictions import FeatureMapsDisplay, PredictionSamplesDisplay
from skhep_nn.plotting.reliability import ReliabilityDisplay
from skhep_nn.plotting.schedule import ScheduleDisplay
from skhep_nn.plotting.scores import ScoreDistributionDisplay
from skhep_nn.plotting.search_dependence import SearchDependenceDisplay, SearchSamplesDisplay
from skhep_nn.plotting.search_heatmap import SearchHeatmapDisplay
from skhep_nn.plotting.search_progress import SearchProgressDisplay, SearchSizeDisplay

__all__ = [
    "AMSCurveDisplay",
    "BinnedScoresDisplay",
    "BottleneckOutputDisplay",
    "EmbeddingDisplay",
    "FeatureImportanceDisplay",
    "FeatureMapsDisplay",
    "HistoryDisplay",
    "ImageSamplesDisplay",
    "LRRangeDisplay",
    "MassSculptingDisplay",
    "MeanImagesDisplay",
    "MutualDependenceDisplay",
    "PredictionSamplesDisplay",
    "RankCorrelationDisplay",
    "ReliabilityDisplay",
    "RelianceDisplay",
    "ScheduleDisplay",
    "ScoreDistributionDisplay",
    "SearchDependenceDisplay",
    "SearchHeatmapDisplay",
    "SearchProgressDisplay",
    "SearchSamplesDisplay",
    "SearchSizeDisplay",
]
