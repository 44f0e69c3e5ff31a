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
from skhep_nn.datasets.waveforms import make_waveforms
from skhep_nn.networks import CategoricalColumn, DenseNet
from skhep_nn.networks.calo import CaloCNN

PROJECT_ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(script, *arguments):
    command = [sys.executable, "-m", script, *map(str, arguments)]
    env = os.environ | {"MPLBACKEND": "Agg", "COLUMNS": "200"}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, cwd=PROJECT_ROOT
    )
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
        "benchmarks.higgs.job", "--events", 1500, "--members", 2, "--epochs", 1, "--seeds", 2,
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
        "benchmarks.higgs.job", "--data", path, "--members", 2, "--epochs", 2, "--seeds", 2,
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


def test_ladder(tmp_path):
    """Scores, seconds and the statements drawn from them hang together."""
    pytest.importorskip("matplotlib")
    names = [
        "single", "ensemble", "embedding", "fixing", "augmentation", "sse", "swa-constant",
        "swa-constant-fixed", "1cycle", "dense", "full-split", "bottleneck", "semi-split", "5x100-0.1",
        "single+1cycle",
    ]  # fmt: skip
    out = run(
        "benchmarks.higgs.ladder", "--events", 1500, "--members", 2, "--passes", 2, "--seeds", 2,
        "--device", "cpu", "--rows", *names, "--output", tmp_path,
    )  # fmt: skip
    assert "15 rows in" in out
    tables = figures(tmp_path, "ladder")
    ladder, shown = tables["ladder"], tables["statements to test"]
    counts = [row["parameters"] for row in ladder.values()]
    assert counts[8:13] == [33_813, 23_113, 9_303, 10_272, 23_863]  # the study's
    assert ladder["+ dense (final)"]["study: MAPA"] == "3.820 ± 0.020"
    found = json.loads((tmp_path / "results.json").read_text())["ladder"]["rounds"]
    assert list(found) == names
    assert np.ptp(found["dense"]["log-loss"]) > 0  # another split, other starting values
    single, ensemble = (found[name] for name in ("single", "ensemble"))
    row = ladder["single network"]
    seconds = single["fit_seconds"][0] / ensemble["fit_seconds"][0] - 1
    assert float(row["train +"]) == pytest.approx(seconds, abs=0.006)
    assert float(row["log-loss"].split()[0]) == pytest.approx(np.mean(single["log-loss"]), abs=6e-5)
    for metric, sign in (("log-loss", -1), ("AUC", 1)):
        line = shown[f"ensemble > single network: {metric}"]
        gains = sign * (np.array(ensemble[metric]) - single[metric])
        assert float(line["better by"]) == pytest.approx(gains.mean(), abs=6e-6)
        error = abs(gains[0] - gains[1]) / 2
        assert float(line["±"]) == pytest.approx(error, abs=6e-6)
        # Test rows are 3/7 of those to train on.
        assert float(line["± corrected"]) == pytest.approx(error * (1 + 2 * 3 / 7) ** 0.5, abs=6e-6)
    losses = {name: np.mean(found[name]["log-loss"]) for name in names if name != "dense"}
    best = min(losses, key=losses.get)
    line = shown[f"final no worse than the best other ({best}): log-loss"]
    difference = losses[best] - np.mean(found["dense"]["log-loss"])
    assert float(line["better by"]) == pytest.approx(difference, abs=6e-6)
    assert "swa-constant: renewal no worse than a fixed start: AUC" in shown
    assert len(tables["one technique alone"]) == 2


def test_ladder_under_the_conditions_of_the_challenge(tmp_path):
    path = tmp_path / "challenge.csv"
    write_challenge(path, 3000)
    out = run(
        "benchmarks.higgs.ladder", "--data", path, "--quick", "--members", 2, "--passes", 2, "--seeds", 2,
        "--rows", "ensemble", "--output", tmp_path / "out",
    )  # fmt: skip
    assert "MAPA is of the public test set" in out
    (row,) = figures(tmp_path / "out", "ladder")["ladder"].values()
    assert all(float(row[name].split()[0]) > 0.5 for name in ("MAPA", "AMS", "public"))


def test_rows_of_the_ladder(monkeypatch):
    """Accepted techniques accumulate, rejected ones leave no trace, and times have one baseline."""
    from benchmarks.higgs import ladder_rows as ladder

    rows = ladder.ladder(one_cycle=15, members=10)
    assert len(rows) == 31
    for name in rows:
        ladder.estimator(rows, name)  # all of it are parameters
    final = ladder.parameters(rows, "dense")
    assert (final["n_members"], final["activation"], final["dense"]) == (10, "swish", True)
    assert "averaging" not in final
    assert not rows["augmentation"].aligned
    assert ladder.parameters(rows, "fixing") == ladder.parameters(rows, "embedding")
    assert final["max_epochs"] == 15
    assert ladder.parameters(rows, "sgdr")["max_epochs"] == 31  # 1 + 2 + 4 + 8 + 16
    alone = ladder.parameters(rows, "single+dense")
    assert alone == ladder.parameters(rows, "single") | dict(rows["dense"].changes)
    # Table 6 by way of table 4, where it is 2.03.
    assert ladder.published_increase(rows, "swa-constant", "train") == pytest.approx(2.03, abs=0.02)
    assert ladder.published_increase(rows, "fixing", "train") is None


def test_speed_on_tables(tmp_path):
    run(
        "benchmarks.speed.job", "--device", "cpu", "--events", 400, "--predict-rows", 200, "--repeats", 1,
        "--passes", 2, "--output", tmp_path,
    )  # fmt: skip
    train = figures(tmp_path, "train")
    seconds = {k: v["median (s)"] for k, v in train["seconds per member and epoch"].items()}
    assert min(seconds.values()) > 0
    ratio = train["ratios"]["skorch / ours, 10 members"]
    assert ratio["ratio"] == pytest.approx(seconds["skorch"] / seconds["ours, 10 members"])
    assert ratio["wanted"] == "at least 5"
    assert "skorch / ours" in figures(tmp_path, "predict")["ratios"]
    small = figures(tmp_path, "small")
    assert len(small["fit of few rows, 60 steps"]) == 3


def test_speed_of_the_reference_job_and_at_scale(tmp_path):
    run(
        "benchmarks.speed.job", "reference", "scale", "--device", "cpu", "--reference-events", 300, 300,
        "--members", 2, "--passes", 2, "--scale-base", 200, 2, 4, "--scale-rows", 200, 400,
        "--scale-members", 2, "--scale-features", 4, "--output", tmp_path,
    )  # fmt: skip
    reference = figures(tmp_path, "reference")["first of a process"]
    assert reference["fit (s)"]["2 members"] > 5 * reference["later epoch (s)"]["2 members"]
    scale = figures(tmp_path, "scale")
    assert list(scale["rows"]) == ["200", "400"]
    assert scale["rows"]["400"]["data + model (MB)"] > scale["rows"]["200"]["data + model (MB)"]


def test_speed_on_images(tmp_path):
    run(
        "benchmarks.speed.job", "images", "--device", "cpu", "--images", 40, "--image-batch", 20,
        "--repeats", 1, "--passes", 2, "--output", tmp_path,
    )  # fmt: skip
    tables = figures(tmp_path, "images")
    assert len(tables["calorimeter images, training, rows a second"]) >= 3


def test_memory_above_the_data(tmp_path):
    run("benchmarks.speed.job", "memory", "--memory-megabytes", 20, "--output", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    table = results["memory"]["tables"]["rise of the resident memory"]
    assert len(table) == 8
    for row in table.values():
        assert all(-20 < row[name] < 300 for name in ("fit (MB)", "predict (MB)"))


def test_ladder_refuses_what_it_cannot_do(monkeypatch, capsys):
    for name in ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # so that it is put back
    from benchmarks.higgs import ladder as higgsml_ladder

    monkeypatch.setattr(sys, "argv", ["benchmarks.higgs.ladder", "--rows", "dense", "denser"])
    with pytest.raises(SystemExit):
        higgsml_ladder.parse()
    assert "no row is named 'denser'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["trains"], "no part is named 'trains'"), (["stream"], "needs --device cuda")],
)
def test_speed_refuses_what_it_cannot_do(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # so that it is put back
    from benchmarks.speed import job as speed

    monkeypatch.setattr(sys, "argv", ["benchmarks.speed.job", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit):
        speed.parse()
    assert message in capsys.readouterr().err


def test_networks_written_by_hand_are_ours(monkeypatch):
    """What speed is compared on is the same function of the same parameters."""
    from benchmarks.common import timing as speed_common
    from benchmarks.speed import images as speed_images

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
    out = run("benchmarks.higgs.simulator", "--data", path, "--events", 3000)
    assert "DER_mass_MMC" in out


def test_ion_energies(tmp_path):
    """The real part runs on a file of the same form."""
    pytest.importorskip("matplotlib")
    tracks = make_ion_tracks(48, image_shape=(20, 20), random_state=0)
    path = tmp_path / "tracks.npz"
    np.savez(path, X=tracks.images, energy_keV=tracks.target, is_electron=tracks.is_electron)
    out = run(
        "benchmarks.images.ion_energy", "--data", path, "--images", 60, "--epochs", 1, "--folds", 2, "--cv", 2,
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


def test_decorrelation(tmp_path):
    out = run(
        "benchmarks.higgs.decorrelation", "--events", 1500, "--epochs", 2, "--seeds", 2, "--strengths", 0, 30,
        "--bins", 10, "--device", "cpu", "--output", tmp_path,
    )  # fmt: skip
    assert "background events pass" in out
    tables = figures(tmp_path, "decorrelation")
    assert list(tables["mean"]) == ["mass left out", "strength 0", "strength 30"]
    assert tables["mean"]["strength 0"]["AUC"] > tables["mean"]["strength 30"]["AUC"]
    for row in tables["mean"].values():
        assert 0 < row["background efficiency"] < 1
        assert 0 <= row["divergence (bits)"] < 1
        assert row["fit (s)"] > 0
    rounds = json.loads((tmp_path / "results.json").read_text())["decorrelation"]["rounds"]
    assert rounds["splits"]["seed"] == [0, 0, 0, 1, 1, 1]


def test_electron_or_photon(tmp_path):
    """On simulated images, and on few real ones, here images of a file of the same form."""
    h5py = pytest.importorskip("h5py")
    showers = make_calo_showers(30, random_state=0)
    for label, name in enumerate(("Photon", "Electron")):
        with h5py.File(tmp_path / f"Single{name}Pt50_few.hdf5", "w") as file:
            file["X"] = showers.images[showers.target == label]
            file["y"] = showers.target[showers.target == label]
    out = run(
        "benchmarks.images.electron_photon", "--data", tmp_path, "--images", 200, "--test-images", 100,
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
    assert "AUC" in run("benchmarks.images.simulator", "--images", 3000)


def test_images_speed(tmp_path):
    run(
        "benchmarks.speed.images_from_files", "--device", "cpu", "--images", 256, "--passes", 2, "--repeats", 1,
        "--auc-images", 200, "--auc-passes", 1, "--memory-gb", 0.02, "--output", tmp_path,
    )  # fmt: skip
    results = (tmp_path / "results.md").read_text()
    for text in ("HDF5", "memory map", "float32 / ours, bfloat16", "AUC"):
        assert text in results


def tiny_waveforms(*arguments):
    return run(
        "benchmarks.waveforms.job", *arguments, "--device", "cpu", "--n-train", 200, "--n-test", 100,
        "--points", 400, "--epochs", 2, "--school-epochs", 1, "--draws", 10, "--bins", 2,
    )  # fmt: skip


def test_waveforms(tmp_path):
    """On simulated traces, and on real ones, here a file of the same form."""
    pytest.importorskip("matplotlib")
    signals = make_waveforms(60, n_points=300, n_pulses=(1, 2), random_state=0)
    traces = signals.traces.astype(np.float16)
    traces[[7, 20], 100] = -np.inf
    np.savez(tmp_path / "pulses.npz", X=traces, y=signals.n_pulses, energy=signals.energy.sum(1))
    out = tiny_waveforms(
        "--data", tmp_path / "pulses.npz", f"{tmp_path / 'pulses.npz'}:energy", "--folds", 2,
        "--real-epochs", 1, "--speed-traces", 100, "--passes", 1, "--repeats", 1,
        "--memory-gb", 0.01, "--output", tmp_path,
    )  # fmt: skip
    assert "Dropped: rows 7, 20. The loader says of them: 2 of 60 traces" in out
    tables = figures(tmp_path, "separation")
    ours, peers = "skhep_nn, default", {"boosted trees, pulse shapes", "skhep_nn, preset school"}
    scores = tables["test set"]
    assert {ours, "plain PyTorch loop, default network"} | peers <= set(scores)
    for name, row in scores.items():
        assert row["MSE (1e-4)"] == pytest.approx(
            (row["bias (1e-3)"] ** 2 + row["spread (1e-3)"] ** 2) / 100
        )
        if name != ours:
            difference = tables["paired differences"][f"{ours} against {name}"]
            lower = row["MSE (1e-4)"] - scores[ours]["MSE (1e-4)"]
            assert difference["MSE lower by (1e-4)"] == pytest.approx(lower)
            errors = difference["standard errors"] * difference["± (1e-4)"]
            assert errors == pytest.approx(lower)
    by_d = tables["spread of residuals against d"]
    assert sum(row["n"] for row in by_d.values()) == 100
    assert "Training took" in out
    classes = figures(tmp_path, "pulses")
    for caption in ("d < 0.01", "any d"):
        assert {ours, "boosted trees, pulse shapes"} < set(classes[caption])
        assert all(0 <= row["AUC"] <= 1 for row in classes[caption].values())
    assert sum(row["n"] for row in classes["any d: area against d"].values()) <= 50
    assert (
        "by hand, float32 / ours, float32"
        in figures(tmp_path, "rates")["training, ratios of seconds"]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    peak = results["memory"]["tables"]["peak"]
    assert all(
        size < limit
        for size, limit in zip(
            peak["peak beyond start (GB)"].values(), peak["1.3 x data + 1 GB"].values(), strict=True
        )
    )
    assert len(figures(tmp_path, "real_pulses")["classes"]) == 4
    values = figures(tmp_path, "real_pulses_energy")["values"]
    assert {ours, "height of the step by hand"} < set(values)


def test_waveforms_grid_search(tmp_path):
    pytest.importorskip("matplotlib")
    tiny_waveforms(
        "search", "--grid-traces", 30, "--grid-points", 60, "--grid-epochs", 1, "--output", tmp_path,
    )  # fmt: skip
    table = list(figures(tmp_path, "search")["candidates"].values())
    assert len(table) == 36
    scores = [row["MSE (1e-4)"] for row in table]
    assert scores == sorted(scores)
    assert {(row["batch_size"], row["channels"], row["kernels"]) for row in table} == {
        (b, c, k) for b in (16, 32, 128) for c in (16, 32) for k in (3, 9)
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["pulse"], "no part is named 'pulse'"), (["real"], "the part 'real' needs --data")],
)
def test_waveforms_refuses_what_it_cannot_do(arguments, message, monkeypatch, capsys):
    for name in ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # so that it is put back
    from benchmarks.waveforms import job as waveforms

    monkeypatch.setattr(sys, "argv", ["benchmarks.waveforms.job", *arguments])
    with pytest.raises(SystemExit):
        waveforms.parse()
    assert message in capsys.readouterr().err


def test_pulse_shapes(monkeypatch):
    """Shapes of pulses that are drawn by hand are what one reads off them."""
    from benchmarks.waveforms.pulse_shapes import pulse_shapes, step_height

    time = np.arange(1000)
    noise = 0.01 * np.random.default_rng(0).normal(size=(4, 1000))

    def pulse(height, place, width):
        return height * np.exp(-0.5 * ((time - place) / width) ** 2)

    both = pulse(2, 400, 10) + pulse(1, 500, 10)
    traces = np.stack([pulse(2, 400, 20), both, pulse(-2, 400, 20), 5 + pulse(2, 400, 20)]) + noise
    shapes = pulse_shapes(traces)
    single = shapes.iloc[0]
    assert single["height"] == pytest.approx(2, rel=0.02)
    assert single["area"] == pytest.approx(2 * 20 * np.sqrt(2 * np.pi), rel=0.05)
    assert single["mean time"] == pytest.approx(400, abs=1)
    assert single["width"] == pytest.approx(20, rel=0.05)
    assert single["kurtosis"] == pytest.approx(3, abs=0.4)
    assert single["width at 50%"] == pytest.approx(20 * 2.355, abs=3)
    assert single["from 10% to 90%"] == pytest.approx(20 * 2 * 1.2816, abs=2)
    assert shapes["peaks"].tolist() == [1, 2, 1, 1]
    assert shapes["between peaks"].tolist() == pytest.approx([0, 100, 0, 0], abs=2)
    assert shapes["second peak"][1] == pytest.approx(1, rel=0.1)
    assert shapes["baseline"].tolist() == pytest.approx([0, 0, 0, 5], abs=0.02)
    for other in (2, 3):  # upside down, and on a pedestal
        for name in ("height", "area", "mean time", "width"):
            assert shapes[name][other] == pytest.approx(single[name], rel=0.06), name
    whole = shapes[[name for name in shapes if name.startswith("trace, bin")]]
    assert np.allclose(whole.sum(axis=1), 1)
    two_channels = pulse_shapes(np.stack([traces, 2 * traces], axis=2))
    assert np.allclose(two_channels["1: height"], 2 * shapes["height"], rtol=1e-3)
    step = np.where(time < 500, 0.0, 3.0) + noise
    assert step_height(step, window=200, gap=20) == pytest.approx(3, rel=0.01)


def test_architecture_search(tmp_path):
    """What is said of a search is what its candidates have shown, and the figures can be drawn later."""
    pytest.importorskip("matplotlib")
    script, small = (
        "benchmarks.higgs.architecture_search",
        ("--quick", "--events", 1500, "--epochs", 1),
    )
    out = run(
        script, *small, "--candidates", 6, "--per-shape", 2, "--members", 2, "--finalist-members", 3,
        "--window", 8_000, 30_000, "--device", "cpu", "--output", tmp_path,
    )  # fmt: skip
    assert "No candidate failed" in out
    tables = figures(tmp_path, "samples")
    results = json.loads((tmp_path / "results.json").read_text())
    candidates = results["samples"]["rounds"]["candidates"]
    tried = {name: row["value"] for name, row in tables["candidates tried"].items()}
    assert tried["candidates"] == len(candidates["mean_test_score"]) == 6
    assert tried["architectures (depth, width, growth rate)"] == 3
    assert tried["networks trained"] == 12
    assert 8_000 <= tried["fewest free parameters"] <= tried["most free parameters"] <= 30_000
    assert tried["seconds of the search"] == pytest.approx(
        sum(candidates["mean_fit_time"]), rel=0.2
    )
    losses = [
        float(row["validation loss"].split()[0]) for row in tables["best candidates"].values()
    ]
    expected = sorted(-np.array(candidates["mean_test_score"]))[:5]
    assert losses == pytest.approx(expected, abs=6e-6)
    effects = figures(tmp_path, "dependence")["effects"]
    assert {"depth", "width", "growth_rate"} <= set(effects)
    finalists = results["finalists"]["tables"]["finalists"]
    assert list(finalists) == ["best of the search", "optimum of the model", "the study's"]
    assert finalists["the study's"]["parameters"] == 23_113
    folds = results["finalists"]["rounds"]["validation loss"]
    gain = np.mean(folds["best of the search"]) - np.mean(folds["the study's"])
    told = finalists["best of the search"]["validation, less the study's"]
    assert float(told.split()[0]) == pytest.approx(gain, abs=6e-6)
    run(script, "--redraw", tmp_path / "results.json", "--output", tmp_path / "again")
    names = {"samples.png", "dependence.png", "size.png", "progress.png"}
    for folder in (tmp_path, tmp_path / "again"):
        assert {path.name for path in folder.glob("*.png")} == names


def test_architecture_search_tells_of_failures(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # so that it is put back
    from benchmarks.higgs import architecture_search as script

    arguments = "--quick --events 1500 --epochs 1 --candidates 6 --members 2 --device cpu"
    monkeypatch.setattr(sys, "argv", ["benchmarks.higgs.architecture_search", *arguments.split()])
    monkeypatch.setitem(script.SPACE, "schedule__max_lr", [1e-2, 1e30])
    args = script.parse()
    train, _ = script.split(args)
    found = script.run_search(args, train)
    n_failed = 6 - len(script.scored(found.candidates))
    assert 0 < n_failed < 6
    assert sum(found.reasons.values()) == n_failed
    part = script.samples_part(args, found, train, "simulated")
    assert part.tables["candidates tried"]["value"]["candidates without a score"] == n_failed
    assert f"{n_failed} of 6 have no score" in part.notes[-1]
    assert f"{n_failed} x " in part.notes[-1]
