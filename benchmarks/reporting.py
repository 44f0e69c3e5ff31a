"""What the benchmarks share: where they ran, tables of means and errors, files of results."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import skorch
import torch
from rich.console import Console
from rich.table import Table

import skhep_nn

console = Console()


def machine(device: str) -> dict[str, Any]:
    """Say what the figures were measured on."""
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
    """Name of the processor, as far as the system tells it."""
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
    """Print a table: one row a name, mean and standard error of every column."""
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
