"""Loaders, downloads and simulators, one module a domain."""

from skhep_nn.datasets.higgs_events import derive_features, make_higgs_events
from skhep_nn.datasets.higgsml import (
    HIGGSML_FEATURES,
    HIGGSML_TOTALS,
    fetch_higgsml,
    load_higgsml,
)

__all__ = [
    "HIGGSML_FEATURES",
    "HIGGSML_TOTALS",
    "derive_features",
    "fetch_higgsml",
    "load_higgsml",
    "make_higgs_events",
]
