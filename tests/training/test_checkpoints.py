"""Early stopping and the best epoch of each member."""

import numpy as np
import pytest

from skhep_nn import Constant, DenseNetRegressor
from tests.small_fits import Script, quick


def scripted(values, *, early_stopping, **params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2)).astype(np.float32)
    y = np.where(np.arange(90) % 2, 1.0, -1.0)
    return quick(
        DenseNetRegressor,
        n_members=len(values),
        schedule=Constant(1e-12),  # the script alone moves the network
        early_stopping=early_stopping,
        callbacks=[Script(values)],
        max_epochs=40,
        **params,
    ).fit(X, y)


class TestEarlyStopping:
    def test_a_stopped_member_stays_at_its_best_pass(self):
        """It gets better again while the other one is still trained: too late."""
        late = [3, 2, 4, 4, 1, 0.5, 0.1]
        steady = [3, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 9]
        model = scripted([late, steady], early_stopping=2)
        losses = model.history_.pivot(index="epoch", columns="member", values="valid_loss")
        assert len(losses) == 9
        assert losses[0].idxmin() == 6
        np.testing.assert_array_equal(model.net_.best_.epoch, [1, 6])
        np.testing.assert_allclose(model.ensemble_.states["output.bias"][:, 0], [2, 2.4], atol=1e-6)
        best = np.array([losses.loc[1, 0], losses.loc[6, 1]])
        np.testing.assert_allclose(model.ensemble_.weights, (1 / best) / (1 / best).sum())

    @pytest.mark.parametrize("patience", [1, 2, 4])
    def test_patience_is_counted_from_the_best_pass(self, patience):
        """Worse passes just short of the patience, then a better one: the count starts again."""
        values = [3] + [5] * (patience - 1) + [2] + [5] * (patience - 1) + [1] + [5]
        model = scripted([values, values], early_stopping=patience)
        assert model.history_.epoch.max() == 3 * patience
        np.testing.assert_array_equal(model.net_.best_.epoch, [2 * patience] * 2)

    def test_an_equal_loss_is_no_better_one(self):
        model = scripted([[2.0], [2.0]], early_stopping=3)
        assert model.history_.epoch.max() == 3
        np.testing.assert_array_equal(model.net_.best_.epoch, [0, 0])

    @pytest.mark.parametrize("value", [True, np.True_])
    def test_true_means_ten_passes(self, value):
        model = scripted([[3, 2, 4], [3, 2, 4]], early_stopping=value)
        assert model.history_.epoch.max() == 11

    @pytest.mark.filterwarnings("ignore:the fit is no better than a constant")
    def test_without_it_the_best_pass_is_kept_however_late(self):
        late = [3, 2] + [4] * 30 + [1] + [4]
        model = scripted([late, late], early_stopping=False)
        assert model.history_.epoch.max() == 39
        np.testing.assert_array_equal(model.net_.best_.epoch, [32, 32])
