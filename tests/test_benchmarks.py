"""The benchmark scripts run, at a size that measures nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skhep_nn import make_higgs_events

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = pytest.mark.slow


def run(script, *arguments):
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    env = os.environ | {"MPLBACKEND": "Agg", "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


def write_challenge(path, n_events):
    """Write simulated events as CERN's file holds the challenge's: with its sets and weights."""
    events = make_higgs_events(n_events, random_state=0)
    frame = events.data.fillna(-999.0)
    frame.insert(0, "EventId", np.arange(100_000, 100_000 + n_events))
    frame["Weight"] = events.sample_weight
    frame["Label"] = events.target
    frame["KaggleSet"] = np.array(["t", "b", "v"])[np.arange(n_events) % 3]
    frame["KaggleWeight"] = events.sample_weight
    frame.to_csv(path, index=False)


def test_higgs_job_on_simulated_events(tmp_path):
    out = run(
        "higgsml.py", "--events", 1500, "--members", 2, "--epochs", 1, "--seeds", 2,
        "--output", tmp_path,
    )  # fmt: skip
    for name in ("skhep_nn", "HistGradientBoosting", "MLPClassifier", "skorch"):
        assert name in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["machine"]["versions"]["torch"]
    assert 0.4 < results["summary"]["skhep_nn"]["AUC"][0] < 1
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "roc.png", "ams.png", "output.png", "history.png",
    }  # fmt: skip


def test_higgs_job_under_the_conditions_of_the_challenge(tmp_path):
    path = tmp_path / "challenge.csv"
    write_challenge(path, 4500)
    out = run(
        "higgsml.py", "--data", path, "--members", 2, "--epochs", 2, "--seeds", 2,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert "published private: 3.803" in out
    summary = json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["skhep_nn"]
    for figure in ("MMVA", "MVAC", "MAPA", "public", "private"):
        assert summary[figure][0] > 0.5, figure
    assert summary["MMVA"][0] >= summary["MVAC"][0]


def test_speed(tmp_path):
    out = run(
        "speed.py", "--events", 600, "--epochs", 1, "--repeats", 1, "--reference",
        "--reference-events", 1000, 1000, "--members", 2, "--output", tmp_path,
    )  # fmt: skip
    assert "10 members / 1 member" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["reference"][0]["members"] == 2


def test_simulator(tmp_path):
    path = tmp_path / "challenge.csv"
    write_challenge(path, 3000)
    out = run("higgs_simulator.py", "--data", path, "--events", 3000)
    assert "DER_mass_MMC" in out
