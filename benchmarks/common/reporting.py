"""Reports of benchmarks: the machine they ran on, tables of means and errors, files of results."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sklearn
import skorch
import torch
from rich.console import Console
from rich.table import Table

import skhep_nn

console = Console()


class Part(NamedTuple):
    """Results of one part of a benchmark: tables by caption, remarks, every round, a figure."""

    title: str
    tables: dict[str, pd.DataFrame]
    notes: tuple[str, ...] = ()
    rounds: dict[str, pd.DataFrame] | None = None
    draw: Callable[[Path], None] | None = None


def machine(device: str) -> dict[str, Any]:
    """Return machine, command and versions of a run."""
    cuda = torch.cuda.is_available() and device != "cpu"
    return {
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "versions": {m.__name__: m.__version__ for m in (np, pd, sklearn, skorch, torch, skhep_nn)},
    }


def _processor() -> str:
    """Return the name of the processor, as given by the system."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def mean_and_error(values: pd.Series) -> tuple[float, float]:
    """Return the mean and its standard error (NaN for a single value)."""
    values = values.dropna()
    if values.empty:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _cell(mean: float, error: float, digits: int) -> str:
    if np.isnan(mean):
        return "-"
    text = f"{mean:.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def show(title: str, rows: dict[str, dict[str, pd.Series]], digits: dict[str, int]) -> None:
    """Print a table: one row for each name, mean and standard error of every column."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in digits:
        table.add_column(column, justify="right")
    for name, columns in rows.items():
        cells = [
            _cell(*mean_and_error(columns[c]), d) if c in columns else "-"
            for c, d in digits.items()
        ]
        table.add_row(name, *cells)
    # Whole columns matter more than the width of the terminal or of a log file.
    Console(width=max(console.width, 40 + 20 * len(digits))).print(table)


def _text(value: Any) -> str:
    """Return the text of a cell with three digits, the precision of timings."""
    if isinstance(value, str):
        return value
    if value is None or not np.isfinite(value):
        return "-"
    if isinstance(value, bool | int | np.integer) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Write a table with its head and the names of its rows."""
    rows = [["", *map(str, table.columns)]]
    for name, values in zip(table.index, table.itertuples(index=False, name=None), strict=True):
        rows.append([str(name), *map(_text, values)])
    return rows


def markdown(table: pd.DataFrame) -> str:
    """Write a table for a page."""
    head, *rows = _cells(table)
    rule = ["--", *["--:"] * len(table.columns)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def show_part(part: Part) -> None:
    """Print the tables and remarks of a part."""
    for caption, frame in part.tables.items():
        head, *rows = _cells(frame)
        table = Table(title=f"{part.title}: {caption}", title_justify="left")
        table.add_column(head[0], no_wrap=True)
        for column in head[1:]:
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        wide = sum(max(map(len, column)) + 3 for column in zip(head, *rows, strict=True))
        Console(width=max(console.width, wide + 1)).print(table)
    for note in part.notes:
        console.print(note, highlight=False)
    console.print()


def write_parts(folder: Path, where: dict[str, Any], parts: dict[str, Part]) -> list[Path]:
    """Write results.json, results.md and a figure for each part; return the paths."""
    content: dict[str, Any] = {"machine": where}
    lines = [f"`{where['command']}`, {where['time']}", ""]
    lines += [f"{where['gpu'] or where['processor']}, {where['cores']} cores, versions: "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    paths = [folder / "results.json", folder / "results.md"]
    for name, part in parts.items():
        lines += ["", f"## {part.title}"]
        for caption, table in part.tables.items():
            lines += ["", f"{caption}:", "", markdown(table)]
        lines += [line for note in part.notes for line in ("", note)]
        if part.draw is not None:
            paths.append(folder / f"{name}.png")
            lines += ["", f"![{part.title}]({name}.png)"]
        content[name] = {
            "tables": {c: t.to_dict("index") for c, t in part.tables.items()},
            "notes": list(part.notes),
            "rounds": {c: t.to_dict("list") for c, t in (part.rounds or {}).items()},
        }
    write_json(paths[0], content)
    paths[1].write_text("\n".join(lines) + "\n")
    return paths


def bars(
    rounds: pd.DataFrame, title: str, unit: str, floors: tuple[str, ...] = ()
) -> Callable[[Path], None]:
    """Return a function that draws the median of every variant as a bar and its rounds as points."""

    def draw(path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.2 + 0.4 * rounds.shape[1]), layout="constrained")
        axes = figure.subplots()
        colours = ["tab:grey" if name in floors else "tab:blue" for name in rounds]
        places = np.arange(rounds.shape[1])[::-1]
        axes.barh(places, rounds.median(), color=colours, alpha=0.7)
        for place, name in zip(places, rounds, strict=True):
            axes.plot(rounds[name], np.full(len(rounds), place), "k|")
        axes.set_yticks(places, list(rounds.columns))
        axes.set_xlim(left=0)
        axes.set_xlabel(unit)
        axes.set_title(title)
        figure.savefig(path, dpi=150)

    return draw


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write results, with NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and not np.isfinite(value) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(content), indent=1) + "\n")
