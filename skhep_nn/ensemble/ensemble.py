"""The fitted ensemble: parameters of all members, stacked, and their weights in the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from skhep_nn.ensemble.prediction import (
    CPU_LANES,
    CPU_WIDTH,
    DENSE_CPU_LANES,
    Views,
    apply_link,
    by_kernels,
    by_memory,
    chunk_rows,
    cut,
    gives_logs,
    in_chunks,
    outputs_of_views,
    rows_of,
    weighted_mean,
)
from skhep_nn.networks.stacks import in_fast_mode, operations_of, stack_networks
from skhep_nn.utils.optional import kernels
from skhep_nn.utils.public import public
from skhep_nn.utils.torch_state import computable, tensor_of, usual_defaults

if TYPE_CHECKING:
    from skhep_nn.kernels.gpu import DenseKernels

__all__ = ["Ensemble"]

# For a few dozen rows, calls cost more than arithmetic, and one stacked call is faster on a CPU too.
_STACK_BELOW = 33


class _Runtime(NamedTuple):
    """Networks of an ensemble on one device."""

    members: list[nn.Module]
    stack: nn.Module
    kernels: DenseKernels | None  # of a GPU


@public("skhep_nn")
class Ensemble:
    """Members of one network architecture as stacked parameters, with one weight for each.

    Parameters
    ----------
    network : type
        Class of the network of one member.
    network_params : dict
        Arguments of its constructor.
    states : mapping of str to ndarray of shape (members, ...)
        Stacked tensors of all members, under the names of ``state_dict``.
    weights : array-like of shape (members,), optional
        Weights of the members in the mean, normalised here; equal if left out.

    Attributes
    ----------
    states : dict of str to ndarray
        As given. They are numpy arrays, so that pickles depend neither on torch nor on a device.
    weights : ndarray of shape (members,)
        They sum to one.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skhep_nn.ensemble import Ensemble
    >>> members = [torch.nn.Linear(3, 1) for _ in range(2)]
    >>> states = {k: np.stack([m.state_dict()[k].numpy() for m in members]) for k in ("weight", "bias")}
    >>> ensemble = Ensemble(torch.nn.Linear, {"in_features": 3, "out_features": 1}, states)
    >>> ensemble.predict(np.zeros((4, 3), dtype=np.float32)).shape
    (4, 1)
    """

    def __init__(
        self,
        network: type[nn.Module],
        network_params: dict[str, Any],
        states: Mapping[str, NDArray[Any]],
        weights: ArrayLike | None = None,
    ) -> None:
        sizes = {len(value) for value in states.values()}
        if len(sizes) != 1:
            raise ValueError(f"states of {sorted(sizes)} members do not belong together.")
        self.network = network
        self.network_params = network_params
        self.states = dict(states)
        n_members = sizes.pop()
        w = np.ones(n_members) if weights is None else np.asarray(weights, dtype=float)
        if w.shape != (n_members,) or not np.all(np.isfinite(w)) or np.any(w < 0) or w.sum() <= 0:
            msg = f"weights must be {n_members} finite numbers >= 0 with a positive sum, got {weights!r}."
            raise ValueError(msg)
        self.weights = w / w.sum()
        self._runtime: dict[torch.device, _Runtime] = {}

    @classmethod
    def from_stack(
        cls,
        network: type[nn.Module],
        network_params: dict[str, Any],
        state: Mapping[str, Tensor],
        weights: ArrayLike | None = None,
    ) -> Ensemble:
        """Build an ensemble from the parameters of a trained stack.

        Parameters
        ----------
        network, network_params, weights
            As in the constructor.
        state : mapping of str to Tensor of shape (members, ...)
            Result of `stacked_state`; copied to the host.

        Returns
        -------
        Ensemble
        """
        arrays = {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
        return cls(network, network_params, arrays, weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return (
            f"Ensemble({len(self)} x {self.network.__name__}, {self.n_parameters} parameters each)"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Without caches that predictions have filled, which must not change pickles and hashes.
        names = ("network", "network_params", "states", "weights")
        return {name: self.__dict__[name] for name in names} | {"_runtime": {}}

    @cached_property
    def n_parameters(self) -> int:
        """Number of free parameters of one member."""
        return sum(p.numel() for p in self.member(0).parameters())

    @cached_property
    def n_operations(self) -> int:
        """Number of multiplications and additions of all members for one row."""
        return len(self) * operations_of(self.member(0))

    @usual_defaults()
    def member(self, index: int) -> nn.Module:
        """Return one member as an ordinary torch module on the CPU, in evaluation mode.

        Its layers and activations are modules that work batch first, so that hooks, attributions, pruning,
        derivatives of any order and `torch.func` work as for any module. Predictions of the estimator come from a
        faster form of the same network and agree up to rounding. The parameters do not require gradients, which
        ``member.requires_grad_()`` changes.

        Parameters
        ----------
        index : int
            Number of the member.

        Returns
        -------
        nn.Module
        """
        # The memory format of convolutions in fast mode is not understood by all functions for torch modules.
        member: nn.Module = self._network(index)
        for parameter in member.parameters():
            parameter.data = parameter.contiguous()
        return member

    def _network(self, index: int) -> nn.Module:
        """Return the network of one member with its parameters."""
        module = self.network(**self.network_params)
        module.load_state_dict({k: tensor_of(np.asarray(v[index])) for k, v in self.states.items()})
        return module.requires_grad_(False).eval()

    @cached_property
    def _products_are_alike(self) -> bool:
        """Whether stacked and single matrix products round alike on a CPU.

        torch computes batched products of fewer than 400 multiplications in a plain loop, which rounds
        differently. Embeddings are looked up, not multiplied.
        """
        sizes = [
            v.shape[1] * v.shape[2]
            for name, v in self.states.items()
            if v.ndim == 3 and "embedding" not in name
        ]
        return all(size * DENSE_CPU_LANES >= 400 for size in sizes)

    def _ready(self, device: torch.device) -> _Runtime:
        """Return the networks on a device; built once for each device."""
        if device not in self._runtime:
            members = [in_fast_mode(self._network(k)).to(device) for k in range(len(self))]
            stack: Any = stack_networks(members, share=True).to(device).requires_grad_(False).eval()
            gpu = kernels("gpu")
            has_kernels = gpu is not None and gpu.available(device) and gpu.supports(stack)
            fused = gpu.DenseKernels(stack) if has_kernels else None
            self._runtime[device] = _Runtime(members, stack, fused)
        return self._runtime[device]

    @usual_defaults()
    def predict_members(
        self, X: Tensor, *, link: str = "identity", stacked: bool | None = None
    ) -> Tensor:
        """Return the predictions of every member.

        Parameters
        ----------
        X : Tensor of shape (samples, ...)
            Inputs, on the device that computes.
        link : {"identity", "sigmoid", "softmax"}, default="identity"
            Link function.
        stacked : bool, optional
            Run all members at once or one after the other; by default the faster way on the device.

        Returns
        -------
        Tensor of shape (members, samples, outputs)
        """
        members, stack, _ = self._ready(X.device)
        n_rows = len(X)
        lanes = DENSE_CPU_LANES if getattr(stack, "stackable", False) else CPU_LANES
        fill = max(lanes, 1 << (n_rows - 1).bit_length()) - n_rows
        if fill and X.device.type == "cpu":
            rows = X
            # Not by torch.cat, which fails for 16-bit floats on a CPU under autocast.
            X = rows.new_empty(n_rows + fill, *rows.shape[1:])
            X[:n_rows], X[n_rows:] = rows, rows[-1]
        if stacked is None:
            few = n_rows < _STACK_BELOW and self._products_are_alike
            stacked = len(self) > 1 and (X.device.type != "cpu" or few)
        if stacked:
            out: Tensor = stack(X.expand(len(self), *X.shape))
        else:
            out = torch.stack([member(X) for member in members])
        return apply_link(out.float(), link)[:, :n_rows]

    @usual_defaults()
    def predict(
        self,
        X: NDArray[np.float32] | Tensor,
        *,
        link: str = "identity",
        views: Views | None = None,
        device: torch.device | str = "cpu",
        chunk_size: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> NDArray[np.floating[Any]]:
        """Return the weighted mean of the members' predictions, averaged over views.

        Parameters
        ----------
        X : ndarray or Tensor of shape (samples, ...)
            Inputs.
        link : {"identity", "sigmoid", "softmax", "log_sigmoid", "log_softmax"}, default="identity"
            Link function, applied before the means. The last two give the logarithms of the mean
            probabilities of all classes, in double precision.
        views : object with `n_views_` and `view_tensor`, optional
            Fitted augmenter; predictions are averaged over its views.
        device : str or torch.device, default="cpu"
            Device that computes.
        chunk_size : int, optional
            Number of rows in one call; the default depends on the device.
        autocast : torch.dtype, optional
            Lower precision, for the operations that torch's autocast allows.

        Returns
        -------
        ndarray of shape (samples, outputs)
        """
        device = torch.device(device)
        rows = rows_of(X)
        runtime = self._ready(device)
        on_cpu = device.type == "cpu"
        plain = autocast is None and chunk_size is None
        cpu_forward = kernels("cpu_forward") if on_cpu and plain else None
        in_memory = cpu_forward is not None and cpu_forward.supports(runtime.stack)
        size = CPU_WIDTH
        if chunk_size or not in_memory:
            counted = getattr(runtime.members[0], "n_operations", None)
            size = chunk_size or chunk_rows(rows, device, counted)
        chunks = cut(rows, size)
        # Views can join rows in one batch if the prediction of a row does not depend on its batch.
        join = on_cpu and plain and getattr(runtime.stack, "stackable", False)

        def predictor() -> Callable[[Tensor], Tensor]:
            if plain and runtime.kernels is not None:
                return by_kernels(runtime.kernels, self.weights, link, views)
            outputs: Callable[[Tensor], Tensor] = partial(self.predict_members, link=link)
            if in_memory and len(chunks) > 1:
                outputs = by_memory(runtime.stack, len(self), link, outputs)

            def mean(chunk: Tensor) -> Tensor:
                rows = computable(chunk.to(device))
                seen = outputs_of_views(outputs, rows, views, join=join)
                return weighted_mean(seen, self.weights, of_logs=gives_logs(link))

            return mean

        n_views = 1 if views is None else views.n_views_
        return in_chunks(
            predictor,
            chunks,
            n_workers=torch.get_num_threads() if on_cpu else 1,
            n_operations=float(self.n_operations) * n_views * len(rows),
            autocast=(device.type, autocast),
        )
