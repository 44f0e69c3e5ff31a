"""The benchmark scripts run, at a size that measures nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skhep_nn import make_calo_showers, make_higgs_events, make_ion_tracks
from skhep_nn._calo_cnn import CaloCNN
from skhep_nn.networks import CategoricalColumn, DenseNet

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


def figures(folder, part):
    """The tables of a part, after a look at its files."""
    results = json.loads((folder / "results.json").read_text())
    assert results["machine"]["versions"]["torch"]
    tables = results[part]["tables"]
    for table in tables.values():
        for row in table.values():
            numbers = {k: v for k, v in row.items() if k != "wanted"}
            assert all(v is not None for v in numbers.values()), row  # null stands for NaN
    page = (folder / "results.md").read_text()
    assert all(caption in page for caption in tables)
    assert f"({part}.png)" in page
    assert (folder / f"{part}.png").stat().st_size > 5000
    return tables


def test_speed_on_tables(tmp_path):
    run(
        "speed.py", "--device", "cpu", "--events", 400, "--predict-rows", 200, "--repeats", 1,
        "--passes", 2, "--output", tmp_path,
    )  # fmt: skip
    train = figures(tmp_path, "train")
    seconds = {k: v["median (s)"] for k, v in train["seconds a member and pass"].items()}
    assert min(seconds.values()) > 0
    ratio = train["ratios"]["skorch / ours, 10 members"]
    assert ratio["ratio"] == pytest.approx(seconds["skorch"] / seconds["ours, 10 members"])
    assert ratio["wanted"] == "at least 5"
    assert "skorch / ours" in figures(tmp_path, "predict")["ratios"]
    small = figures(tmp_path, "small")
    assert len(small["fit of few rows, 60 steps"]) == 3


def test_speed_of_the_reference_job_and_at_scale(tmp_path):
    run(
        "speed.py", "reference", "scale", "--device", "cpu", "--reference-events", 300, 300,
        "--members", 2, "--passes", 2, "--scale-base", 200, 2, 4, "--scale-rows", 200, 400,
        "--scale-members", 2, "--scale-features", 4, "--output", tmp_path,
    )  # fmt: skip
    reference = figures(tmp_path, "reference")["first of a process"]
    assert reference["fit (s)"]["2 members"] > 5 * reference["later pass (s)"]["2 members"]
    scale = figures(tmp_path, "scale")
    assert list(scale["rows"]) == ["200", "400"]
    assert scale["rows"]["400"]["data + model (MB)"] > scale["rows"]["200"]["data + model (MB)"]


def test_speed_on_images(tmp_path):
    pytest.importorskip("skhep_nn.calo")
    run(
        "speed.py", "images", "--device", "cpu", "--images", 40, "--image-batch", 20,
        "--repeats", 1, "--passes", 2, "--output", tmp_path,
    )  # fmt: skip
    tables = figures(tmp_path, "images")
    assert len(tables["calorimeter images, training, rows a second"]) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["trains"], "no part is named 'trains'"), (["stream"], "needs --device cuda")],
)
def test_speed_refuses_what_it_cannot_do(arguments, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # so that it is put back
    import speed

    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit):
        speed.parse()
    assert message in capsys.readouterr().err


def test_networks_written_by_hand_are_ours(monkeypatch):
    """What speed is compared on is the same function of the same parameters."""
    monkeypatch.syspath_prepend(FOLDER)
    import speed_common
    import speed_images

    plain = speed_common.PlainDenseNet(30, 4)
    ours = DenseNet(31, categorical=[CategoricalColumn(30, 4, 3)])
    values = list(plain.state_dict().values())  # in both: embedding, layers, output
    with torch.no_grad():
        for p, value in zip(ours.parameters(), values, strict=True):
            p.copy_(value)
    X = torch.randn(50, 31, generator=torch.Generator().manual_seed(0))
    X[:, 30] = torch.arange(50) % 4
    torch.testing.assert_close(ours(X)[:, 0], plain(X), rtol=1e-4, atol=1e-5)
    by_hand = speed_images.challenge_network().eval()
    network = CaloCNN((32, 32, 2), preset="challenge").eval()
    with torch.no_grad():
        for p, q in zip(network.parameters(), by_hand.parameters(), strict=True):
            q.mul_(2)  # else the output is all bias
            # The first dense layer reads every cell: channels are last in ours, first by hand.
            cells = q.view(256, 128, 16).mT.flatten(1) if q.shape == (256, 2048) else q
            p.copy_(cells)
    images = torch.randn(3, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    expected = by_hand(images.movedim(-1, 1))
    assert expected.std() > 0.01
    torch.testing.assert_close(network(images)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_simulator(tmp_path):
    path = tmp_path / "challenge.csv"
    write_challenge(path, 3000)
    out = run("higgs_simulator.py", "--data", path, "--events", 3000)
    assert "DER_mass_MMC" in out


def test_ion_energies(tmp_path):
    """The real part runs on a file of the same form."""
    pytest.importorskip("matplotlib")
    tracks = make_ion_tracks(48, image_shape=(20, 20), random_state=0)
    path = tmp_path / "tracks.npz"
    np.savez(path, X=tracks.images, energy_keV=tracks.target, is_electron=tracks.is_electron)
    out = run(
        "ion_energy.py", "--data", path, "--images", 60, "--epochs", 1, "--folds", 2, "--cv", 2,
        "--crop", 8, "--output", tmp_path,
    )  # fmt: skip
    assert "pseudo-labels" in out
    assert "wanted is at most 0.36" in out
    for part in ("simulated", "reversed", "real"):
        tables = figures(tmp_path, part)
        assert len(tables["MAE by kind (keV)"]["network"]) == 6
        rows = tables["errors"]
        assert {"network", "network and forest", "forest on the sum of pixels"} < set(rows)
        for name, row in rows.items():
            by_kind = tables["MAE by kind (keV)"][name].values()
            assert row["MAE (keV)"] == pytest.approx(np.mean(list(by_kind)), rel=0.3)


def test_electron_or_photon(tmp_path):
    """On simulated images, and on few real ones, here images of a file of the same form."""
    h5py = pytest.importorskip("h5py")
    showers = make_calo_showers(30, random_state=0)
    for label, name in enumerate(("Photon", "Electron")):
        with h5py.File(tmp_path / f"Single{name}Pt50_few.hdf5", "w") as file:
            file["X"] = showers.images[showers.target == label]
            file["y"] = showers.target[showers.target == label]
    out = run(
        "electron_photon.py", "--data", tmp_path, "--images", 200, "--test-images", 100,
        "--epochs", 1, "--draws", 10, "--bins", 2, "--device", "cpu", "--output", tmp_path,
    )  # fmt: skip
    assert "200 simulated, without times images to train on" in out
    results = json.loads((tmp_path / "results.json").read_text())
    tables = results["electron_photon"]["tables"]
    models = tables["test set"]
    assert len(models) == 5
    for row in models.values():
        assert float(row["AUC, 30 real images"]) > 0
    peer = "boosted trees, shower shapes"
    ours, theirs = (float(models[n]["AUC"].split()[0]) for n in ("skhep_nn, compact", peer))
    difference = tables["paired difference"][f"skhep_nn, compact - {peer}"]
    assert float(difference["AUC"].split()[0]) == pytest.approx(ours - theirs, abs=2e-4)
    assert difference["wanted"] == "more than 2"
    binned = tables["skhep_nn, compact: against the deposited energy"]
    assert [row["n"] for row in binned.values()] == [50, 50]
    assert {"roc.png", "energy.png", "feature_maps.png"} < {p.name for p in tmp_path.glob("*.png")}


def test_calo_simulator():
    assert "AUC" in run("calo_simulator.py", "--images", 3000)


def test_images_speed(tmp_path):
    run(
        "images_speed.py", "--device", "cpu", "--images", 256, "--passes", 2, "--repeats", 1,
        "--auc-images", 200, "--auc-passes", 1, "--memory-gb", 0.02, "--output", tmp_path,
    )  # fmt: skip
    results = (tmp_path / "results.md").read_text()
    for text in ("HDF5", "memory map", "float32 / ours, bfloat16", "AUC"):
        assert text in results
