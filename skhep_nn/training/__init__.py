"""Training of all members at once: schedules, averaging, and the loop itself."""

from skhep_nn.training.averaging import (
    FastGeometricEnsemble,
    SnapshotEnsemble,
    StochasticWeightAveraging,
    check_averaging,
)
from skhep_nn.training.schedules import (
    Constant,
    CosineRestarts,
    CyclicLR,
    OneCycle,
    Rates,
    ReduceOnPlateau,
)

__all__ = [
    "Constant",
    "CosineRestarts",
    "CyclicLR",
    "FastGeometricEnsemble",
    "OneCycle",
    "Rates",
    "ReduceOnPlateau",
    "SnapshotEnsemble",
    "StochasticWeightAveraging",
    "check_averaging",
]
