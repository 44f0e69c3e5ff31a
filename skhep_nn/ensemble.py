"""The one idea of the library: a fitted network is an ensemble of stacked members."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from skhep_nn._torch_state import side_by_side

__all__ = [
    "Ensemble",
    "Views",
    "apply_link",
    "separate_members",
    "stack_networks",
    "stacked_state",
]

# Measured: chunks of 1,024 to 2,048 rows keep the activations in the cache of a CPU core, where
# member by member is 1.2 to 1.6 times faster than stacked; below some ten rows the calls themselves
# cost more than the arithmetic and stacking wins. A GPU wants few, large, stacked calls.
_CPU_CHUNK, _CPU_BYTES = 2048, 1 << 20
# Where a network can predict in memory of its own, that memory should fit a core's cache: so many rows and
# members at once.
_CPU_WIDTH, _CPU_MEMBERS = 512, 4
_CUDA_CHUNK, _CUDA_BYTES = 16384, 1 << 25
_STACK_BELOW = 33
# Vector units take so many events at a time and treat a remainder by other instructions, with another
# rounding. Filled up to a power of two, the prediction for an event is the same bit for bit in any chunk,
# in any place, stacked or not, on one thread and on two.
_CPU_LANES = 32


class Views(Protocol):
    """What test-time augmentation needs of an augmenter."""

    n_views_: int

    def view_tensor(self, X: Tensor, index: int) -> Tensor:
        """Return view `index` of the rows."""


class _Members(nn.Module):
    """Members side by side, each with inputs of its own.

    One after the other: where a member alone keeps the device busy, as convolutions do, nothing is gained
    by running all in one call (and grouped convolutions lose).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members, batch, ...)`` to ``(members, batch, outputs)``."""
        outputs = [member(rows) for member, rows in zip(self.members, x, strict=True)]
        return torch.stack(outputs)


def _set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer by one of another shape."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value)
    else:
        owner._buffers[leaf] = value


def stack_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """Return one module that runs several networks of the same shape at once.

    Parameters
    ----------
    networks : sequence of nn.Module
        The members. Modules with ``stackable = True`` run by batched matrix products, others one
        after the other.

    Returns
    -------
    nn.Module
        Maps ``(members, batch, ...)`` to ``(members, batch, outputs)``. It holds copies.

    Examples
    --------
    >>> import torch
    >>> from skhep_nn.ensemble import stack_networks
    >>> stack = stack_networks([torch.nn.Linear(3, 1) for _ in range(5)])
    >>> stack(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 1])
    """
    if not getattr(networks[0], "stackable", False):
        return _Members([copy.deepcopy(network) for network in networks])
    states = [network.state_dict() for network in networks]
    stacked = copy.deepcopy(networks[0])
    for name in states[0]:
        _set_tensor(stacked, name, torch.stack([state[name] for state in states]))
    return stacked


def separate_members(stack: nn.Module) -> list[nn.Module]:
    """Return the members of a stack where they are modules of their own; else the stack alone.

    Parameters
    ----------
    stack : nn.Module
        What `stack_networks` returned.

    Returns
    -------
    list of nn.Module
    """
    stack = getattr(stack, "_orig_mod", stack)  # what torch.compile wrapped
    return list(stack.members) if isinstance(stack, _Members) else [stack]


def stacked_state(stack: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a stack, each with a leading member axis.

    Parameters
    ----------
    stack : nn.Module
        What `stack_networks` returned.

    Returns
    -------
    dict of str to Tensor
        Under the names that one member's ``state_dict`` uses.
    """
    stack = getattr(stack, "_orig_mod", stack)  # what torch.compile wrapped
    if not isinstance(stack, _Members):
        return dict(stack.state_dict())
    states = [member.state_dict() for member in stack.members]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def apply_link(output: Tensor, link: str) -> Tensor:
    """Turn raw outputs into predictions.

    Parameters
    ----------
    output : Tensor of shape (..., n_outputs)
        Raw outputs.
    link : {"identity", "sigmoid", "softmax"}
        Link function.

    Returns
    -------
    Tensor of the same shape
    """
    if link == "identity":
        return output
    if link == "sigmoid":
        return output.sigmoid()
    if link == "softmax":
        return output.softmax(-1)
    raise ValueError(f"link={link!r} must be 'identity', 'sigmoid' or 'softmax'.")


class Ensemble:
    """Stacked states of one network and a weight for each: what every fitted estimator holds.

    Parameters
    ----------
    network : type
        Class of the network of one member.
    network_params : dict
        Its constructor's arguments.
    states : mapping of str to ndarray of shape (members, ...)
        The tensors of all members under the names of ``state_dict``.
    weights : array-like of shape (members,), optional
        Weights of the members in the mean, normalised here; equal if left out.

    Attributes
    ----------
    states : dict of str to ndarray
        As given. Numpy arrays: what is pickled needs neither torch nor the device it came from.
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
        self._runtime: dict[torch.device, list[nn.Module]] = {}

    @classmethod
    def from_stack(
        cls,
        network: type[nn.Module],
        network_params: dict[str, Any],
        state: Mapping[str, Tensor],
        weights: ArrayLike | None = None,
    ) -> Ensemble:
        """Build an ensemble from the tensors of a trained stack.

        Parameters
        ----------
        network, network_params, weights
            As in the constructor.
        state : mapping of str to Tensor of shape (members, ...)
            What `stacked_state` returned; copied to the host.

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
        return self.__dict__ | {"_runtime": {}}

    @cached_property
    def n_parameters(self) -> int:
        """Number of free parameters of one member."""
        return sum(p.numel() for p in self.member(0).parameters())

    def member(self, index: int) -> nn.Module:
        """Return one member as an ordinary module in evaluation mode, on the CPU.

        Parameters
        ----------
        index : int
            Which member.

        Returns
        -------
        nn.Module
        """
        module = self.network(**self.network_params)
        module.load_state_dict({k: torch.as_tensor(v[index]) for k, v in self.states.items()})
        return module.requires_grad_(False).eval()

    @cached_property
    def _products_are_alike(self) -> bool:
        """Whether stacked and single matrix products round alike on a CPU.

        Batched products of fewer than 400 multiplications run in a plain loop of torch's own. (An
        embedding is looked up, not multiplied.)
        """
        sizes = [
            v.shape[1] * v.shape[2]
            for name, v in self.states.items()
            if v.ndim == 3 and "embedding" not in name
        ]
        return all(size * _CPU_LANES >= 400 for size in sizes)

    def _modules(self, device: torch.device) -> list[nn.Module]:
        """Return the members and, last, their stack, on the device; built once."""
        if device not in self._runtime:
            members = [self.member(k).to(device) for k in range(len(self))]
            stack = stack_networks(members).to(device).requires_grad_(False).eval()
            self._runtime[device] = [*members, stack]
        return self._runtime[device]

    def predict_members(
        self, X: Tensor, *, link: str = "identity", stacked: bool | None = None
    ) -> Tensor:
        """Predict with every member.

        Parameters
        ----------
        X : Tensor of shape (samples, ...)
            Inputs of one member, on the device that is to be used.
        link : {"identity", "sigmoid", "softmax"}, default="identity"
            Link function.
        stacked : bool, optional
            Run all members at once or one after the other; by default whichever is faster there.

        Returns
        -------
        Tensor of shape (members, samples, outputs)
        """
        *members, stack = self._modules(X.device)
        n_rows = len(X)
        fill = max(_CPU_LANES, 1 << (n_rows - 1).bit_length()) - n_rows
        if fill and X.device.type == "cpu":
            X = torch.cat([X, X[-1:].expand(fill, *X.shape[1:])])
        if stacked is None:
            few = n_rows < _STACK_BELOW and self._products_are_alike
            stacked = len(self) > 1 and (X.device.type != "cpu" or few)
        if stacked:
            out: Tensor = stack(X.expand(len(self), *X.shape))
        else:
            out = torch.stack([member(X) for member in members])
        return apply_link(out.float(), link)[:, :n_rows]

    def predict(
        self,
        X: NDArray[np.float32] | Tensor,
        *,
        link: str = "identity",
        views: Views | None = None,
        device: torch.device | str = "cpu",
        chunk_size: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> NDArray[np.float32]:
        """Return the weighted mean of the members' predictions, averaged over views.

        Parameters
        ----------
        X : ndarray or Tensor of shape (samples, ...)
            Inputs.
        link : {"identity", "sigmoid", "softmax"}, default="identity"
            Link function, applied before the means.
        views : object with `n_views_` and `view_tensor`, optional
            Fitted augmenter whose test-time views are averaged, on the device.
        device : str or torch.device, default="cpu"
            Where to compute.
        chunk_size : int, optional
            Rows at a time; by default what suits the device.
        autocast : torch.dtype, optional
            Lower precision for what torch's autocast thinks it good enough for.

        Returns
        -------
        ndarray of shape (samples, outputs)
        """
        device = torch.device(device)
        rows_first = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
        on_cpu = device.type == "cpu"
        stack = self._modules(device)[-1]
        has_evaluator = getattr(stack, "evaluator", None) is not None and autocast is None
        in_memory = on_cpu and chunk_size is None and has_evaluator
        if in_memory:
            chunk_size = _CPU_WIDTH
        elif chunk_size is None:
            most, n_bytes = (_CPU_CHUNK, _CPU_BYTES) if on_cpu else (_CUDA_CHUNK, _CUDA_BYTES)
            row_bytes = rows_first[:1].numel() * rows_first.element_size()
            # A power of two, which `predict_members` need not fill up.
            fitting = 1 << (n_bytes // max(1, row_bytes)).bit_length()
            chunk_size = min(most, max(_CPU_LANES, fitting))
        chunks = rows_first.split(chunk_size)
        weights = torch.as_tensor(self.weights, dtype=torch.float32, device=device)

        def means(first: int, step: int, stop: threading.Event) -> list[Tensor]:
            """Predict every so manyth chunk."""
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
            ):
                predict: Callable[[Tensor], Tensor] = partial(self.predict_members, link=link)
                if in_memory and len(chunks) > 1:
                    predict = self._evaluator(stack, link) or predict
                return [
                    self._mean(rows.to(device), weights, predict, views)
                    for rows in chunks[first::step]
                    if not stop.is_set()
                ]

        n_workers = min(torch.get_num_threads(), len(chunks)) if on_cpu else 1
        if n_workers == 1:
            parts = means(0, 1, threading.Event())
        else:
            shares = side_by_side([partial(means, w, n_workers) for w in range(n_workers)])
            parts = [shares[i % n_workers][i // n_workers] for i in range(len(chunks))]
        result: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return result

    def _evaluator(self, stack: Any, link: str) -> Callable[[Tensor], Tensor] | None:
        """Return what predicts with all members in memory of its own, if the network has such a thing."""
        firsts = range(0, len(self), _CPU_MEMBERS)
        evaluators = [stack.evaluator(slice(k, k + _CPU_MEMBERS), _CPU_WIDTH) for k in firsts]
        if None in evaluators:
            return None

        def predict(rows: Tensor) -> Tensor:
            if len(rows) != _CPU_WIDTH:
                return self.predict_members(rows, link=link)
            return apply_link(torch.cat([evaluate(rows) for evaluate in evaluators]), link)

        return predict

    def _mean(
        self,
        rows: Tensor,
        weights: Tensor,
        predict: Callable[[Tensor], Tensor],
        views: Views | None,
    ) -> Tensor:
        """Average members and views for one chunk of rows."""
        inputs = [rows]
        if views is not None:
            inputs = [views.view_tensor(rows, v) for v in range(views.n_views_)]
        # Term by term in a fixed order: torch's own sums choose theirs by shape.
        # A member without weight has diverged, and nothing times its NaN would be NaN.
        used = np.flatnonzero(self.weights)
        terms = [weights[k] * out[k] for out in (predict(x) for x in inputs) for k in used]
        total: Tensor = terms[0]
        for term in terms[1:]:
            total = total.add_(term)
        return total / len(inputs)
