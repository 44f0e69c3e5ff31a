"""Networks of one member as ordinary torch modules."""

from skhep_nn.networks.calo import CaloCNN
from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.dense_layers import CategoricalColumn, embedding_size
from skhep_nn.networks.split_dense import FeatureBlock, SplitDenseNet
from skhep_nn.networks.waveform import WaveformCNN

__all__ = [
    "CaloCNN",
    "CategoricalColumn",
    "DenseNet",
    "FeatureBlock",
    "SplitDenseNet",
    "WaveformCNN",
    "embedding_size",
]
