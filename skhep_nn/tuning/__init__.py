"""Search over hyperparameters: architecture, learning rate, ensembles of different networks.

:class:`ArchitectureSearch` trains candidates and keeps the best, with the interface of scikit-learn's
searches. :func:`fit_search_model` fits a Gaussian process to the results of such a search: which parameters
matter, and where the optimum lies. The displays of both are in :mod:`skhep_nn.plotting`.
"""

from skhep_nn.tuning.architecture_search import ArchitectureSearch
from skhep_nn.tuning.hyper_ensemble import HyperEnsembleClassifier, HyperEnsembleRegressor
from skhep_nn.tuning.joint_fit import fit_together
from skhep_nn.tuning.lr_range import lr_range_test
from skhep_nn.tuning.surrogate import Optimum, SearchModel, fit_search_model

__all__ = [
    "ArchitectureSearch",
    "HyperEnsembleClassifier",
    "HyperEnsembleRegressor",
    "Optimum",
    "SearchModel",
    "fit_search_model",
    "fit_together",
    "lr_range_test",
]
