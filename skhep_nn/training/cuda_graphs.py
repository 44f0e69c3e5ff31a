"""Epochs on a GPU without Python between the steps: the training step is captured as a CUDA graph.

The graphs hold a whole step: gather and augment the rows, forward and backward pass, update of the
parameters. All values that change from step to step (row numbers, learning rate, momentum, step number)
are in tensors on the device, so that a step costs the host one replay and never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skhep_nn.training.batches import Batch, TrainBatches
from skhep_nn.training.checkpoints import Scores
from skhep_nn.training.cuda_loader import rows_for
from skhep_nn.training.member_hyperparameters import MemberSteps
from skhep_nn.training.optimizers import StepRates, adam_rates
from skhep_nn.training.passes import EagerPass, Pass, Trainee
from skhep_nn.training.schedules import Rates
from skhep_nn.training.streamed_batches import AnyTrainBatches, AnyValidBatches
from skhep_nn.utils.optional import kernels

__all__ = ["FlatAdam", "GraphPass"]

_WARM_UP = 3
# Number of steps in a fit from which fused kernels are faster: on an H100 they save 0.25 ms in each step, but
# take a second to load, or three if Triton has to compile them first.
_WORTH_COMPILING = 5000
# Parameters begin at multiples of this in the flat buffer: cuDNN and cuBLAS read several numbers at once and
# fail on unaligned addresses.
_ALIGNED = 64


def _in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor flattened in the memory order of another tensor."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_strided(
            like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device
        ).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


class FlatAdam:
    """Adam over all parameters in one flat buffer, with rates that are tensors on the device.

    torch's fused Adam fixes beta1 in a captured graph, but `OneCycle` changes beta1 in every step.

    Parameters
    ----------
    parameters : list of Parameter
        Parameters, which become views of one buffer.
    group : dict
        Parameter group of `torch.optim.Adam` or `AdamW`, with its betas, eps and weight_decay.
    decoupled : bool
        Whether weight decay is decoupled, as in AdamW.
    aligned : bool
        Whether parameters are aligned as cuDNN and cuBLAS need it, with zeros in between.
    member_steps : MemberSteps, optional
        Learning rates and weight decay, if members differ in them.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        group: dict[str, Any],
        *,
        decoupled: bool,
        aligned: bool,
        member_steps: MemberSteps | None = None,
    ) -> None:
        self.parameters = parameters
        step = _ALIGNED if aligned else 1
        self._gaps = [p.new_zeros(-p.numel() % step) for p in parameters]
        self.flat = self._joined([p.detach() for p in parameters])
        sizes = [p.numel() + len(gap) for p, gap in zip(parameters, self._gaps, strict=True)]
        for p, part in zip(parameters, self.flat.split(sizes), strict=True):
            p.data = part.as_strided(p.shape, p.stride())
        self.mean = torch.zeros_like(self.flat)
        self.square = torch.zeros_like(self.flat)
        self.beta2, self.eps = group["betas"][1], group["eps"]
        self.weight_decay, self.decoupled = group["weight_decay"], decoupled
        self._factor: Tensor | None = None
        self._decay: Tensor | float = self.weight_decay
        if member_steps is not None:
            self._factor = self._per_member(member_steps, member_steps.factor)
            if member_steps.decay.any():
                self._decay = self._per_member(member_steps, member_steps.decay)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        """Join tensors with the shapes of the parameters in the layout of the flat buffer."""
        laid = zip(tensors, self.parameters, self._gaps, strict=True)
        return torch.cat([part for t, p, gap in laid for part in (_in_memory_order(t, p), gap)])

    def _per_member(self, member_steps: MemberSteps, values: NDArray[np.float64]) -> Tensor:
        """Expand one value for each member to the layout of the flat buffer."""
        pairs = zip(member_steps.broadcastable(values), self.parameters, strict=True)
        return self._joined([value.expand_as(p) for value, p in pairs])

    def _decayed(self, grad: Tensor, lr: Tensor) -> Tensor:
        """Apply weight decay: to the parameters if it is decoupled, else to the gradients."""
        decay = self._decay
        if not isinstance(decay, Tensor):
            if not decay:
                return grad
            if not self.decoupled:
                return grad.add(self.flat, alpha=decay)
        elif not self.decoupled:
            return grad.addcmul(decay, self.flat)
        self.flat.mul_(1 - lr * (decay if self._factor is None else decay * self._factor))
        return grad

    def step(self, rates: Tensor) -> None:
        """Update the parameters with their gradients and one row of `adam_rates`."""
        size, share, correction, lr = rates
        grad = self._joined(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        )
        grad = self._decayed(grad, lr)
        self.mean.lerp_(grad, share)
        self.square.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        root = (self.square * correction).sqrt_().add_(self.eps)
        step = size * self.mean / root
        self.flat.sub_(step if self._factor is None else step * self._factor)


class _Autograd:
    """Steps by automatic differentiation, for any network."""

    def __init__(self, trainee: Trainee, adam: FlatAdam, n_steps: int) -> None:
        self.trainee, self.adam = trainee, adam
        self.n_captured = 1
        self.position = torch.zeros(1, dtype=torch.long, device=adam.flat.device)
        self.rates = torch.zeros(n_steps, 4, device=adam.flat.device)
        self.losses = torch.zeros(n_steps, trainee.n_members, device=adam.flat.device)

    def step(self, gathered: Batch) -> None:
        """Take the step at `position` and advance it."""
        for p in self.adam.parameters:
            p.grad = None
        batch = Batch(*(part.index_select(0, self.position)[0] for part in gathered))
        losses = self.trainee.forward_backward(batch)["member_losses"]
        self.losses.index_copy_(0, self.position, losses.unsqueeze(0))
        self.adam.step(self.rates.index_select(0, self.position)[0])
        self.position.add_(1)

    def refresh(self) -> None:
        """Do nothing: the module reads the flat buffer itself."""

    def begin(self, n_before: int) -> None:
        """Begin a block of steps, after `n_before` steps of the fit."""
        del n_before
        self.position.zero_()


class _Fused:
    """Steps by two fused kernels, for networks that the kernels support."""

    def __init__(self, trainee: Trainee, adam: FlatAdam, n_steps: int) -> None:
        self.adam = adam
        self.n_captured = n_steps
        # Different from the seeds of augmentation, which uses the same kind of generator.
        seeds = [np.random.SeedSequence(g.initial_seed()) for g in trainee.generators]
        self.kernels = kernels("gpu").DenseKernels(
            trainee.module,
            flat=adam.flat,
            loss=trainee.loss.name,
            seeds=[int(seed.generate_state(1, np.uint64)[0] >> 2) for seed in seeds],
        )
        self.position = self.kernels.position
        self.rates = torch.zeros(n_steps, 4, device=adam.flat.device)
        self.losses = torch.zeros(n_steps, trainee.n_members, device=adam.flat.device)
        self.refresh = self.kernels.refresh

    def begin(self, n_before: int) -> None:
        """Begin a block of steps, after `n_before` steps of the fit."""
        self.kernels.position.zero_()
        self.kernels.n_before.fill_(n_before)

    @staticmethod
    def serves(trainee: Trainee, n_steps: int) -> bool:
        """Whether the kernels support device, network and loss, and are faster for this many steps."""
        gpu = kernels("gpu")
        return (
            gpu is not None
            and n_steps >= _WORTH_COMPILING
            and gpu.available(trainee.device)
            and trainee.autocast is None
            and trainee.member_steps is None
            and bool(gpu.supports(trainee.module, trainee.loss.name))
        )

    def step(self, gathered: Batch) -> None:
        """Take the step at `position` and advance it."""
        adam = self.adam
        self.kernels.forward_backward(*gathered)
        self.kernels.reduce_adam(
            adam.mean,
            adam.square,
            self.rates,
            self.losses,
            beta2=adam.beta2,
            eps=adam.eps,
            weight_decay=adam.weight_decay,
            decoupled=adam.decoupled,
        )


@final
class GraphPass(Pass):
    """Captures the work of an epoch on a GPU as CUDA graphs and replays them.

    One graph gathers and augments the rows of a block of steps, others take one step or all of a block.

    Parameters
    ----------
    trainee : Trainee
        The members, on a CUDA device.
    batches : TrainBatches or StreamTrainBatches
        Batches of an epoch.
    """

    def __init__(self, trainee: Trainee, batches: AnyTrainBatches) -> None:
        self.trainee = trainee
        self._eager = EagerPass(trainee, batches)
        self.rows = rows_for(batches)
        parameters = [p for p in trainee.module.parameters() if p.requires_grad]
        n_steps = batches.n_steps * trainee.n_epochs
        fused = _Fused.serves(trainee, n_steps) and isinstance(batches, TrainBatches)
        stepper = _Fused if fused else _Autograd
        self.adam = FlatAdam(
            parameters,
            trainee.optimizer.param_groups[0],
            decoupled=isinstance(trainee.optimizer, torch.optim.AdamW),
            aligned=stepper is _Autograd,
            member_steps=trainee.member_steps,
        )
        self.n_done = 0
        self.stepper = stepper(trainee, self.adam, self.rows.block_size)
        self._gather_graph, self._step_graphs = self._capture()

    @classmethod
    def serves(cls, trainee: Trainee, batches: AnyTrainBatches) -> bool:
        """Whether steps can be captured: on CUDA, with Adam, and no callback watches single batches."""
        del batches
        group = trainee.optimizer.param_groups[0]
        return (
            trainee.device.type == "cuda"
            and trainee.capture
            and not trainee.is_watched
            and type(trainee.optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and len(trainee.optimizer.param_groups) == 1
            and not (group["amsgrad"] or group["maximize"])
        )

    def _gather(self) -> None:
        """Gather the rows of a block of steps."""
        self.gathered = Batch(*(part.contiguous() for part in self.rows.gather()))

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, dict[int, torch.cuda.CUDAGraph]]:
        """Warm up on a side stream, as CUDA graphs need it, restore all tensors, then capture."""
        generators = self.trainee.generators
        changed = [self.adam.flat, self.adam.mean, self.adam.square, *self.trainee.module.buffers()]
        kept = [t.clone() for t in changed]
        random = [g.get_state() for g in generators]
        main = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.stepper.position.zero_()
                self._gather()
                self.stepper.step(self.gathered)
        main.wait_stream(side)
        for tensor, value in zip(changed, kept, strict=True):
            tensor.copy_(value)
        for generator, state in zip(generators, random, strict=True):
            generator.set_state(state)
        gather = self._captured(self._gather)
        numbers = {1, self.stepper.n_captured}
        return gather, {n: self._captured(partial(self._steps, n)) for n in numbers}

    def _steps(self, n: int) -> None:
        for _ in range(n):
            self.stepper.step(self.gathered)

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self.trainee.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            work()
        return graph

    def _fetch(self, first: int) -> None:
        """Gather the rows of the block of steps that starts at `first`."""
        self.rows.stage(first)
        self._gather_graph.replay()
        self.stepper.begin(self.n_done + first)

    def validate(self, batches: AnyValidBatches, *, call_back: bool = True) -> Scores:
        """Return the validation scores of the members."""
        return self._eager.validate(batches, call_back=call_back)

    def reload(self) -> None:
        """Do nothing: parameters are written in place, where the graphs read them."""

    def train(self, rates: Rates) -> NDArray[np.float64]:
        """Take the steps of one epoch; return the mean loss of every member."""
        return self.replay(self.trainee.rates.of_epoch(rates))

    def replay(self, applied: Sequence[StepRates]) -> NDArray[np.float64]:
        """Take one step for each of the given rates; return the mean loss of every member."""
        n_steps, stepper, block = len(applied), self.stepper, self.rows.block_size
        device = self.adam.flat.device
        lr, beta1 = np.array(applied, dtype=float).T
        table = adam_rates(lr, beta1, self.adam.beta2, self.n_done)
        on_device = torch.as_tensor(table, device=device)
        losses = torch.empty(n_steps, stepper.losses.shape[1], device=device)
        stepper.refresh()
        for first in range(0, n_steps, block):
            n = min(block, n_steps - first)
            stepper.rates[:n].copy_(on_device[first : first + n])
            self._fetch(first)
            # The last block may have fewer steps than its graph.
            n_at_once = stepper.n_captured if n == block else 1
            for _ in range(n // n_at_once):
                self._step_graphs[n_at_once].replay()
            losses[first : first + n].copy_(stepper.losses[:n])
        self.n_done += n_steps
        # The host prepares the next epoch while the device still computes this one.
        self.rows.prepare_epoch()
        means: NDArray[np.float64] = losses.mean(0).double().cpu().numpy()
        return means
