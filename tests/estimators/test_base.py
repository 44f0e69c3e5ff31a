"""Parameters that all network estimators have in common."""

import inspect

import pytest

from skhep_nn import (
    CaloCNNClassifier,
    CaloCNNRegressor,
    DenseNetClassifier,
    DenseNetRegressor,
    WaveformClassifier,
    WaveformRegressor,
)

CLASSIFIERS = [DenseNetClassifier, CaloCNNClassifier, WaveformClassifier]
REGRESSORS = [DenseNetRegressor, CaloCNNRegressor, WaveformRegressor]
LAST_COMMON = "verbose"


def common_parameters(kind):
    """Return the text of each common parameter by its name."""
    section = inspect.getdoc(kind).split("Parameters\n----------\n")[1].split("\n\nAttributes\n")[0]
    texts = {}
    for line in section.splitlines():
        if not line.startswith(" "):
            name = line.split(" : ")[0]
            texts[name] = ""
        texts[name] += line + "\n"
    names = list(texts)
    return {name: texts[name] for name in names[: names.index(LAST_COMMON) + 1]}


@pytest.mark.parametrize("kind", CLASSIFIERS + REGRESSORS)
def test_common_parameters_are_described_alike(kind):
    reference = common_parameters(DenseNetClassifier)
    if kind in REGRESSORS:
        del reference["class_weight"]
    found = common_parameters(kind)
    assert found == reference
    assert list(found) == list(inspect.signature(kind).parameters)[: len(found)]
