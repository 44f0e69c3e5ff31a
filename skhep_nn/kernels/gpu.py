"""A training step of stacked dense networks in two launches on a GPU, and prediction in one.

With ten members and a batch size of 256, one step takes 355 million operations, which a GPU computes in a few
microseconds. An ordinary step spends most of its time on launching a hundred kernels, each of which reads from memory
the results of the kernel before. Here one program computes forward and backward for a tile of rows of one member;
a second kernel sums the gradient of every block of weights over all rows, in a fixed order, and applies Adam's
update at once. No gradient is written to memory, and the same input gives the same bits.

`networks.DenseNet` with automatic differentiation is the reference.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from skhep_nn.kernels.gpu_layout import DenseLayout, embeddings_of, layers_of, table_of
from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.member_layers import MemberDropout

__all__ = ["DenseKernels", "Tiling", "Tilings", "available", "supports"]

Precision = Literal["ieee", "tf32x3", "tf32"]

_ACTIVATIONS = {"swish": 0, "relu": 1, "selu": 2}
_LINKS = {"identity": 0, "sigmoid": 1, "softmax": 2}
_LOSSES = {
    "binary_cross_entropy": 0,
    "cross_entropy": 1,
    "squared_error": 2,
    "absolute_error": 3,
    "huber": 4,
}
# The outputs of a layer for a tile of rows stay in registers, which limits the number of neurons.
_MAX_WIDTH = 128
_PROGRAMS_A_PROCESSOR = 4


class Tiling(NamedTuple):
    """Tile sizes of a kernel: rows of a program, columns of a product, warps, pipeline stages."""

    rows: int
    block: int
    warps: int
    stages: int


class Tilings(NamedTuple):
    """Tile sizes of the three kernels."""

    forward: Tiling
    update: Tiling
    prediction: Tiling


def available(device: torch.device | str) -> bool:
    """Whether the kernels can run there: Triton is installed and the GPU has tensor cores for TF32.

    Parameters
    ----------
    device : torch.device or str
        Device of the network.

    Returns
    -------
    bool
    """
    return (
        torch.device(device).type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def supports(network: nn.Module, loss: str | None = None) -> bool:
    """Whether the kernels compute this network, and this loss if one is named.

    Parameters
    ----------
    network : nn.Module
        One member or a stack.
    loss : str, optional
        A name of `networks.losses.LOSSES`.

    Returns
    -------
    bool
        True for a `DenseNet`, densely connected or not, in float32, with swish, ReLU or SELU, and at most
        128 neurons in a layer, 128 outputs and 128 components in an embedding.
    """
    if type(network) is not DenseNet or network.activation not in _ACTIVATIONS:
        return False
    widths = [layer.weight.shape[-2] for layer in layers_of(network)]
    widths += [e.weight.shape[-1] for e in embeddings_of(network)]
    return (
        max(widths) <= _MAX_WIDTH
        and all(p.dtype == torch.float32 for p in network.parameters())
        and (loss is None or loss in _LOSSES)
    )


class DenseKernels:
    """Fused training and prediction of one stack of dense networks.

    Parameters
    ----------
    stack : DenseNet
        Parameters and buffers with a leading member axis, on a CUDA device; see `supports`.
    flat : Tensor, optional
        Buffer of which all parameters are views, in the order of ``stack.parameters()``. By default a new
        buffer, of which the parameters become views.
    loss : str, default="binary_cross_entropy"
        A name of `networks.losses.LOSSES`.
    seeds : sequence of int, optional
        Seeds of the dropout masks, one for each member; zeros by default.
    precision : {"tf32x3", "ieee", "tf32"}, default="tf32x3"
        How matrix products are computed: with three TF32 products, which keeps the accuracy of float32;
        without tensor cores; or with one TF32 product, which has 10 bits of mantissa.
    tilings : Tilings, optional
        Tile sizes; by default the fastest of those measured.

    Attributes
    ----------
    flat : Tensor of shape (n_parameters,)
        All parameters; an update changes them in place.
    position : Tensor of shape (1,), int64
        Number of the next step, on the device: `reduce_adam` increases it, the caller sets it to zero
        before a block of steps.
    n_before : Tensor of shape (1,), int64
        Number of steps before this block, on the device. Every step has its own dropout masks.
    """

    def __init__(
        self,
        stack: DenseNet,
        *,
        flat: Tensor | None = None,
        loss: str = "binary_cross_entropy",
        seeds: Sequence[int] = (),
        precision: Precision = "tf32x3",
        tilings: Tilings | None = None,
    ) -> None:
        if not supports(stack, loss):
            raise ValueError(f"no kernels for loss={loss!r} and this network; see supports().")
        self.layout = DenseLayout(stack)
        self.loss, self.precision, self.tilings = loss, precision, tilings
        self.activation = _ACTIVATIONS[stack.activation]
        parameters = list(stack.parameters())
        if flat is None:
            flat = torch.cat([p.detach().flatten() for p in parameters])
            parts = flat.split([p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                p.data = part.view_as(p)
        self.flat = flat
        self.n_members = len(stack.output.weight)
        stage = stack.input_stage
        device = flat.device
        self._inputs = (
            stage.mean.contiguous(),
            stage.scale.contiguous(),
            stage.continuous.to(device, torch.int32),
            table_of(self.layout.categories, device),
            table_of([*self.layout.forward, *(p for p, _ in self.layout.backward)], device),
        )
        self._back = torch.tensor(self.layout.back(), dtype=torch.int32, device=device)
        # Padded, as wide loads may read beyond the end of the last row.
        self._packed = torch.zeros(self.n_members, self.layout.n_packed + 64, device=device)
        self.refresh()
        self._state = torch.zeros(3, dtype=torch.int64, device=device)
        self.position, self.n_before = self._state[:1], self._state[2:]
        dropout = stack.dropout if isinstance(stack.dropout, MemberDropout) else MemberDropout(0.0)
        rates = dropout.rates_of(self.n_members)
        self._drops = any(rates)
        self._dropout = (
            torch.tensor(list(seeds) or [0] * self.n_members, device=device),
            1 - torch.tensor(rates, dtype=torch.float32, device=device),
        )
        self._items: dict[int, Tensor] = {}

    def refresh(self) -> None:
        """Read the parameters again after anything but `reduce_adam` has changed them."""
        self.layout.fill(self._packed)

    @cached_property
    def _kernels(self) -> Any:
        """Return the module with the Triton kernels."""
        from skhep_nn.kernels import triton_kernels

        return triton_kernels

    @cached_property
    def _n_processors(self) -> int:
        if self.flat.device.type != "cuda":
            return 1
        return torch.cuda.get_device_properties(self.flat.device).multi_processor_count

    def _choose(self, n_rows: int) -> Tilings:
        """Return the tile sizes that were fastest on an H100: small tiles if there is little work."""
        if self.tilings is not None:
            return self.tilings
        wide = self.layout.block > 64
        busy = self.n_members * -(-n_rows // 16) / self._n_processors
        if busy <= 2:
            forward = Tiling(16, 32, 4, 3)
        elif busy <= 4 or wide:
            forward = Tiling(32, 32, 4, 3)
        else:
            forward = Tiling(32, 32, 2, 2)
        update = Tiling(32, 32, 4, 1) if busy <= 4 or wide else Tiling(64, 64, 4, 1)
        return Tilings(forward, update, Tiling(64, 16, 4 if wide else 2, 2))

    def prepare(self, n_rows: int) -> None:
        """Allocate the memory of a step.

        Parameters
        ----------
        n_rows : int
            Number of rows of one member in a batch.
        """
        self.n_rows = n_rows
        self.cut, self.update_cut, _ = self._choose(n_rows)
        layout, new = self.layout, self.flat.new_empty
        self.n_tiles = -(-n_rows // self.cut.rows)
        self._stride = self.n_tiles * self.cut.rows
        self._n_columns = layout.n_columns + layout.offset + layout.n_outputs
        self._columns = new(self.n_members, self._n_columns, self._stride)
        self._tile_losses = new(self.n_members, self.n_tiles)
        items = layout.items(self.update_cut.block)
        self._n_items = len(items)
        self._work = table_of(items, self.flat.device)

    def forward_backward(self, X: Tensor, y: Tensor, share: Tensor) -> None:
        """Compute forward and backward of step `position` on the device.

        Parameters
        ----------
        X : float32 Tensor of shape (steps, members, batch, n_features)
            Augmented rows in physical units. All arguments are contiguous.
        y : Tensor of shape (steps, members, batch) or (steps, members, batch, n_targets)
            Targets or class codes of any type.
        share : float32 Tensor of shape (steps, members, batch)
            Weight of each row in the loss of its member; zero for rows that only pad the batch.
        """
        if X.shape[2] != getattr(self, "n_rows", None):
            self.prepare(X.shape[2])
        layout, cut = self.layout, self.cut
        self._X = X
        self._kernels.forward_backward[self.n_tiles, self.n_members](
            X, y, share, self._state, self.flat, self._packed, *self._inputs, *self._dropout,
            self._columns, self._tile_losses, self._packed.shape[1],
            self.n_rows, layout.n_features, layout.n_continuous, len(layout.categories),
            layout.n_hidden, len(layout.backward), self._stride, self._n_columns,
            T=cut.rows, BN=layout.block, BK=cut.block, ACTIVATION=self.activation,
            LOSS=_LOSSES[self.loss], PRECISION=self.precision, DROPOUT=self._drops,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip

    def _update(
        self,
        mean: Tensor,
        square: Tensor,
        rates: Tensor,
        losses: Tensor,
        numbers: tuple[float, float, float, float],
        *,
        adam: bool,
        decoupled: bool,
    ) -> None:
        layout, cut = self.layout, self.update_cut
        self._kernels.update[self._n_items, self.n_members](
            self._X, self._state, self._columns, self._work, self._back,
            self.flat, self._packed, mean, square, rates, self._tile_losses, losses,
            self.n_rows, layout.n_features, self._stride, self._n_columns,
            self._packed.shape[1], self.n_tiles, *numbers,
            BN=layout.block, BK=cut.block, BR=cut.rows, PRECISION=self.precision,
            ADAM=adam, DECOUPLED=decoupled, num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip

    def reduce_adam(
        self,
        mean: Tensor,
        square: Tensor,
        rates: Tensor,
        losses: Tensor,
        *,
        beta2: float,
        eps: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        """Update the parameters with the gradients of the last step, and increase `position`.

        Parameters
        ----------
        mean, square : Tensor of shape (n_parameters,)
            Adam's running moments, changed in place.
        rates : Tensor of shape (steps, 4)
            Result of `skhep_nn.training.optimizers.adam_rates`.
        losses : Tensor of shape (steps, members)
            Row `position` receives the losses of the members.
        beta2, eps, weight_decay : float
            As in `torch.optim.Adam`.
        decoupled : bool, default=False
            Whether weight decay is AdamW's.
        """
        numbers = (beta2, 1 - beta2, eps, weight_decay)
        self._update(mean, square, rates, losses, numbers, adam=True, decoupled=decoupled)

    def gradient(self) -> Tensor:
        """Return the gradient of the last step, in the layout of `flat`, without an update.

        Returns
        -------
        Tensor of shape (n_parameters,)
        """
        gradient = torch.zeros_like(self.flat)
        unused = self._tile_losses
        numbers = (0.0, 0.0, 0.0, 0.0)
        self._update(gradient, unused, unused, unused, numbers, adam=False, decoupled=False)
        return gradient

    def losses(self) -> Tensor:
        """Return the losses of the last step.

        Returns
        -------
        Tensor of shape (members,)
        """
        return self._tile_losses.sum(1)

    def predict(self, views: Tensor, weights: Tensor, *, link: str = "identity") -> Tensor:
        """Return the weighted mean of the predictions over members and views.

        Parameters
        ----------
        views : float32 Tensor of shape (n_views, rows, n_features)
            Views of the same rows, in physical units; contiguous.
        weights : Tensor of shape (members,)
            Weights; members of weight zero are left out.
        link : {"identity", "sigmoid", "softmax"}, default="identity"
            Link function, applied before the means.

        Returns
        -------
        Tensor of shape (rows, n_outputs)
        """
        layout = self.layout
        cut = self._choose(1).prediction
        used = torch.nonzero(weights).flatten()
        n_views, n_rows = views.shape[:2]
        n_tiles = -(-n_rows // cut.rows)
        n_programs = min(n_tiles, _PROGRAMS_A_PROCESSOR * self._n_processors)
        features = self.flat.new_empty(n_programs, layout.n_columns, cut.rows)
        out = self.flat.new_empty(n_rows, layout.n_outputs)
        self._kernels.predict_mean[(n_programs,)](
            views, out, used.int(), weights[used].float(), self.flat, self._packed,
            *self._inputs, features, self._packed.shape[1], n_views, n_rows, len(used), n_tiles,
            layout.n_features, layout.n_continuous,
            len(layout.categories), layout.n_hidden, layout.n_columns,
            T=cut.rows, BN=layout.block, BK=cut.block, ACTIVATION=self.activation,
            LINK=_LINKS[link], PRECISION=self.precision,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        return out
