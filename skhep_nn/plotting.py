"""Displays: what a fit or a set of scores looks like, in scikit-learn's manner.

A display is made by `from_estimator` or `from_predictions`, keeps the computed values as
attributes, and draws them with `plot`, as often as wanted; those of raw images are made by
`from_images`, those of raw features by `from_data`. The ROC curve is scikit-learn's own:
:class:`sklearn.metrics.RocCurveDisplay` takes our estimators and event weights as they are.

Drawing needs matplotlib: ``pip install 'skhep_nn[plot]'``.
"""

from skhep_nn._ams_display import AMSCurveDisplay
from skhep_nn._binned_display import BinnedScoresDisplay
from skhep_nn._block_display import BottleneckOutputDisplay, RelianceDisplay
from skhep_nn._embedding_display import EmbeddingDisplay
from skhep_nn._feature_study_display import (
    FeatureImportanceDisplay,
    MutualDependenceDisplay,
    RankCorrelationDisplay,
)
from skhep_nn._history_display import HistoryDisplay
from skhep_nn._image_display import ImageSamplesDisplay, MeanImagesDisplay
from skhep_nn._lr_range_display import LRRangeDisplay
from skhep_nn._prediction_display import FeatureMapsDisplay, PredictionSamplesDisplay
from skhep_nn._reliability_display import ReliabilityDisplay
from skhep_nn._schedule_display import ScheduleDisplay
from skhep_nn._score_display import ScoreDistributionDisplay
from skhep_nn._sculpting_display import MassSculptingDisplay
from skhep_nn._search_display import SearchHeatmapDisplay
from skhep_nn._search_model_display import SearchDependenceDisplay, SearchSamplesDisplay
from skhep_nn._search_progress_display import SearchProgressDisplay, SearchSizeDisplay

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
