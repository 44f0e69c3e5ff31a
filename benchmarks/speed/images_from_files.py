"""Speed and memory of training on images: against loops by hand, from a file, and at two gigabytes.

Usage: python -m benchmarks.speed.images_from_files [rates file memory precision] [--device auto] [--images 4000] ...

Parts, all if none is named:

* ``rates``, of training and prediction, against loops by hand of the same network (the part ``images`` of `benchmarks.speed.job`).
* ``file``: training straight from HDF5, in the page cache, against the same images in memory.
* ``memory``: peak of a fit on images in memory and mapped from a file, against their size.
* ``precision``: the AUC in single and in half precision after the same number of epochs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see benchmarks/higgs/job.py

import h5py
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.common.reporting import Part, console, machine, show_part, write_parts
from benchmarks.common.timing import (
    Ratio,
    in_fresh_process,
    in_turn,
    medians,
    ratios,
    resident_bytes,
    typical_epoch,
)
from benchmarks.speed.images import run_cases
from skhep_nn import CaloCNNClassifier, CosineRestarts, load_calo_hdf5, make_calo_showers

SHAPE = (32, 32, 2)
# A network so small that an epoch over gigabytes is limited by memory, not by arithmetic.
TINY = {"channels": (2,), "kernels": 3, "pooling": 8, "dropout": 0.0, "dense": ()}


def precision(args: argparse.Namespace) -> Part:
    """AUC of the compact network in single and in half precision, over several seeds."""
    n = args.auc_images
    showers = make_calo_showers(n + n // 2, random_state=0)
    rows = []
    for seed in range(args.repeats):
        row = {}
        for name in ("float32", "bfloat16"):
            model = CaloCNNClassifier(
                precision=name,
                schedule=CosineRestarts(max_lr=1e-3, cycle=None),
                max_epochs=args.auc_passes,
                device=args.device,
                random_state=seed,
            ).fit(showers.images[:n], showers.target[:n])
            probability = model.predict_proba(showers.images[n:])[:, 1]
            row[name] = roc_auc_score(showers.target[n:], probability)
        rows.append(row)
    found = pd.DataFrame(rows)
    found["difference"] = found["bfloat16"] - found["float32"]
    table = pd.DataFrame({"AUC": found.mean(), "standard error": found.sem()})
    note = f"{n:,} showers, {args.auc_passes} epochs, {len(found)} seeds, the same seeds for both."
    return Part("Half precision", {"compact network": table}, (note,))


def from_file(args: argparse.Namespace) -> Part:
    """Seconds of an epoch over images in memory and in HDF5, uncompressed, in chunks of 64."""
    images = np.random.default_rng(0).standard_normal((args.images, *SHAPE), dtype=np.float32)
    y = np.arange(len(images)) % 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.hdf5"
        with h5py.File(path, "w") as file:
            file.create_dataset("X", data=images, chunks=(64, *SHAPE))
            file["y"] = y.astype(float)
        lazy = load_calo_hdf5([path], lazy=True).images

        def a_pass(X: Any) -> float:
            model = CaloCNNClassifier(
                preset="challenge", max_epochs=args.passes, device=args.device, random_state=0
            )
            return typical_epoch(model.fit(X, y).history_.seconds.tolist())

        rounds = in_turn(
            {"memory": lambda: a_pass(images), "HDF5": lambda: a_pass(lazy)}, args.repeats
        )
    rates = len(images) / rounds
    wanted = [Ratio("memory", "HDF5", "at least 0.8")]
    return Part(
        "Training from a file",
        {"images a second": medians(rates, "1/s"), "ratio of seconds": ratios(rounds, wanted)},
        (f"{len(images):,} images of 8 kB, preset challenge, batches of 256.",),
    )


def one_fit(kind: str, n_bytes: int, device: str) -> dict[str, float]:
    """Fit on the given number of bytes of images; meant for a new process."""
    n = n_bytes // (4 * int(np.prod(SHAPE)))
    y = np.arange(n) % 2
    model = CaloCNNClassifier(network_params=TINY, max_epochs=1, device=device, random_state=0)
    model.fit(
        np.zeros((64, *SHAPE), dtype=np.float32), y[:64]
    )  # loads libraries before the measurement
    start = resident_bytes("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        shape = (n, *SHAPE)
        mapped = kind == "map"
        images = (
            np.lib.format.open_memmap(path, "w+", np.float32, shape)
            if mapped
            else np.empty(shape, dtype=np.float32)
        )
        rng = np.random.default_rng(0)
        for first in range(0, n, 4096):
            rng.standard_normal(out=images[first : first + 4096], dtype=np.float32)
        if mapped:
            images = np.load(path, mmap_mode="r")
        begun = time.perf_counter()
        model.fit(images, y)
        seconds = time.perf_counter() - begun
    peak = resident_bytes("VmHWM") - start
    return {
        "data (GB)": images.nbytes / 1e9,
        "peak beyond start (GB)": peak / 1e9,
        "1.3 x data + 1 GB": 1.3 * images.nbytes / 1e9 + 1,
        "fit (s)": seconds,
    }


def memory(args: argparse.Namespace) -> Part:
    """Peak resident memory of a fit."""
    n_bytes = int(args.memory_gb * 1e9)
    table = pd.DataFrame(
        {
            name: in_fresh_process(one_fit, kind, n_bytes, args.device)
            for name, kind in (("array", "array"), ("memory map", "map"))
        }
    )
    return Part("Memory of a fit", {"images, float32": table}, ("The images themselves count.",))


PARTS = {"rates": run_cases, "file": from_file, "memory": memory, "precision": precision}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--image-batch", type=int, default=256)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--auc-images", type=int, default=4000)
    parser.add_argument("--auc-passes", type=int, default=4)
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=Path("results/images_speed"))
    args = parser.parse_args()
    for name in args.parts:
        if name not in PARTS:
            parser.error(f"no part is named {name!r}; there are {', '.join(PARTS)}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Part] = {}
    for name in args.parts or PARTS:
        found[name] = PARTS[name](args)
        show_part(found[name])
        if found[name].draw is not None:
            found[name].draw(args.output / f"{name}.png")
        paths = write_parts(args.output, machine(args.device), found)
    for path in paths:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
