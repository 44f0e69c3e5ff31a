"""Speed of training and prediction, against other libraries and against the limit of the chip.

Usage: python -m benchmarks.speed.job [PART ...] [--device auto] [--output results/speed] ...

Parts, by default the first three:

* ``train``: seconds per member and epoch of the study's network, against skorch, LUMIN and plain torch;
* ``predict``: ten members and eight views of 550,000 events, likewise;
* ``small``: fits of 100 to 1,000 rows, predictions of one row;
* ``reference``: the job of the study, 200,000 events and 15 epochs with augmentation, then prediction;
* ``scale``: time and memory against rows, members and features;
* ``stream``: on a GPU, rows that stay on the host against rows on the device;
* ``images``: convolutional networks against loops by hand of the same network;
* ``memory``: how much memory a fit and a prediction take on top of the data (Linux).

Variants are run in turn within one run, and ratios are medians over the rounds of ratios within a round:
seconds drift on shared machines. Writes results.json, results.md and a figure for each part.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see benchmarks/higgs/job.py

import torch

from benchmarks.common.reporting import Part, console, machine, show_part, write_parts
from benchmarks.speed.images import run_cases
from benchmarks.speed.memory import memory
from benchmarks.speed.scaling import scale, stream
from benchmarks.speed.tables import predict, train
from benchmarks.speed.whole_jobs import reference, small

PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "train": train,
    "predict": predict,
    "small": small,
    "reference": reference,
    "scale": scale,
    "stream": stream,
    "images": run_cases,
    "memory": memory,
}
DEFAULT = ["train", "predict", "small"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/speed"))
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--passes", type=int, default=3, help="epochs of a fit, not in reference")
    parser.add_argument("--events", type=int, default=50_000, help="of train and small")
    parser.add_argument("--predict-rows", type=int, default=20_000)
    parser.add_argument("--lumin-python", help="interpreter that has LUMIN 0.9.1")
    parser.add_argument("--members", type=int, nargs="+", default=[10], help="of reference")
    parser.add_argument("--reference-events", type=int, nargs=2, default=[200_000, 550_000])
    parser.add_argument("--scale-rows", type=int, nargs="+")
    parser.add_argument("--scale-members", type=int, nargs="+", default=[1, 5, 10, 30, 60, 120])
    parser.add_argument("--scale-features", type=int, nargs="+", default=[10, 31, 100, 300, 1000])
    parser.add_argument("--scale-base", type=int, nargs=3, default=[100_000, 10, 31])
    parser.add_argument("--stream-rows", type=int, default=200_000)
    parser.add_argument("--stream-features", type=int, nargs="+", default=[31, 200, 1000])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--image-batch", type=int, default=256)
    parser.add_argument("--memory-megabytes", type=float, default=400.0, help="of the input")
    args = parser.parse_args()
    args.parts = args.parts or DEFAULT
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is named {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cpu" and "stream" in args.parts:
        parser.error("stream compares a GPU's memory with the host's: it needs --device cuda")
    return args


def main() -> None:
    args = parse()
    where = machine(args.device)
    console.print(
        f"on {where['gpu'] or where['processor']}, {where['cores']} cores, torch threads: "
        f"{where['torch_threads']}\n"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Part] = {}
    for name in dict.fromkeys(args.parts):
        found[name] = part = PARTS[name](args)
        show_part(part)
        if part.draw is not None:
            part.draw(args.output / f"{name}.png")
        # After each part: a later one may take long, or more memory than there is.
        paths = write_parts(args.output, where, found)
    for path in paths:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
