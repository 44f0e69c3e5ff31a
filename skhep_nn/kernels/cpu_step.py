"""A training step of stacked `DenseNet` members without automatic differentiation.

On a CPU a step of a small network is mostly bookkeeping: of the time that torch's autograd takes for the
network of the HiggsML study, 40 % is not arithmetic. Here forward and backward write into memory that is
allocated once, and all parameters lie in one flat tensor that the optimiser updates in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skhep_nn.kernels.cpu_forward import DenseForward
from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.dense_chain import Buffers, chain_backward
from skhep_nn.networks.losses import Loss
from skhep_nn.networks.member_layers import MemberDropout

__all__ = ["DenseStep"]

# The flat tensor is padded to whole vectors of the processor, as the remainder would be updated by other
# instructions, which round differently.
_LANES = 64


class DenseStep:
    """Forward and backward pass of some members of a stack, in preallocated memory.

    Parameters
    ----------
    stack : DenseNet
        Parameters with a leading member axis, on a CPU.
    members : slice
        Members of the stack to train.
    width : int
        Number of rows of a batch.
    loss : Loss
        Loss of rows.

    Attributes
    ----------
    flat : nn.Parameter
        All parameters of these members; `step` fills its gradient.
    """

    def __init__(self, stack: DenseNet, members: slice, width: int, loss: Loss) -> None:
        self.loss = loss
        self._members = members
        named = {name: p.detach()[members] for name, p in stack.named_parameters()}
        sizes = [p.numel() for p in named.values()]
        total = -(-sum(sizes) // _LANES) * _LANES
        self.flat = nn.Parameter(torch.zeros(total))
        self.flat.grad = torch.zeros(total)

        def views(flat: Tensor) -> dict[str, Tensor]:
            parts = zip(named.items(), flat[: sum(sizes)].split(sizes), strict=True)
            return {name: part.view_as(p) for (name, p), part in parts}

        own, grads = views(self.flat.detach()), views(self.flat.grad)
        self._pairs = list(zip(own.values(), named.values(), strict=True))
        stage = stack.input_stage
        moments = {"input_stage.mean": stage.mean, "input_stage.scale": stage.scale}
        self.forward = DenseForward(
            stack, own | {name: m[members] for name, m in moments.items()}, width, keep=True
        )
        self._allocate(grads, width)
        self._dropout: MemberDropout | None = None
        self._kept: list[Tensor] = []
        if isinstance(stack.dropout, MemberDropout):
            self._dropout = stack.dropout
            self._kept = [torch.empty_like(z) for z in self.forward.before]

    def _allocate(self, grads: dict[str, Tensor], width: int) -> None:
        """Allocate memory for the backward pass."""
        forward = self.forward
        layers = range(len(forward.weights))
        self._grads = grads
        self._grad_weights = [grads[f"hidden.{i}.weight"] for i in layers]
        self._grad_biases = [grads[f"hidden.{i}.bias"] for i in layers]
        self._grad_inputs = forward.empty(forward.features.shape[1], width)
        self._grad_last = forward.empty(forward.last.shape[1], width)
        buffers = Buffers.of(self._grad_inputs, self._grad_last, forward.layout)
        # Among the inputs, which come first, only embeddings have parameters.
        skipped = forward.embedded.start if forward.embeddings else forward.embedded.stop
        self._weights_t: list[Tensor | None] = []
        reads = []
        for weight, rows in zip(forward.weights, forward.layout.reads, strict=True):
            start = max(rows.start, skipped)
            wanted = weight[:, :, start - rows.start :]
            self._weights_t.append(wanted.mT if wanted.shape[-1] else None)
            reads.append(self._grad_inputs[:, start : rows.stop])
        self._grad_buffers = Buffers(reads, buffers.writes)

    @staticmethod
    def serves(stack: nn.Module) -> bool:
        """Whether this class implements the gradients of a stack."""
        return (
            isinstance(stack, DenseNet)
            and isinstance(stack.dropout, nn.Identity | MemberDropout)
            and DenseForward.serves(stack)
        )

    def load(self) -> None:
        """Copy the parameters from the stack."""
        for own, source in self._pairs:
            own.copy_(source)

    def store(self) -> None:
        """Copy the parameters to the stack."""
        for own, source in self._pairs:
            source.copy_(own)

    @torch.no_grad()
    def losses(self, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of every member: the sum over its rows of weight times loss."""
        return (self.loss.value(self.forward(X), y) * weight).sum(-1)

    @torch.no_grad()
    def step(self, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Compute the losses of a batch and fill the gradient.

        Parameters
        ----------
        X : Tensor of shape (members, width, n_features)
            Rows in physical units; categorical columns hold codes.
        y : Tensor of shape (members, width) or (members, width, n_targets)
            Targets.
        weight : Tensor of shape (members, width)
            Weight of each row in the loss of its member.

        Returns
        -------
        Tensor of shape (members,)
            Loss of every member.
        """
        forward = self.forward
        if self._dropout is not None:
            for kept in self._kept:
                self._dropout.kept(kept, self._members)
        outputs = forward(X, self._kept)
        losses = (self.loss.value(outputs, y) * weight).sum(-1)
        grad = (self.loss.gradient(outputs, y) * weight.unsqueeze(-1)).mT
        torch.bmm(grad, forward.last.mT, out=self._grads["output.weight"])
        torch.sum(grad, -1, out=self._grads["output.bias"])
        torch.bmm(forward.parameters["output.weight"].mT, grad, out=self._grad_last)
        chain_backward(
            forward.activation,
            forward.buffers,
            forward.before,
            self._weights_t,
            self._grad_buffers,
            self._grad_weights,
            self._grad_biases,
            self._kept,
            dense=forward.layout.dense,
        )
        for embedding in forward.embeddings:
            embedding.backward(self._grad_inputs, self._grads[embedding.name])
        return losses
