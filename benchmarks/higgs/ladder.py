"""Every technique of the HiggsML study (arXiv:2002.01427), one after the other: its tables 3 to 7, 9 and 10.

Usage: python -m benchmarks.higgs.ladder [--data FILE] [--seeds 6] [--rows NAME ...] [--quick] ...

Each row changes some parameters of an earlier row; techniques that the study accepts accumulate. For
each it prints the scores of the study next to its figures, weighted log-loss and AUC, and the seconds to
train and to predict. Every seed has its own split and starting values, the same splits for all rows:
differences are taken seed by seed. Seeds of a row train together. Without ``--data`` the events come from
the simulator. Writes results.json and results.md after each row and a figure into ``--output``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see benchmarks/higgs/job.py

from benchmarks.common.reporting import console, machine, mean_and_error, show_part, write_parts
from benchmarks.higgs.job import progress_bar, read_events
from benchmarks.higgs.ladder_report import report
from benchmarks.higgs.ladder_rows import estimator, ladder
from benchmarks.higgs.ladder_runs import Run, Sample, prepare, run

#: Defaults with and without --quick: epochs of 1cycle, members, seeds, events to simulate.
FULL = {"passes": 15, "members": 10, "seeds": 6, "events": 250_000}
QUICK = {"passes": 15, "members": 4, "seeds": 4, "events": 16_000}
NAMES = list(ladder(one_cycle=15, members=10))


def warm_up(args: argparse.Namespace, sample: Sample) -> None:
    """Train once, so that no row includes the time in which libraries load their parts."""
    rows = ladder(one_cycle=1, members=2)
    few = sample._replace(
        splits=[s._replace(train=s.train[:600], test=s.test[:600]) for s in sample.splits[:1]]
    )
    run(estimator(rows, "augmentation", device=args.device), few, aligned=False)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="csv(.gz) or parquet of the challenge")
    parser.add_argument("--events", type=int, help="number to simulate")
    parser.add_argument("--members", type=int, help="of an ensemble")
    parser.add_argument("--passes", type=int, help="epochs of 1cycle; others in proportion")
    parser.add_argument("--seeds", type=int, help="number of splits")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer members, seeds and events")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/higgsml_ladder"))
    args = parser.parse_args()
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in args.rows or ():
        if name not in NAMES:
            parser.error(f"no row is named {name!r}; there are {', '.join(NAMES)}")
    return args


def main() -> None:
    args = parse()
    started = time.perf_counter()
    events = read_events(args)
    sample = prepare(events, args.seeds)
    rows = ladder(one_cycle=args.passes, members=args.members)
    where = machine(args.device)
    source = "simulated events" if args.data is None else args.data.name
    console.print(
        f"{len(sample.y):,} events ({source}), {args.members} members, {args.passes} epochs of 1cycle, "
        f"{args.seeds} seeds"
    )
    console.print(f"on {where['gpu'] or where['processor']}, {where['torch_threads']} threads\n")
    args.output.mkdir(parents=True, exist_ok=True)
    warm_up(args, sample)
    runs: dict[str, Run] = {}
    with progress_bar() as progress:
        names = [name for name in rows if args.rows is None or name in args.rows]
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=rows[name].title)
            model = estimator(rows, name, device=args.device)
            runs[name] = run(model, sample, aligned=rows[name].aligned)
            loss, _ = mean_and_error(runs[name].scores["log-loss"])
            spent = runs[name].fit_seconds + runs[name].predict_seconds
            console.print(f"{rows[name].title}: log-loss {loss:.4f}, {spent:.1f} s")
            part = report(rows, runs, sample)
            # Written after each row, so that results are kept if a later row fails.
            paths = write_parts(args.output, where, {"ladder": part})
            progress.advance(task)
    show_part(part)
    part.draw(args.output / "ladder.png")
    console.print(f"{len(runs)} rows in {time.perf_counter() - started:.0f} s")
    for path in paths:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
