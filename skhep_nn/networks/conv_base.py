"""Common parts of the networks for images and traces: standardisation, dense layers, starting values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skhep_nn.networks.conv_layers import Convolution, Dropout, linear
from skhep_nn.utils.checks import is_count

__all__ = ["ConvNet", "check_choice", "check_counts", "check_rates", "one_each", "planned"]


def _he_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _glorot_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.xavier_normal_(weight, generator=generator)


def _glorot_uniform(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.xavier_uniform_(weight, generator=generator)


def _truncated_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.trunc_normal_(weight, std=0.05, a=-0.1, b=0.1, generator=generator)


class _InitialSpec(NamedTuple):
    """Initialisations of hidden layers and of the output layer."""

    hidden: Callable[[Tensor, torch.Generator | None], None]
    output: Callable[[Tensor, torch.Generator | None], None]


INITIAL = {
    "glorot_uniform": _InitialSpec(_glorot_uniform, _glorot_uniform),
    "he_normal": _InitialSpec(_he_normal, _glorot_normal),
    "truncated_normal": _InitialSpec(_truncated_normal, _truncated_normal),
}


def one_each(name: str, value: Any, n: int, of: str) -> list[Any]:
    """Repeat a number for `n` blocks or layers, or check that a sequence has `n` values."""
    if hasattr(value, "__len__"):
        if len(value) != n:
            raise ValueError(
                f"{name}={value!r} has {len(value)} values for {n} {of}. Give one for each, or "
                "a number for all."
            )
        return list(value)
    return [value] * n


def check_counts(name: str, values: Sequence[Any], *, odd: bool = False) -> None:
    """Check that values are integers of at least 1."""
    for value in values:
        if not is_count(value) or (odd and value % 2 == 0):
            kind = "odd integers" if odd else "integers"
            raise ValueError(f"{name} must be {kind} of at least 1, got {value!r}.")


def check_rates(name: str, values: Sequence[Any]) -> None:
    """Check that dropout rates lie in [0, 1)."""
    for value in values:
        if not 0 <= value < 1 or round(256 * value) == 256:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a name is one of the known names."""
    if value not in choices:
        names = sorted(choices)
        known = " or ".join(map(repr, names)) if len(names) == 2 else f"one of {names}"
        raise ValueError(f"{name}={value!r} must be {known}.")


def planned(presets: dict[str, Any], preset: str, changes: dict[str, Any]) -> Any:
    """Return a preset with the given fields replaced."""
    if preset not in presets:
        raise ValueError(f"preset={preset!r} is not known; choose one of {sorted(presets)}.")
    plan = presets[preset]._replace(**{k: v for k, v in changes.items() if v is not None})
    check_choice("initial", plan.initial, list(INITIAL))
    return plan


class ConvNet(nn.Module):
    """Abstract convolutional network for inputs with channels last; subclasses add the blocks.

    Parameters
    ----------
    n_channels : int
        Number of channels of an input.
    initial : str
        Initialisation of the weights.
    """

    half_precision_pays = True

    mean: Tensor
    scale: Tensor

    def __init__(self, n_channels: int, initial: str) -> None:
        super().__init__()
        self.initial = initial
        self.register_buffer("mean", torch.zeros(n_channels))
        self.register_buffer("scale", torch.ones(n_channels))

    def _build_dense(
        self,
        n_features: int,
        n_outputs: int,
        dense: Sequence[int],
        dropout: float | Sequence[float],
    ) -> None:
        """Add the dense hidden layers and the output."""
        rates = one_each("dense_dropout", dropout, len(dense), "dense layers")
        check_counts("dense", dense)
        check_rates("dense_dropout", rates)
        check_counts("n_outputs", [n_outputs])
        self.hidden = nn.Sequential()
        for width, rate in zip(dense, rates, strict=True):
            self.hidden.extend([linear(n_features, width), nn.ReLU()])
            if rate:
                self.hidden.append(Dropout(rate))
            n_features = width
        self.output = linear(n_features, n_outputs)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return sum(p.numel() for p in self.parameters())

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new starting values for all parameters and reset batch-norm statistics.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of random numbers; the global one if left out.
        """
        initial = INITIAL[self.initial]
        for module in self.modules():
            if isinstance(module, Convolution):
                initial.hidden(module.weight, generator)
                module.reset_moments()
            elif isinstance(module, nn.Linear):
                draw = initial.output if module is self.output else initial.hidden
                draw(module.weight, generator)
                nn.init.zeros_(module.bias)

    def _standardised(self, x: Tensor) -> Tensor:
        """Standardise inputs with channels last."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale

    def _outputs(self, features: Tensor) -> Tensor:
        """Run the dense layers."""
        features = self.hidden(features)
        # In float32, as the 8-bit mantissa of bfloat16 is too short for a logit or an energy, and the layer is cheap.
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.output(features.to(self.output.weight.dtype))
        return out
