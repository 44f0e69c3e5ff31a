"""Compare the Higgs simulator with the events of the ATLAS challenge, and time it.

Usage: python -m benchmarks.higgs.simulator [--data higgsml_excerpt.csv.gz] [--events 200000]

Without ``--data`` only the speed is measured. The file is the csv(.gz) of CERN Open Data record
328 or any excerpt of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skhep_nn.datasets._missing_mass import Seen, missing_mass
from skhep_nn.datasets.higgs_events import derive_features, make_higgs_events

Array = NDArray[np.float64]
CLASSES = {"s": "signal", "b": "background"}


def ks_distance(first: Array, first_weight: Array, second: Array, second_weight: Array) -> float:
    """Largest difference of two weighted distribution functions; undefined values count as the lowest."""
    first, second = (np.nan_to_num(values, nan=-np.inf) for values in (first, second))
    points = np.concatenate([first, second])
    steps = np.concatenate(
        [first_weight / first_weight.sum(), -second_weight / second_weight.sum()]
    )
    order = np.argsort(points, kind="stable")
    ordered = points[order]
    last_of_ties = np.append(ordered[1:] > ordered[:-1], True)
    return float(np.abs(np.cumsum(steps[order])[last_of_ties]).max())


def read_real(path: Path) -> tuple[pd.DataFrame, NDArray[np.str_], Array]:
    """Columns, labels and weights of the challenge's file."""
    frame = pd.read_csv(path).replace(-999.0, np.nan)
    weight = frame["KaggleWeight" if "KaggleWeight" in frame else "Weight"]
    return frame.filter(regex="^(DER|PRI)_"), frame["Label"].to_numpy(str), weight.to_numpy(float)


def distances(events: int, path: Path) -> pd.DataFrame:
    """KS distance of every column by class: with undefined as a value, and among defined ones."""
    real, real_target, real_weight = read_real(path)
    simulated = make_higgs_events(events, random_state=0)
    table: dict[str, dict[str, float]] = {}
    for label, name in CLASSES.items():
        ours, theirs = simulated.target == label, real_target == label
        for column in simulated.data:
            # Rounded like the file, where many small centralities are zero.
            first = simulated.data[column].to_numpy(float)[ours].round(3)
            second = real[column].to_numpy(float)[theirs]
            weights = simulated.sample_weight[ours], real_weight[theirs]
            defined = ~np.isnan(first), ~np.isnan(second)
            table.setdefault(name, {})[column] = ks_distance(first, weights[0], second, weights[1])
            table.setdefault(f"{name}, where defined", {})[column] = ks_distance(
                first[defined[0]],
                weights[0][defined[0]],
                second[defined[1]],
                weights[1][defined[1]],
            )
    return pd.DataFrame(table)


def noise(path: Path) -> dict[str, float]:
    """Median distance that the size of the file alone would give, by class."""
    _, target, weight = read_real(path)
    floor = {}
    for label, name in CLASSES.items():
        chosen = weight[target == label]
        # Median of Kolmogorov's distribution for the effective number of events.
        floor[name] = 0.828 / np.sqrt(chosen.sum() ** 2 / (chosen**2).sum())
    return floor


def recomputed(path: Path) -> pd.DataFrame:
    """Deviation of derived columns, recomputed on the events of the file, from the columns of the file."""
    real, _, _ = read_real(path)
    derived = derive_features(real)
    names = ("tau_pt", "tau_phi", "lep_pt", "lep_phi", "met", "met_phi", "met_sumet")
    primary = (real[f"PRI_{name}"].to_numpy(float) for name in names)
    derived["DER_mass_MMC"] = missing_mass(Seen(derived["DER_mass_vis"].to_numpy(), *primary))
    deviation = (derived - real[derived.columns]).abs()
    return pd.DataFrame(
        {
            "largest": deviation.max(),
            "median, relative": (deviation / real[derived.columns].abs()).median(),
            "as defined as in the file": (derived.isna() == real[derived.columns].isna()).mean(),
        }
    )


def balanced(target: NDArray[np.str_], weight: Array) -> Array:
    """Scale weights so that the classes have the same sum, and the mean is one."""
    scaled = weight.copy()
    for label in np.unique(target):
        scaled[target == label] *= 0.5 * len(target) / scaled[target == label].sum()
    return scaled


def separation(path: Path) -> pd.DataFrame:
    """ROC AUC of gradient boosting, trained and tested on simulated and on real events."""
    simulated = make_higgs_events(22_000, random_state=1)
    samples = {
        "simulated": (simulated.data, simulated.target, simulated.sample_weight),
        "real": read_real(path),
    }
    halves = {
        name: train_test_split(*sample, test_size=0.3, stratify=sample[1], random_state=0)
        for name, sample in samples.items()
    }
    table: dict[str, dict[str, float]] = {}
    for trained, (X, _, y, _, weight, _) in halves.items():
        model = HistGradientBoostingClassifier(learning_rate=0.06, random_state=0)
        model.fit(X, y, sample_weight=balanced(y, weight))
        table[f"trained on {trained} ({len(y):,})"] = {
            f"tested on {tested}": roc_auc_score(
                y_test == "s",
                model.predict_proba(X_test)[:, 1],
                sample_weight=balanced(y_test, w_test),
            )
            for tested, (_, X_test, _, y_test, _, w_test) in halves.items()
        }
    return pd.DataFrame(table).T


def speed(events: int) -> float:
    """Events a second on one core, the best of five."""
    make_higgs_events(20_000, random_state=0)
    seconds = []
    for repeat in range(5):
        start = time.perf_counter()
        make_higgs_events(events, random_state=repeat)
        seconds.append(time.perf_counter() - start)
    return events / min(seconds)


def markdown(table: pd.DataFrame, digits: int) -> str:
    """Write a table as it stands in the docs."""
    rows = [["", *table.columns], ["---", *["---:"] * len(table.columns)]]
    rows += [
        [str(name), *(f"{value:.{digits}f}" for value in values)]
        for name, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="csv(.gz) of the challenge")
    parser.add_argument("--events", type=int, default=200_000, help="how many to simulate")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}\n")
    if arguments.data is not None:
        table = distances(arguments.events, arguments.data)
        table.loc["median"] = table.median()
        print(markdown(table, 3), end="\n\n")
        for name, floor in noise(arguments.data).items():
            print(
                f"{name}: a distance of {floor:.3f} is expected by chance at the size of the file"
            )
        print()
        print(markdown(separation(arguments.data), 4), end="\n\n")
        print(markdown(recomputed(arguments.data), 4), end="\n\n")
    print(f"{speed(arguments.events):,.0f} events/s on one core")


if __name__ == "__main__":
    main()
