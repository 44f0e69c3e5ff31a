"""Displays: what a fit or a set of scores looks like, in scikit-learn's manner.

A display is made by `from_estimator` or `from_predictions`, keeps the computed values as
attributes, and draws them with `plot`, as often as wanted; those of raw images are made by
`from_images`, those of raw features by `from_data`. The ROC curve is scikit-learn's own:
:class:`sklearn.metrics.RocCurveDisplay` takes our estimators and event weights as they are.

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
