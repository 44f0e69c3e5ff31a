"""Fitted estimators in files: storage without pickle, export to ONNX."""

from skhep_nn.io.onnx import to_onnx
from skhep_nn.io.persistence import load, save

__all__ = ["load", "save", "to_onnx"]
