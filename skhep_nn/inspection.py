"""What a fitted network does with its inputs.

The plots are in `skhep_nn.plotting`, scores against a quantity in `skhep_nn.metrics`.
"""

from skhep_nn._feature_maps import feature_maps

__all__ = ["feature_maps"]
