"""Compare the Higgs simulator with real simulated-by-ATLAS events, and time it.

Usage: python benchmarks/higgs_simulator.py [--data higgsml_excerpt.csv.gz] [--events 200000]

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

from skhep_nn.datasets.higgs_events import make_higgs_events

Array = NDArray[np.float64]


def ks_distance(first: Array, first_weight: Array, second: Array, second_weight: Array) -> float:
    """Largest difference of two weighted distribution functions; undefined is the least value."""
    first, second = (np.nan_to_num(values, nan=-np.inf) for values in (first, second))
    points = np.concatenate([first, second])
    steps = np.concatenate(
        [first_weight / first_weight.sum(), -second_weight / second_weight.sum()]
    )
    order = np.argsort(points, kind="stable")
    last_of_ties = np.append(np.diff(points[order]) > 0, True)
    # Two undefined values differ by inf - inf, which is no step.
    return float(np.abs(np.cumsum(steps[order])[last_of_ties]).max())


def read_real(path: Path) -> tuple[pd.DataFrame, NDArray[np.str_], Array]:
    """Columns, labels and weights of the challenge's file."""
    frame = pd.read_csv(path).replace(-999.0, np.nan)
    weight = frame["KaggleWeight" if "KaggleWeight" in frame else "Weight"]
    return frame.filter(regex="^(DER|PRI)_"), frame["Label"].to_numpy(str), weight.to_numpy(float)


def distances(events: int, path: Path) -> pd.DataFrame:
    """KS distance of every column, by class."""
    real, real_target, real_weight = read_real(path)
    simulated = make_higgs_events(events, random_state=0)
    table = {}
    for label, name in (("s", "signal"), ("b", "background")):
        ours, theirs = simulated.target == label, real_target == label
        table[name] = {
            column: ks_distance(
                simulated.data[column].to_numpy(float)[ours],
                simulated.sample_weight[ours],
                real[column].to_numpy(float)[theirs],
                real_weight[theirs],
            )
            for column in simulated.data
        }
    return pd.DataFrame(table)


def balanced(target: NDArray[np.str_], weight: Array) -> Array:
    """Scale weights so that the classes have the same sum, and the mean is one."""
    scaled = weight.copy()
    for label in np.unique(target):
        scaled[target == label] *= 0.5 * len(target) / scaled[target == label].sum()
    return scaled


def separation(path: Path) -> pd.DataFrame:
    """ROC AUC of gradient boosting trained on either and tested on either kind of events."""
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
        print(markdown(separation(arguments.data), 4), end="\n\n")
    print(f"{speed(arguments.events):,.0f} events/s on one core")


if __name__ == "__main__":
    main()
