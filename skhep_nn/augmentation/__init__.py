"""Random, class-preserving copies of events, images and traces, in training and at prediction."""

from skhep_nn.augmentation.events import EventAugmenter
from skhep_nn.augmentation.images import ImageAugmenter
from skhep_nn.augmentation.waveforms import WaveformAugmenter

__all__ = ["EventAugmenter", "ImageAugmenter", "WaveformAugmenter"]
