"""Formulas of collider kinematics as pure functions."""

from skhep_nn.kinematics.formulas import (
    cartesian_from_cylindrical,
    cylindrical_from_cartesian,
    delta_phi,
    delta_r,
    eta_centrality,
    invariant_mass,
    phi_centrality,
    transverse_mass,
)
from skhep_nn.utils.old_modules import former_names

__all__ = [
    "cartesian_from_cylindrical",
    "cylindrical_from_cartesian",
    "delta_phi",
    "delta_r",
    "eta_centrality",
    "invariant_mass",
    "phi_centrality",
    "transverse_mass",
]

__getattr__ = former_names("skhep_nn.kinematics")
