"""The one idea of the library: a fitted network is an ensemble of stacked members."""

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.networks.stacks import stack_networks

__all__ = ["Ensemble", "stack_networks"]
