"""The fitted ensemble of networks and its predictions."""

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.networks.stacks import stack_networks
from skhep_nn.utils.old_modules import former_names

__all__ = ["Ensemble", "stack_networks"]

__getattr__ = former_names("skhep_nn.ensemble")
