"""Transformers of events, images and traces."""

from skhep_nn.preprocessing.events import CartesianMomenta, EventAligner
from skhep_nn.preprocessing.images import ImageCropper, ImageScaler
from skhep_nn.preprocessing.moments import weighted_moments
from skhep_nn.preprocessing.waveforms import WaveformScaler

__all__ = [
    "CartesianMomenta",
    "EventAligner",
    "ImageCropper",
    "ImageScaler",
    "WaveformScaler",
    "weighted_moments",
]
