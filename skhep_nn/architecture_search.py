"""Search over the architecture of a network, and a model of what it has found.

:class:`ArchitectureSearch` trains candidates and keeps the best, by the interface of scikit-learn's
searches. :func:`fit_search_model` fits a Gaussian process to the results of such a search: which parameters
matter, and where the optimum lies. The displays of both are in :mod:`skhep_nn.plotting`.
"""

from skhep_nn._architecture_search import ArchitectureSearch
from skhep_nn._search_model import Optimum, SearchModel, fit_search_model

__all__ = ["ArchitectureSearch", "Optimum", "SearchModel", "fit_search_model"]
