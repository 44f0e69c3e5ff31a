"""Mean predictions over members and views, computed in chunks of rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skhep_nn.utils.optional import kernels
from skhep_nn.utils.parallel import n_groups, side_by_side
from skhep_nn.utils.torch_state import tensor_of

if TYPE_CHECKING:
    from skhep_nn.kernels.gpu import DenseKernels

__all__ = [
    "CPU_LANES",
    "CPU_WIDTH",
    "DENSE_CPU_LANES",
    "Views",
    "apply_link",
    "by_kernels",
    "by_memory",
    "chunk_rows",
    "cut",
    "gives_logs",
    "in_chunks",
    "joined_views",
    "outputs_of_views",
    "rows_of",
    "seen",
    "weighted_mean",
]

# Measured: with chunks of 1,024 to 2,048 rows the activations of a network for tables fit into the cache of a CPU
# core; for images, fewer rows do. A GPU is fastest with few large calls.
_CPU_CHUNK, _CPU_BYTES = 2048, 1 << 20
_CUDA_CHUNK, _CUDA_BYTES = 65536, 1 << 25
# Operations of one call on a CPU, whatever the size of a row.
_CPU_WORK = 200_000_000
# Rows and members of one call of the CPU kernel, whose preallocated memory should fit into the cache of a core.
CPU_WIDTH, _CPU_MEMBERS = 512, 4
# Vector units process this number of events at a time; a remainder takes other instructions, which round
# differently. Chunks filled up to a power of two give the same bits for an event wherever it is in a chunk, stacked or
# not, on any number of threads. Matrix products of chips with AVX-512 round 32 columns unlike 64; for convolutions,
# where filling costs the time of whole images, 32 suffice.
CPU_LANES, DENSE_CPU_LANES = 32, 64
# Largest number of threads that make prediction faster (see `skhep_nn.utils.parallel`).
_MOST_THREADS = 4
# Largest number of rows times views predicted in one batch on a CPU. For more, one view at a time fits the caches.
_JOINED_ROWS = 1024


class Views(Protocol):
    """Methods of an augmenter that test-time augmentation uses."""

    n_views_: int

    def view_tensor(self, X: Tensor, index: int) -> Tensor:
        """Return view `index` of the rows."""


def apply_link(output: Tensor, link: str) -> Tensor:
    """Apply a link function to raw outputs.

    Parameters
    ----------
    output : Tensor of shape (..., n_outputs)
        Raw outputs.
    link : {"identity", "sigmoid", "softmax", "log_sigmoid", "log_softmax"} or str such as "2+sigmoid"
        Link function; ``"2+sigmoid"`` leaves the first two outputs unchanged. The logarithms are in double
        precision, so that they do not saturate where float32 probabilities are exactly 0 or 1.

    Returns
    -------
    Tensor of the same shape
        With "log_sigmoid", two columns for each output: the logarithms of the probabilities of both classes.
    """
    if link == "identity":
        return output
    if link == "sigmoid":
        return output.sigmoid()
    if link == "softmax":
        return output.softmax(-1)
    if link == "log_softmax":
        return output.double().log_softmax(-1)
    if link == "log_sigmoid":
        output = output.double()
        return torch.cat([functional.logsigmoid(-output), functional.logsigmoid(output)], dim=-1)
    n_before, plus, rest = link.partition("+")
    if plus and n_before.isdecimal():
        first, last = output.tensor_split([int(n_before)], dim=-1)
        return torch.cat([first, apply_link(last, rest)], dim=-1)
    raise ValueError(f"link={link!r} must be 'identity', 'sigmoid' or 'softmax'.")


def gives_logs(link: str) -> bool:
    """Return whether a link gives the logarithms of probabilities, so that means are of their exponentials."""
    return link.startswith("log_")


def seen(rows: Tensor, views: Views | None) -> Iterable[Tensor]:
    """Iterate over the views of some rows; without views, over the rows themselves."""
    if views is None:
        return [rows]
    return (views.view_tensor(rows, v) for v in range(views.n_views_))


def joined_views(rows: Tensor, views: Views) -> Tensor:
    """Return all views of some rows concatenated in one batch."""
    at_once: Callable[[Tensor], Tensor] | None = getattr(views, "views_tensor", None)
    return torch.cat(list(seen(rows, views))) if at_once is None else at_once(rows)


def outputs_of_views(
    outputs: Callable[[Tensor], Tensor], rows: Tensor, views: Views | None, *, join: bool
) -> Iterable[Tensor]:
    """Iterate over the predictions for the views of some rows.

    Parameters
    ----------
    outputs : callable
        Maps rows to predictions of shape (members, rows, n_outputs).
    rows : Tensor of shape (rows, ...)
        Rows.
    views : Views or None
        None for the rows without augmentation.
    join : bool
        Whether a few rows are predicted with all their views in one batch, which saves calls.

    Returns
    -------
    iterable of Tensor of shape (members, rows, n_outputs)
    """
    if views is None or not join or len(rows) * views.n_views_ > _JOINED_ROWS:
        return map(outputs, seen(rows, views))
    of_each: Iterable[Tensor] = outputs(joined_views(rows, views)).split(len(rows), dim=1)
    return of_each


def weighted_mean(
    outputs: Iterable[Tensor], weights: NDArray[np.float64], *, of_logs: bool = False
) -> Tensor:
    """Average over views and members.

    Parameters
    ----------
    outputs : iterable of Tensor of shape (members, rows, n_outputs)
        Predictions, one tensor for each view.
    weights : ndarray of shape (members,)
        They sum to one. A diverged member has weight 0 and is left out, as 0 times NaN would be NaN.
    of_logs : bool, default=False
        Whether predictions are logarithms; returned is the logarithm of the mean of their exponentials.

    Returns
    -------
    Tensor of shape (rows, n_outputs)
    """
    used = np.flatnonzero(weights).tolist()
    dtype, add = (torch.float64, torch.logaddexp) if of_logs else (torch.float32, torch.add)
    factors = torch.as_tensor(weights, dtype=dtype).view(-1, 1, 1)
    if of_logs:
        factors = factors.log()
    total, n_views = torch.zeros(()), 0
    # Term by term, as the order of terms in sums of torch depends on the shape.
    for out in outputs:
        n_views += 1
        factors = factors.to(out.device)
        terms = (out + factors if of_logs else out * factors).unbind()
        for k in used:
            total = terms[k] if total.ndim == 0 else add(total, terms[k], out=total)
    return total - math.log(n_views) if of_logs else total / n_views


class _LazyChunk(NamedTuple):
    """Rows that are read from their file when they are moved to a device."""

    source: Any
    start: int
    stop: int

    def to(self, device: torch.device) -> Tensor:
        """Read the rows."""
        return tensor_of(self.source.read(self.start, self.stop)).to(device)


def rows_of(X: Any) -> Any:
    """Return rows as a tensor; rows that are read lazily stay as they are."""
    return X if isinstance(X, Tensor) or hasattr(X, "read") else tensor_of(X)


def cut(rows: Any, size: int) -> Sequence[Any]:
    """Cut rows into chunks that have a method `to`, as tensors do."""
    if isinstance(rows, Tensor):
        return list(rows.split(size))
    n = len(rows)
    return [_LazyChunk(rows, start, min(start + size, n)) for start in range(0, n, size)]


def chunk_rows(rows: Any, device: torch.device, n_operations: int | None) -> int:
    """Return the number of rows of a chunk, given the number of operations for one row if it is known."""
    most, n_bytes = (_CPU_CHUNK, _CPU_BYTES) if device.type == "cpu" else (_CUDA_CHUNK, _CUDA_BYTES)
    row_bytes = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    # A power of two, so that `Ensemble.predict_members` need not fill it up.
    fitting = 1 << (n_bytes // max(1, row_bytes)).bit_length()
    if n_operations is not None and device.type == "cpu":
        fitting = max(fitting, 1 << (_CPU_WORK // n_operations).bit_length())
    return int(min(most, max(CPU_LANES, fitting)))


def in_chunks(
    predictor: Callable[[], Callable[[Tensor], Tensor]],
    chunks: Sequence[Tensor],
    *,
    n_workers: int,
    n_operations: float,
    autocast: tuple[str, torch.dtype | None],
) -> NDArray[np.floating[Any]]:
    """Predict chunks of rows, on several threads if that pays.

    Parameters
    ----------
    predictor : callable
        Returns a function from rows to predictions for one thread, with its own memory.
    chunks : sequence of Tensor
        Rows.
    n_workers : int
        Largest number of threads.
    n_operations : float
        Number of operations for all rows.
    autocast : tuple of str and torch.dtype or None
        Device type and lower precision.
    """
    kind, dtype = autocast

    n = n_groups(n_workers, len(chunks), n_operations, _MOST_THREADS)

    def some(first: int, stop: threading.Event) -> NDArray[np.floating[Any]]:
        """Predict a consecutive part of the chunks."""
        own = chunks[len(chunks) * first // n : len(chunks) * (first + 1) // n]
        with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            predict = predictor()
            parts = [predict(rows) for rows in own if not stop.is_set()]
            result: NDArray[np.floating[Any]] = torch.cat(parts).cpu().numpy()
            return result

    if n == 1:
        return some(0, threading.Event())
    return np.concatenate(side_by_side([partial(some, i) for i in range(n)]))


def by_memory(
    stack: Any, n_members: int, link: str, otherwise: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return a function that predicts `CPU_WIDTH` rows with all members in preallocated memory.

    Parameters
    ----------
    stack : nn.Module
        One that `skhep_nn.kernels.cpu_forward.supports`.
    n_members : int
        Number of members.
    link : str
        Link function.
    otherwise : callable
        Predicts other numbers of rows.

    Returns
    -------
    callable
        Maps rows to predictions, (members, rows, n_outputs).
    """
    slices = [slice(k, k + _CPU_MEMBERS) for k in range(0, n_members, _CPU_MEMBERS)]
    make = kernels("cpu_forward").evaluator
    evaluators = [make(stack, members, CPU_WIDTH) for members in slices]

    def predict(rows: Tensor) -> Tensor:
        if len(rows) != CPU_WIDTH:
            return otherwise(rows)
        return apply_link(torch.cat([evaluate(rows) for evaluate in evaluators]), link)

    return predict


def by_kernels(
    fused: DenseKernels, weights: NDArray[np.float64], link: str, views: Views | None
) -> Callable[[Tensor], Tensor]:
    """Return a function that predicts rows on a GPU, if not logarithms in one kernel launch with the means."""
    device = fused.flat.device
    on_device = torch.as_tensor(weights, dtype=torch.float32, device=device)

    def members(rows: Tensor) -> Tensor:
        inputs = rows.float().unsqueeze(0).contiguous()
        one_each = torch.eye(len(weights), device=device)
        return apply_link(torch.stack([fused.predict(inputs, one) for one in one_each]), link)

    def log_mean(rows: Tensor) -> Tensor:
        outputs = outputs_of_views(members, rows.to(device), views, join=False)
        return weighted_mean(outputs, weights, of_logs=True)

    def predict(rows: Tensor) -> Tensor:
        inputs = torch.stack(list(seen(rows.to(device), views)))
        return fused.predict(inputs.float(), on_device, link=link)

    # The kernel sums in float32: for logarithms it gives the outputs of each member.
    return log_mean if gives_logs(link) else predict
