"""Names of scikit-learn that it does not export, in one place: when one moves, only this file changes."""

from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "check_feature_names_in",
    "check_method_params",
    "check_sample_weight",
    "num_samples",
    "safe_indexing",
]
