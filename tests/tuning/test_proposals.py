"""Choice of the next candidates of a search."""

import numpy as np

from skhep_nn.tuning.proposals import proposals_of


def test_candidates_chosen_together_differ():
    grid = {"a": list(range(12)), "b": [0, 1]}
    tried = [{"a": a, "b": b} for a in (0, 2, 4, 8, 11) for b in (0, 1)]
    scores = [-((own["a"] - 6.3) ** 2) / 50 for own in tried]
    options = {"n_initial": 5, "round_size": 2, "n_per_shape": 1}
    source = proposals_of("gaussian_process", grid, np.random.RandomState(0), **options)
    # The score does not depend on b: candidates that differ in b alone tie, up to rounding.
    first = next(source.proposals(tried, scores, []))
    assert first["a"] in (6, 7)
    assert next(source.proposals(tried, scores, []))["a"] == first["a"]
    assert next(source.proposals(tried, scores, [first]))["a"] != first["a"]
