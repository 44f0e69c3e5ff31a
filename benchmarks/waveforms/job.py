"""Light pulses of a xenon chamber: how far apart are two, and are there two? Ours and peers.

Usage: python -m benchmarks.waveforms.job [PART ...] [--data FILE[:TARGET] ...] [--n-train 16000] ...

Parts, all but `search` unless some are named:

* `separation`: the separation d of two pulses (2S2), measured by the default network, by the published
  one trained ten epochs, and by peers;
* `pulses`: one pulse (1S2) or two, for pairs with d < 0.01 only, as published, and for any d;
* `rates`: traces a second against a plain loop of the same network;
* `memory`: peak of a fit in a fresh process against the size of the traces;
* `real`: the files of ``--data``, out of folds; a target of two values is a class, others are values;
* `search`: the worked grid search, also by ``--grid-search``.

All models see the same traces, as the digitiser gives them. Writes results.json, results.md and figures
into ``--output``, anew after each part.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see benchmarks/higgs/job.py
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in benchmarks/images/electron_photon.py

from benchmarks.common.reporting import Part, console, machine, show_part, write_parts
from benchmarks.waveforms.grid_search import search
from benchmarks.waveforms.real_traces import key_of, real
from benchmarks.waveforms.simulated_pulses import pulses, separation
from benchmarks.waveforms.speed import memory, rates

Job = Callable[[argparse.Namespace], dict[str, Part]]

PARTS: dict[str, Job] = {
    "separation": lambda args: {"separation": separation(args)},
    "pulses": lambda args: {"pulses": pulses(args)},
    "rates": lambda args: {"rates": rates(args)},
    "memory": lambda args: {"memory": memory(args)},
    "real": lambda args: {f"real_{key_of(name)}": real(args, name) for name in args.data},
    "search": lambda args: {"search": search(args)},
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all but search")
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE[:TARGET]")
    parser.add_argument("--n-train", type=int, default=16_000, help="simulated traces to train on")
    parser.add_argument("--n-test", type=int, default=4_000, help="simulated traces to test on")
    parser.add_argument("--points", type=int, default=5_000, help="of a simulated trace")
    parser.add_argument("--seeds", type=int, default=1, help="trainings on separations")
    parser.add_argument("--epochs", type=int, default=10, help="of the default network")
    parser.add_argument("--batch-size", type=int, default=128, help="of the default network")
    parser.add_argument("--members", type=int, default=1, help="of the default network")
    parser.add_argument("--school-epochs", type=int, default=10, help="of preset school, 0: none")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    parser.add_argument("--bins", type=int, default=10, help="of the separation")
    parser.add_argument("--speed-traces", type=int, default=4_000)
    parser.add_argument("--passes", type=int, default=3, help="epochs of a fit in rates")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in rates")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="of the traces in memory")
    parser.add_argument("--folds", type=int, default=5, help="on files")
    parser.add_argument("--real-epochs", type=int, default=60, help="on files")
    parser.add_argument("--real-batch", type=int, default=16, help="on files")
    parser.add_argument("--grid-search", action="store_true")
    parser.add_argument("--grid-traces", type=int, default=1_000)
    parser.add_argument("--grid-points", type=int, default=1_000)
    parser.add_argument("--grid-epochs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="of the grid search")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of traces and models")
    parser.add_argument("--output", type=Path, default=Path("results/waveforms"))
    args = parser.parse_args()
    for name in args.parts:
        if name not in PARTS:
            parser.error(f"no part is named {name!r}; there are {', '.join(PARTS)}")
    if "real" in args.parts and not args.data:
        parser.error("the part 'real' needs --data")
    if not args.parts:
        args.parts = [name for name in PARTS if name != "search"]
    if args.grid_search and "search" not in args.parts:
        args.parts.append("search")
    return args


def main() -> None:
    args = parse()
    where = machine(args.device)
    console.print(f"on {where['gpu'] or where['processor']}, {where['torch_threads']} threads\n")
    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Part] = {}
    for name in args.parts:
        new = PARTS[name](args)
        for key, part in new.items():
            show_part(part)
            if part.draw is not None:
                part.draw(args.output / f"{key}.png")
        found |= new
        # Written after each part, so that results are kept if a later part fails.
        paths = write_parts(args.output, where, found)
    for path in paths:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
