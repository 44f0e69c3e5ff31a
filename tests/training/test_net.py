"""The training loop against the simple version, and skorch's callbacks on top of it."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from skorch.callbacks import (
    BatchScoring,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
    ProgressBar,
)
from torch.nn import functional as F

from skhep_nn import Constant, DenseNetClassifier, DenseNetRegressor, OneCycle
from skhep_nn.estimators import base as _base
from skhep_nn.networks import DenseNet
from skhep_nn.training import batches as _batches
from skhep_nn.training.batches import EventDataset, TrainBatches, ValidBatches
from skhep_nn.training.cpu_parallel import CpuPass
from skhep_nn.training.passes import EagerPass
from skhep_nn.utils import torch_state as _torch_state
from skhep_nn.utils.folds import Fold


@pytest.fixture
def events():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(600, 4)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=600) > 0.4).astype(int)
    return X, y, rng.uniform(0.2, 3, 600)


def classifier(**params):
    return DenseNetClassifier(**{"max_epochs": 3, "batch_size": 64, "random_state": 0} | params)


def test_one_member_is_the_plain_torch_loop(events):
    """Same starting state, same batches: the loop everyone writes by hand gives the same weights."""
    X, y, w = events
    model = classifier(schedule=Constant(1e-2)).fit(X, y, sample_weight=w)
    seeds = np.random.SeedSequence(np.random.RandomState(0).randint(np.iinfo(np.int32).max)).spawn(
        3
    )
    network = DenseNet(4)
    network.reset_parameters(torch.Generator().manual_seed(int(seeds[2].generate_state(1)[0])))
    w = w / w.mean()
    mean = np.average(X.astype(float), axis=0, weights=w)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=w))
    network.input_stage.mean.copy_(torch.from_numpy(mean))
    network.input_stage.scale.copy_(torch.from_numpy(scale))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    rng = np.random.default_rng(seeds[2])
    Xt, yt, wt = torch.from_numpy(X), torch.tensor(y).float(), torch.tensor(w).float()
    for _ in range(3):
        for rows in np.array_split(rng.permutation(600), 10):
            optimiser.zero_grad()
            losses = F.binary_cross_entropy_with_logits(
                network(Xt[rows])[:, 0], yt[rows], reduction="none"
            )
            (wt[rows] * losses).mean().backward()
            optimiser.step()
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(
            model.ensemble_.states[name][0], value.numpy(), rtol=2e-4, atol=2e-5, err_msg=name
        )


def test_stacked_members_equal_members_trained_one_by_one(events, monkeypatch):
    X, y, w = events
    stacked = classifier(n_members=3).fit(X, y, sample_weight=w)
    folds = stacked.net_.folds
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    seeds = np.random.SeedSequence(seed).spawn(5)
    for k in range(3):
        alone = classifier()
        monkeypatch.setattr(_base, "make_folds", lambda *_, k=k, **__: [folds[k]])
        make_job = alone._job
        monkeypatch.setattr(
            alone,
            "_job",
            lambda *data, k=k, make_job=make_job: make_job(*data)._replace(seeds=[seeds[2 + k]]),
        )
        alone.fit(X, y, sample_weight=w)
        for name, value in alone.ensemble_.states.items():
            np.testing.assert_allclose(
                stacked.ensemble_.states[name][k], value[0], rtol=1e-5, atol=1e-6, err_msg=name
            )


class _Doubled:
    """Augmenter that makes numbers of what may have been bytes."""

    def transform_tensor(self, X, generator):
        return 2.0 * X.float()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_augmented_whole_numbers_do_not_wrap_around(dtype):
    X = torch.full((600, 2), 200).to(dtype)
    data = EventDataset(X, torch.arange(600), torch.ones(600))
    rows, rngs = [np.arange(600)] * 2, [np.random.default_rng(k) for k in range(2)]
    generators = [torch.Generator() for _ in range(2)]
    for batch in TrainBatches(data, rows, 64, rngs, augmenter=_Doubled(), generators=generators):
        assert (batch.X == 400).all()
    for batch in TrainBatches(data, rows, 64, rngs):
        assert batch.X.dtype == dtype


def test_batches_use_every_row_once_and_are_of_equal_size():
    n = 1003
    data = EventDataset(torch.arange(n).float()[:, None], torch.arange(n), torch.ones(n))
    rows = [np.arange(0, 1000), np.arange(3, 1003), np.arange(0, 1003)]
    batches = TrainBatches(data, rows, 256, [np.random.default_rng(k) for k in range(3)])
    for _ in range(2):
        seen = [[], [], []]
        for batch in batches:
            sizes = (batch.weight > 0).sum(1)
            assert sizes.max() <= 256
            assert sizes.max() - sizes.min() <= 1
            torch.testing.assert_close(batch.weight.sum(1), torch.ones(3))
            for k in range(3):
                assert len(set(batch.y[k].tolist())) == batches.width
                seen[k].extend(batch.y[k][batch.weight[k] > 0].tolist())
        for k in range(3):
            assert sorted(seen[k]) == rows[k].tolist()
            assert seen[k] != rows[k].tolist()


def test_threads_draw_the_same_orders(monkeypatch):
    monkeypatch.setattr("skhep_nn.training.batches._WORTH_THREADS", 0)
    data = EventDataset(torch.zeros(500, 1), torch.zeros(500), torch.ones(500))
    rows = [np.arange(k, 400 + k) for k in range(5)]
    plans = [
        TrainBatches(
            data, rows, 64, [np.random.default_rng(k) for k in range(5)], n_workers=n
        ).draw()
        for n in (1, 3)
    ]
    assert torch.equal(*plans)


def test_validation_loss_is_the_weighted_mean(events):
    X, y, w = events
    model = classifier(n_members=3, class_weight="balanced").fit(X, y, sample_weight=w)
    last = model.history_.query("epoch == 2").set_index("member")
    balanced = w * np.where(y == 1, w.sum() / w[y == 1].sum(), w.sum() / w[y == 0].sum())
    for k, fold in enumerate(model.net_.folds):
        best = model.history_.query("member == @k").valid_loss.min()
        logits = model.ensemble_.member(k)(torch.from_numpy(X[fold.valid]))[:, 0]
        losses = F.binary_cross_entropy_with_logits(
            logits, torch.tensor(y[fold.valid]).float(), reduction="none"
        ).numpy()
        assert best == pytest.approx(np.average(losses, weights=balanced[fold.valid]), rel=1e-5)
        assert last.valid_loss[k] >= best
    expected = 1 / model.history_.groupby("member").valid_loss.min()
    np.testing.assert_allclose(model.ensemble_.weights, expected / expected.sum())


def test_valid_batches_cover_the_folds_with_weights_that_sum_to_one():
    data = EventDataset(torch.zeros(5000, 1), torch.arange(5000), torch.rand(5000) + 0.1)
    rows = [np.arange(0, 1700), np.arange(1700, 3333), np.arange(3333, 5000)]
    total, seen = torch.zeros(3), [[], [], []]
    for batch, used in ValidBatches(data, rows):
        total += batch.weight.sum(1)
        for k in range(3):
            seen[k].extend(batch.y[k][used[k]].tolist())
    torch.testing.assert_close(total, torch.ones(3))
    assert [s == r.tolist() for s, r in zip(seen, rows, strict=True)] == [True] * 3


def test_best_pass_is_restored_for_each_member(events):
    """A learning rate that ruins the network late: the early state must come back."""

    class Ruin(Constant):
        def rates(self, epoch, **kwargs):
            rates = super().rates(epoch, **kwargs)
            return rates._replace(lr=rates.lr * (1 if epoch < 5 else 1e3))

    X, y, w = events
    model = classifier(n_members=3, schedule=Ruin(1e-2), max_epochs=8).fit(X, y, sample_weight=w)
    losses = model.history_.pivot(index="epoch", columns="member", values="valid_loss")
    assert (losses.loc[7] > losses.min()).all()
    assert (model.net_.best_.epoch < 5).all()
    np.testing.assert_allclose(model.net_.best_.loss, losses.min())


def test_early_stopping_stops_each_member_by_itself(events):
    X, y, _ = events
    model = classifier(n_members=3, schedule=Constant(0.05), early_stopping=3, max_epochs=200)
    model.fit(X, y)
    losses = model.history_.pivot(index="epoch", columns="member", values="valid_loss")
    assert len(losses) < 200
    for k in range(3):
        best = np.inf
        for epoch, loss in enumerate(losses[k]):
            if loss < best:
                best, best_epoch = loss, epoch
            elif epoch - best_epoch >= 3:
                break
        assert model.net_.best_.epoch[k] == best_epoch
    assert len(losses) == model.net_.best_.epoch.max() + 4


def test_one_member_holds_rows_back_only_for_early_stopping(events):
    X, y, _ = events
    assert classifier().fit(X, y).history_.valid_loss.isna().all()
    model = classifier(early_stopping=True, validation_fraction=0.2).fit(X, y)
    assert len(model.net_.folds[0].valid) == 120
    assert model.history_.valid_loss.notna().all()


def test_folds_are_stratified_by_class_within_a_column(events):
    X, y, _ = events
    X = np.column_stack([X, np.arange(600) % 4])
    model = classifier(n_members=5, stratify_by=4, max_epochs=1).fit(X, y)
    valid = np.concatenate([fold.valid for fold in model.net_.folds])
    assert sorted(valid) == list(range(600))
    groups = y * 4 + X[:, 4]
    for fold in model.net_.folds:
        assert sorted(np.concatenate(fold)) == list(range(600))
        counts = pd.Series(groups[fold.valid]).value_counts().reindex(np.unique(groups))
        exact = pd.Series(groups).value_counts().reindex(np.unique(groups)) / 5
        assert (counts - exact).abs().max() <= 1


def test_class_balance_gives_both_classes_the_same_total(events):
    X, y, w = events
    w = np.where(y == 1, w * 1e-3, w)
    seen = []

    class Record(Constant):
        pass

    model = classifier(class_weight="balanced", schedule=Record(), max_epochs=1)
    make_settings = model._settings
    model._settings = lambda job: (seen.append(job.weight), make_settings(job))[1]
    model.fit(X, y, sample_weight=w)
    weight = seen[0]
    assert weight[y == 1].sum() == pytest.approx(weight[y == 0].sum())
    np.testing.assert_allclose(weight[y == 1] / weight[y == 1].sum(), w[y == 1] / w[y == 1].sum())
    assert weight.mean() == pytest.approx(1)


def test_scale_of_the_weights_does_not_matter(events):
    X, y, w = events
    p = classifier().fit(X, y, sample_weight=w).predict_proba(X)
    q = classifier().fit(X, y, sample_weight=w * 1e-9).predict_proba(X)
    np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


def test_an_event_of_weight_zero_does_not_act(events):
    X, y, w = events
    w[::2] = 0
    y2 = y.copy()
    y2[::2] = 1 - y2[::2]
    p = classifier().fit(X, y, sample_weight=w).predict_proba(X)
    np.testing.assert_array_equal(p, classifier().fit(X, y2, sample_weight=w).predict_proba(X))


def test_negative_weights_cancel_events(events):
    """A pair of events with weights w and -w adds nothing to any gradient of a full batch."""
    X, y, _ = events
    X2 = np.vstack([X, X[:50], X[:50]])
    y2 = np.concatenate([y, 1 - y[:50], 1 - y[:50]])
    w2 = np.concatenate([np.ones(600), np.ones(50), -np.ones(50)])
    settings = {"batch_size": 10_000, "schedule": Constant(1e-2), "max_epochs": 20}
    plain = classifier(**settings)
    paired = classifier(**settings)
    for model in (plain, paired):  # the input statistics use |w|: take them out of the comparison
        model._input_state = lambda *args: {}
    p = plain.fit(X, y).predict_proba(X)
    q = paired.fit(X2, y2, sample_weight=w2).predict_proba(X)
    np.testing.assert_allclose(p, q, atol=1e-3)


class TestSkorchCallbacks:
    def test_epoch_scoring_sees_what_the_members_were_validated_on(self, events):
        X, y, _ = events
        model = classifier(
            n_members=3,
            callbacks=[
                EpochScoring("roc_auc", name="auc", lower_is_better=False),
                EpochScoring("accuracy", name="acc", lower_is_better=False, on_train=True),
                BatchScoring("neg_log_loss", name="log_loss", lower_is_better=False),
            ],
        ).fit(X, y)
        history = model.net_.history
        assert 0.8 < history[-1, "auc"] <= 1
        assert 0.7 < history[-1, "acc"] <= 1
        assert history[-1, "log_loss"] == pytest.approx(-history[-1, "valid_loss"], rel=0.05)

    def test_scoring_without_cache_predicts_with_the_ensemble(self, events):
        X, _, _ = events
        scoring = EpochScoring("r2", use_caching=False, lower_is_better=False)
        model = DenseNetRegressor(
            max_epochs=80, early_stopping=80, callbacks=[scoring], random_state=0
        ).fit(X, X[:, 0] * 5 + 3)
        assert model.net_.history[-1, "r2"] > 0.9

    def test_batch_callbacks_do_not_change_the_result(self, events):
        X, y, _ = events

        class Watch(EpochScoring):
            pass

        plain = classifier(n_members=2).fit(X, y)
        watched = classifier(n_members=2, callbacks=[Watch("accuracy", on_train=True)]).fit(X, y)
        assert isinstance(plain.net_.pass_, CpuPass)
        assert isinstance(watched.net_.pass_, EagerPass)
        np.testing.assert_allclose(plain.predict_proba(X), watched.predict_proba(X), atol=2e-6)

    def test_early_stopping_and_checkpoint(self, events, tmp_path):
        X, y, _ = events
        checkpoint = Checkpoint(dirname=tmp_path, monitor="valid_loss_best")
        model = classifier(
            early_stopping=100,
            schedule=Constant(0.05),
            max_epochs=100,
            callbacks=[EarlyStopping(patience=3), checkpoint],
        ).fit(X, y)
        assert len(model.history_) < 100
        assert (tmp_path / "params.pt").exists()

    @pytest.mark.parametrize("kind", [EarlyStopping, Checkpoint])
    def test_what_reads_validation_losses_says_how_to_get_them(self, events, kind, tmp_path):
        X, y, _ = events
        callback = kind(dirname=tmp_path) if kind is Checkpoint else kind()
        with pytest.raises(ValueError, match=rf"{kind.__name__} reads .* set early_stopping"):
            classifier(n_members=1, callbacks=[callback]).fit(X, y)

    def test_other_keys_that_are_missing_are_errors_of_the_callback(self, events):
        X, y, _ = events
        with pytest.raises(KeyError, match="no_such_loss"):
            classifier(callbacks=[EarlyStopping(monitor="no_such_loss")]).fit(X, y)

    def test_learning_rate_scheduler_has_the_last_word_under_a_constant_schedule(self, events):
        X, y, _ = events
        scheduler = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.1)
        model = classifier(schedule=Constant(1e-2), callbacks=[scheduler]).fit(X, y)
        assert model.net_.optimizer_.param_groups[0]["lr"] == pytest.approx(1e-5)

    def test_gradient_clipping_acts(self, events):
        X, y, _ = events
        optimiser = {"optimizer": "sgd", "schedule": Constant(1e-2)}
        free = classifier(**optimiser).fit(X, y)
        clipped = classifier(**optimiser, callbacks=[GradientNormClipping(1e-9)]).fit(X, y)
        start = classifier(**optimiser | {"schedule": Constant(1e-12)}).fit(X, y)
        for name in ("hidden.0.weight", "output.weight"):
            a, b, c = (m.ensemble_.states[name] for m in (clipped, start, free))
            np.testing.assert_allclose(a, b, atol=1e-6)
            assert np.abs(c - b).max() > 1e-3

    def test_the_users_callbacks_are_left_alone(self, events):
        X, y, _ = events
        scoring = EpochScoring("accuracy", on_train=True)
        before = dict(vars(scoring))
        classifier(callbacks=[scoring]).fit(X, y)
        assert vars(scoring) == before

    def test_progress_bar(self, events, capsys):
        pytest.importorskip("tqdm")
        X, y, _ = events
        classifier(callbacks=[ProgressBar(detect_notebook=False)]).fit(X, y)
        assert "/10" in capsys.readouterr().err

    def test_without_verbose_callbacks_do_not_print_though_print_is_replaced(
        self, events, capsys, monkeypatch
    ):
        X, y, *_ = events
        stopping = EarlyStopping(patience=1, threshold=10)
        monkeypatch.setattr("builtins.print", partial(print))
        model = classifier(verbose=0, early_stopping=9, max_epochs=4, callbacks=[stopping])
        model.fit(X, y)
        assert capsys.readouterr().out == ""
        model.set_params(verbose=1).fit(X, y)
        assert "Stopping since" in capsys.readouterr().out

    def test_verbose_shows_the_table_of_passes(self, events, capsys):
        X, y, _ = events
        classifier(verbose=1).fit(X, y)
        assert "train_loss" in capsys.readouterr().out
        classifier(verbose=0).fit(X, y)
        assert capsys.readouterr().out == ""


def test_a_keyboard_interrupt_of_the_user_is_not_swallowed(events):
    X, y, _ = events

    class Interrupt(Constant):
        def rates(self, epoch, **kwargs):
            if epoch == 1:
                raise KeyboardInterrupt
            return super().rates(epoch, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        classifier(schedule=Interrupt()).fit(X, y)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_no_weight_decay_is_none(events, optimizer):
    """Not even that which torch's AdamW has by default."""
    X, y, _ = events
    net = classifier(optimizer=optimizer, max_epochs=1).fit(X, y).net_
    assert net.optimizer_.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", torch.optim.NAdam])
def test_optimisers(events, optimizer):
    X, y, _ = events
    schedule = OneCycle(max_lr=0.1 if optimizer == "sgd" else 1e-2)
    model = classifier(optimizer=optimizer, max_epochs=10, schedule=schedule).fit(X, y)
    assert model.score(X, y) > 0.85


def test_weight_decay_shrinks_weights(events):
    X, y, _ = events
    size = [
        np.abs(classifier(weight_decay=d).fit(X, y).ensemble_.states["hidden.3.weight"]).mean()
        for d in (0.0, 1.0)
    ]
    assert size[1] < 0.9 * size[0]


def test_bfloat16_is_close_to_float32(events):
    X, y, _ = events
    exact = classifier(max_epochs=10).fit(X, y)
    rough = classifier(max_epochs=10, precision="bfloat16").fit(X, y)
    assert abs(exact.score(X, y) - rough.score(X, y)) < 0.03
    assert not np.array_equal(exact.predict_proba(X), rough.predict_proba(X))


def test_history_is_tidy(events):
    X, y, _ = events
    history = classifier(n_members=2).fit(X, y).history_
    columns = ["member", "epoch", "train_loss", "valid_loss", "lr", "momentum", "seconds"]
    assert list(history.columns) == columns
    assert len(history) == 6
    assert (history.seconds > 0).all()
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[0]


def test_fold_is_a_pair_of_row_numbers():
    fold = Fold(np.array([1]), np.array([2]))
    assert fold.train[0] == 1
    assert fold.valid[0] == 2


def test_counts_of_16_bits_reach_the_network_on_a_gpu(monkeypatch):
    """Torch gathers none there; the detour by signed numbers of as many bits is the same anywhere."""
    for module in (_batches, _torch_state):
        monkeypatch.setattr(module, "only_stored", lambda rows: rows.dtype == torch.uint16)
    X = torch.tensor([[0, 1], [40_000, 65_535], [7, 32_768]]).to(torch.uint16)
    data = EventDataset(X, torch.arange(3), torch.ones(3))
    index = torch.tensor([[2, 1], [0, 1]])
    batch = data.gather(index, torch.ones(2, 2))
    assert batch.X.dtype == torch.float32
    torch.testing.assert_close(batch.X, X.float()[index])
    torch.testing.assert_close(data.gather(index, torch.ones(2, 2), X).X, X.float())
