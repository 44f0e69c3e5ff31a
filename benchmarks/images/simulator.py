"""Compare the image simulators with real images, and time them and the shuffled reading of files.

Usage: python -m benchmarks.images.simulator [--data DIR] [--images 40000]

DIR holds SingleElectronPt50_excerpt.hdf5, SinglePhotonPt50_excerpt.hdf5 (or the whole files under
these names) and ion_tracks_idao.npz. Without it only separation and speed are measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, roc_auc_score

from benchmarks.images.shower_shapes import shower_shapes
from skhep_nn.datasets.calo_files import load_calo_hdf5
from skhep_nn.datasets.calo_showers import make_calo_showers
from skhep_nn.datasets.ion_tracks import ION_SPLITS, make_ion_tracks
from skhep_nn.inputs.shuffled_chunks import ShuffledChunks

Array = NDArray[Any]
UNIT = 50.0  # GeV and ns, of the channels of the showers
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks of 64 images": {"chunks": (64, 32, 32, 2)},
    "as the excerpt (26, 8, 16, 1), gzip 9": {
        "chunks": (26, 8, 16, 1),
        "compression": "gzip",
        "compression_opts": 9,
    },
}


def track_shapes(images: Array) -> pd.DataFrame:
    """Amount of light and shape of ion images."""
    light = images.astype(np.float64)
    light -= np.median(light, axis=(1, 2))[:, None, None] + 0.36
    y, x = np.mgrid[: light.shape[1], : light.shape[2]] - (light.shape[1] - 1) / 2
    bright = np.clip(light - 2.5, 0, None) * (np.hypot(x, y) < 16)
    total = bright.sum(axis=(1, 2)) + 1e-9
    mean = [(bright * axis).sum(axis=(1, 2)) / total for axis in (x, y)]
    xx, yy, xy = (
        (bright * a * b).sum(axis=(1, 2)) / total - mean[i] * mean[j]
        for a, b, i, j in ((x, x, 0, 0), (y, y, 1, 1), (x, y, 0, 1))
    )
    middle, half = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)

    def square(half: int) -> Array:
        centre = light.shape[1] // 2
        return light[:, centre - half : centre + half, centre - half : centre + half]

    return pd.DataFrame(
        {
            "highest pixel": light.max(axis=(1, 2)),
            "sum of 2x2": square(1).sum(axis=(1, 2)),
            "sum of 6x6": square(3).sum(axis=(1, 2)),
            "sum of 20x20": square(10).sum(axis=(1, 2)),
            "pixels above 2": (light > 2).sum(axis=(1, 2)),
            "distance from the middle": np.hypot(*mean),
            "length": np.sqrt(middle + half),
            "width": np.sqrt(np.maximum(middle - half, 0)),
        }
    )


def _typical(shapes: pd.DataFrame) -> pd.Series[float]:
    """Return the median of every column, or the mean of a boolean one."""
    flags = shapes.select_dtypes(bool).columns
    return shapes.astype(float).median().where(~shapes.columns.isin(flags), shapes.mean())


def ks_columns(ours: pd.DataFrame, theirs: pd.DataFrame, label: str) -> pd.DataFrame:
    """KS distance and medians of every column."""
    return pd.DataFrame(
        {
            f"{label}: KS": [
                ks_2samp(*(shapes[name].astype(float) for shapes in (ours, theirs))).statistic
                for name in ours
            ],
            "simulated": _typical(ours),
            "real": _typical(theirs),
        },
        index=ours.columns,
    )


def compare_showers(folder: Path, n_images: int) -> pd.DataFrame:
    """Distances of shower shapes and hit energies by class."""
    simulated = make_calo_showers(n_images, random_state=0)
    tables = []
    for label, name in ((1, "Electron"), (0, "Photon")):
        real = load_calo_hdf5(folder / f"Single{name}Pt50_excerpt.hdf5").images[..., 0]
        ours = simulated.images[simulated.target == label][..., 0]
        table = ks_columns(shower_shapes(ours), shower_shapes(real), name.lower())
        hits = [UNIT * images[images > 0] for images in (ours, real)]
        table.loc["energy of a hit (GeV)"] = [
            ks_2samp(*hits).statistic,
            *(np.median(values) for values in hits),
        ]
        tables.append(table)
    return pd.concat(tables, axis=1)


def compare_tracks(path: Path, n_images: int) -> pd.DataFrame:
    """KS distances of light and shape by particle and energy."""
    real, simulated = np.load(path), make_ion_tracks(n_images, random_state=0)
    columns = {}
    for number, particle in enumerate(("helium", "electron")):
        for energy in ION_SPLITS["train"][particle]:
            ours, theirs = (
                track_shapes(images[(is_electron == number) & (keV == energy)])
                for images, is_electron, keV in (
                    (simulated.images, simulated.is_electron, simulated.target),
                    (real["X"], real["is_electron"], real["energy_keV"]),
                )
            )
            table = ks_columns(ours, theirs, "")
            columns[f"{particle} {energy:g} keV"] = table[": KS"]
    return pd.DataFrame(columns)


def time_channel(n_images: int) -> pd.DataFrame:
    """Hit times of simulated showers by energy of the hit."""
    images = make_calo_showers(n_images, random_state=0).images
    energy, times = UNIT * images[..., 0], UNIT * images[..., 1]
    rows = {}
    for low, high in ((0, 0.1), (0.1, 1), (1, 10), (10, 200)):
        chosen = times[(energy > low) & (energy <= high)]
        rows[f"{low} to {high} GeV"] = {
            "share of hits": chosen.size / (energy > 0).sum(),
            "mean (ns)": chosen.mean(),
            "standard deviation (ns)": chosen.std(),
            "below zero": (chosen < 0).mean(),
        }
    return pd.DataFrame(rows).T


def separation(n_images: int) -> pd.Series[float]:
    """Gradient boosting on shower shapes: a quarter of the images is for the test."""
    showers = make_calo_showers(n_images, random_state=1)
    shapes, target = shower_shapes(showers.images[..., 0]), showers.target
    train = np.arange(n_images) < 0.75 * n_images
    model = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=300, random_state=0)
    model.set_params(early_stopping=True).fit(shapes[train], target[train])
    score = model.predict_proba(shapes[~train])[:, 1]
    return pd.Series(
        {
            "ROC AUC": roc_auc_score(target[~train], score),
            "accuracy": accuracy_score(target[~train], score > 0.5),
        }
    )


def best_rate(n: int, task: Any, repeats: int = 3) -> float:
    """Items a second, the best of some repeats."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return n / min(seconds)


def reading(n_images: int, batch_size: int = 512) -> pd.DataFrame:
    """Shuffled batches from files in the page cache against rows gathered from memory."""
    showers = make_calo_showers(n_images, random_state=2)
    images = np.concatenate([showers.images[showers.target == label] for label in (0, 1)])
    target = np.sort(showers.target)

    def measure(epoch: Any) -> dict[str, float]:
        shares: list[float] = []

        def one() -> None:
            for _, numbers in epoch():
                if numbers.size == batch_size:
                    shares.append(target[numbers].mean())

        return {
            "images a second": best_rate(n_images, one, 5),
            "spread of the class share": float(np.std(shares)),
        }

    def gather() -> Iterator[tuple[Array, Array]]:
        order = rng.permutation(n_images)
        for start in range(0, n_images, batch_size):
            rows = order[start : start + batch_size]
            yield images[rows], rows

    def chunks(source: Any) -> dict[str, float]:
        batches = ShuffledChunks(source, batch_size, random_state=0, buffer_size=8_192)
        return measure(lambda: batches)

    rng = np.random.default_rng(0)
    rows = {"memory, all shuffled": measure(gather), "memory, ShuffledChunks": chunks(images)}
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        for name, layout in LAYOUTS.items():
            path = Path(folder) / "images.hdf5"
            with h5py.File(path, "w") as file:
                file.create_dataset("X", data=images, **layout)
                file["y"] = target
            rows[f"HDF5, {name}"] = chunks(load_calo_hdf5(path, lazy=True).images)
    return pd.DataFrame(rows).T


def markdown(table: pd.DataFrame, digits: int) -> str:
    """Write a table as it stands in the docs."""
    rows = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    rows += [
        [
            str(name),
            *(f"{value:,.0f}" if value >= 1_000 else f"{value:.{digits}f}" for value in values),
        ]
        for name, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real images")
    parser.add_argument("--images", type=int, default=40_000, help="how many to simulate")
    arguments = parser.parse_args()
    n = arguments.images
    print(f"{platform.machine()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}\n")
    if arguments.data is not None:
        # Median of Kolmogorov's distribution.
        print(markdown(compare_showers(arguments.data, n), 3))
        print(f"by chance, with 100 real images: {0.828 / np.sqrt(100):.3f}\n")
        print(markdown(compare_tracks(arguments.data / "ion_tracks_idao.npz", n // 4), 3))
        print(f"by chance, with 167 real images: {0.828 / np.sqrt(167):.3f}\n")
    print(markdown(time_channel(n // 4), 3), end="\n\n")
    print(f"shower shapes, {n:,} images:", separation(n).round(4).to_dict(), end="\n\n")
    print(markdown(reading(n // 2), 4), end="\n\n")
    print(f"{best_rate(5_000, lambda: make_calo_showers(5_000, random_state=0)):,.0f} showers/s")
    print(f"{best_rate(2_000, lambda: make_ion_tracks(2_000, random_state=0)):,.0f} ion tracks/s")


if __name__ == "__main__":
    main()
