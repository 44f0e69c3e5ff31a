"""Loaders, downloads and simulators, one module for each kind of data."""

from skhep_nn.datasets.calo_files import CALO_SPLITS, CaloImages, load_calo_hdf5
from skhep_nn.datasets.calo_showers import make_calo_showers
from skhep_nn.datasets.higgs_events import derive_features, make_higgs_events
from skhep_nn.datasets.higgsml import (
    HIGGSML_FEATURES,
    HIGGSML_TOTALS,
    fetch_higgsml,
    load_higgsml,
)
from skhep_nn.datasets.ion_tracks import ION_SPLITS, make_ion_tracks
from skhep_nn.datasets.waveform_files import load_waveforms
from skhep_nn.datasets.waveforms import XenonChamber, make_waveforms

__all__ = [
    "CALO_SPLITS",
    "HIGGSML_FEATURES",
    "HIGGSML_TOTALS",
    "ION_SPLITS",
    "CaloImages",
    "XenonChamber",
    "derive_features",
    "fetch_higgsml",
    "load_calo_hdf5",
    "load_higgsml",
    "load_waveforms",
    "make_calo_showers",
    "make_higgs_events",
    "make_ion_tracks",
    "make_waveforms",
]
