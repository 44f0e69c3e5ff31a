"""Shower shapes: features of energy images of electrons and photons, computed without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]


def spread(weights: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the position, weighted by the energy at each position."""
    place = np.arange(weights.shape[1])
    total = weights.sum(axis=1)
    mean = (weights * place).sum(axis=1) / total
    return mean, np.sqrt(np.maximum((weights * place**2).sum(axis=1) / total - mean**2, 0))


def shower_shapes(images: Array) -> pd.DataFrame:
    """Compute common shower shapes of energy images with the shower in the middle."""
    energy = images.astype(np.float64)
    row, column = (side // 2 for side in energy.shape[1:])

    def square(half: int) -> Array:
        return energy[
            :, row - half : row + half + 1, column - half : column + half + 1
        ]  # fmt: skip

    total, inner = energy.sum(axis=(1, 2)), square(2)
    band = energy[:, row - 2 : row + 3]
    ordered = np.sort(inner.reshape(len(inner), -1), axis=1)
    return pd.DataFrame(
        {
            "energy sum": total,
            "highest crystal / sum": energy.max(axis=(1, 2)) / total,
            "second / sum": ordered[:, -2] / total,
            "third / sum": ordered[:, -3] / total,
            "3x3 / sum": square(1).sum(axis=(1, 2)) / total,
            "5x5 / sum": inner.sum(axis=(1, 2)) / total,
            "3x3 / 5x5": square(1).sum(axis=(1, 2)) / inner.sum(axis=(1, 2)),
            "width in eta, 5x5": spread(inner.sum(axis=2))[1],
            "width in phi, 5x5": spread(inner.sum(axis=1))[1],
            "width in phi, 5x32": spread(band.sum(axis=1))[1],
            "highest crystal off the middle": energy.reshape(len(energy), -1).argmax(axis=1)
            != row * energy.shape[2] + column,
            "hits": (energy > 0).sum(axis=(1, 2)),
            "hits in the five rows": (band > 0).sum(axis=(1, 2)),
        }
    )


def azimuth_shapes(images: Array) -> pd.DataFrame:
    """Compute the profile along azimuth, folded at its middle, which shows the radiation of an electron.

    Radiated photons lie on one side of an electron, by the sign of its charge; a converted photon has a
    particle on either side.
    """
    energy = images.astype(np.float64)
    row, column = (side // 2 for side in energy.shape[1:])
    band = energy[:, row - 2 : row + 3].sum(axis=1)
    total = band.sum(axis=1)
    shares = band / total[:, None]
    reach = energy.shape[2] - column - 1

    def folded(name: str, right: Array, left: Array) -> dict[str, Array]:
        return {
            f"{name}, larger side": np.maximum(right, left),
            f"{name}, smaller side": np.minimum(right, left),
        }

    found: dict[str, Array] = {}
    for k in range(1, min(8, reach + 1)):
        found |= folded(f"{k} columns off", shares[:, column + k], shares[:, column - k])
    far = (shares[:, column + 3 :].sum(axis=1), shares[:, : column - 2].sum(axis=1))
    found |= folded("3 columns off and more", *far)
    offset = np.arange(band.shape[1]) - spread(band)[0][:, None]
    width = np.maximum(spread(band)[1], 1e-6)
    found["skewness"] = np.abs((shares * offset**3).sum(axis=1)) / width**3
    found["kurtosis"] = (shares * offset**4).sum(axis=1) / width**4
    return pd.DataFrame(found)
