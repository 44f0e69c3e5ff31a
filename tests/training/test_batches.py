"""Random copies that training draws of every batch."""

import numpy as np
import pytest

from tests.small_fits import Spy, quick, small_events


@pytest.fixture
def events():
    return small_events()


class TestDrawsOfTheAugmenter:
    def drawn(self, events, **params):
        X, y, _ = events
        return np.array(quick(augmentation=Spy(), **params).fit(X, y).augmenter_.drawn_)

    @pytest.mark.parametrize("n_members", [1, 3])
    def test_they_follow_random_state(self, events, n_members):
        first, again, other = (
            self.drawn(events, random_state=seed, n_members=n_members) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.isin(other, first).any()

    def test_every_row_of_every_pass_is_drawn_anew(self, events):
        drawn = self.drawn(events, max_epochs=3, n_members=2)
        n_steps, width = 3, 64
        assert len(drawn) == 3 * 2 * n_steps * width
        assert len(np.unique(drawn)) == drawn.size

    def test_training_rows_only_and_of_all_members(self, events):
        X, y, _ = events
        augmenter = quick(augmentation=Spy(), n_members=3).fit(X, y).augmenter_
        n_steps, width = 4, 64
        assert augmenter.shapes_ == [(n_steps * width, 4)] * 3 * 2  # three members, two passes
        assert augmenter.viewed_ == []

    def test_views_are_averaged_at_predict(self, events):
        X, y, _ = events
        model = quick(augmentation=Spy(), n_members=2).fit(X, y)
        n_drawn = len(model.augmenter_.drawn_)
        averaged = model.predict_proba(X)
        assert sorted(set(model.augmenter_.viewed_)) == [0, 1]
        assert len(model.augmenter_.drawn_) == n_drawn
        model.set_params(tta=False)
        both = (model.predict_proba(X) + model.predict_proba(-X)) / 2
        np.testing.assert_allclose(averaged, both, atol=1e-6)
