"""A whole pass on a GPU without Python in between: the training step captured as a CUDA graph.

The graphs hold all of a step: rows are looked up in the plan of the pass, gathered and augmented, forward
and backward are run and the parameters updated. What changes from step to step (rows, learning rate,
momentum, step number) lies in tensors on the device that the graphs read, so that a step costs the host
one replay, and nothing waits for anything.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skhep_nn._batches import Batch, EventDataset, TrainBatches

__all__ = ["FlatAdam", "GraphedPass"]

_WARM_UP = 3


class FlatAdam:
    """Adam over all parameters in one flat buffer, its rates read from the device.

    torch's fused Adam bakes beta1 into a captured graph; 1cycle changes it every step.

    Parameters
    ----------
    parameters : list of Parameter
        Become views of one buffer.
    group : dict
        A parameter group of `torch.optim.Adam` or `AdamW`: betas, eps and weight_decay are read.
    decoupled : bool
        Whether weight decay is AdamW's.
    """

    def __init__(
        self, parameters: list[nn.Parameter], group: dict[str, Any], *, decoupled: bool
    ) -> None:
        self.parameters = parameters
        self.flat = torch.cat([p.detach().flatten() for p in parameters])
        for p, part in zip(parameters, self._split(self.flat), strict=True):
            p.data = part.view_as(p)
        self.mean = torch.zeros_like(self.flat)
        self.square = torch.zeros_like(self.flat)
        self.count = torch.zeros((), device=self.flat.device)
        self.beta2, self.eps = group["betas"][1], group["eps"]
        self.weight_decay, self.decoupled = group["weight_decay"], decoupled

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = flat.split([p.numel() for p in self.parameters])
        return parts

    def state(self) -> list[Tensor]:
        """Return the tensors that a step changes."""
        return [self.flat, self.mean, self.square, self.count]

    def step(self, lr: Tensor, beta1: Tensor) -> None:
        """Update the parameters by their gradients."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        grad = torch.cat([g.flatten() for g in grads])
        if self.weight_decay and self.decoupled:
            self.flat.mul_(1 - lr * self.weight_decay)
        elif self.weight_decay:
            grad = grad.add(self.flat, alpha=self.weight_decay)
        self.count.add_(1)
        self.mean.lerp_(grad, 1 - beta1)
        self.square.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        size = lr / (1 - beta1**self.count)
        root = (self.square / (1 - self.beta2**self.count)).sqrt_().add_(self.eps)
        self.flat.sub_(size * self.mean / root)


class _Stager:
    """Brings rows from the host while the device is busy with those before.

    Two buffers on the host take turns: one is filled while the other is on its way.
    """

    def __init__(self, dataset: EventDataset, shape: torch.Size) -> None:
        self.dataset = dataset
        row = dataset.X.shape[1:]
        device = dataset.y.device
        self.rows = torch.zeros(*shape, *row, dtype=dataset.X.dtype, device=device)
        self._arrived = torch.empty_like(self.rows)
        self._stream = torch.cuda.Stream()
        buffers = [
            torch.empty(self.rows.shape, dtype=self.rows.dtype, pin_memory=True) for _ in range(2)
        ]
        self._buffers = cycle(zip(buffers, (torch.cuda.Event(), torch.cuda.Event()), strict=True))
        self._taken = torch.cuda.Event()

    def stage(self, index: Tensor) -> None:
        """Bring rows; work enqueued on the device from now on finds them in `rows`."""
        buffer, left = next(self._buffers)
        left.synchronize()
        filled = buffer.flatten(0, 2)[: index.numel()]
        torch.index_select(self.dataset.X, 0, index.flatten(), out=filled)
        main = torch.cuda.current_stream()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken)
            self._arrived.copy_(buffer, non_blocking=True)
            left.record()
        main.wait_stream(self._stream)
        self.rows.copy_(self._arrived)
        self._taken.record(main)


class GraphedPass:
    """Captures the work of a net on a GPU and replays it.

    Two graphs: one gathers and augments the rows of some steps, one takes a step. Which steps is said by
    two numbers on the device, which the graphs count up.

    Parameters
    ----------
    net : MemberNet
        Initialised, its module on a CUDA device.
    batches : TrainBatches
        Where the rows of a pass come from.
    """

    def __init__(self, net: Any, batches: TrainBatches) -> None:
        self.net = net
        self.batches = batches
        device = batches.device
        parameters = [p for p in net.module_.parameters() if p.requires_grad]
        group = net.optimizer_.param_groups[0]
        self.adam = FlatAdam(
            parameters, group, decoupled=isinstance(net.optimizer_, torch.optim.AdamW)
        )
        n_steps, n_members = batches.sizes.shape
        self.at_once = batches.n_gathered
        self.n_blocks = -(-n_steps // self.at_once)
        # Filled up to whole blocks, whose last steps are gathered but not taken.
        filled = self.n_blocks * self.at_once
        self.sizes = torch.zeros(filled, n_members, device=device)
        self.sizes[:n_steps] = batches.sizes
        self.lr, self.beta1 = torch.zeros(2, filled, device=device)
        self.losses = torch.zeros(n_steps, n_members, device=device)
        self.block, self.position = torch.zeros(2, 1, dtype=torch.long, device=device)
        # One plan is drawn while the other is still being read.
        plan = batches.draw()
        self._plans = cycle([plan.pin_memory(), torch.empty_like(plan, pin_memory=True)])
        self._plan = next(self._plans)
        self.index = torch.zeros_like(plan[: self.at_once], device=device)
        self._stager = (
            _Stager(batches.dataset, self.index.shape) if batches.dataset.streams else None
        )
        self._gather_graph, self._step_graph = self._capture()

    @staticmethod
    def serves(net: Any) -> bool:
        """Whether the net's step can be captured: on CUDA, by Adam, and nobody watches single batches."""
        group = net.optimizer_.param_groups[0]
        return (
            torch.device(net.device).type == "cuda"
            and net.capture
            and not net.notifies_batches
            and type(net.optimizer_) in (torch.optim.Adam, torch.optim.AdamW)
            and len(net.optimizer_.param_groups) == 1
            and not (group["amsgrad"] or group["maximize"])
        )

    def _gather(self) -> None:
        """Gather the rows of the next block of steps."""
        sizes = self.sizes.unflatten(0, (self.n_blocks, self.at_once))
        rows = None if self._stager is None else self._stager.rows
        self.gathered = self.batches.gather(
            self.index, sizes.index_select(0, self.block)[0], rows=rows
        )
        self.block.add_(1)

    def _step(self) -> None:
        """Take the next step, with rows of the block that was gathered last."""
        for p in self.adam.parameters:
            p.grad = None
        inside = self.position % self.at_once
        batch = Batch(*(part.index_select(0, inside)[0] for part in self.gathered))
        step = self.net.train_step_single(batch)
        self.losses.index_copy_(0, self.position, step["member_losses"].unsqueeze(0))
        lr, beta1 = (t.index_select(0, self.position)[0] for t in (self.lr, self.beta1))
        self.adam.step(lr, beta1)
        self.position.add_(1)

    def _rewind(self) -> None:
        self.block.zero_()
        self.position.zero_()

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]:
        """Warm up aside, as capture asks for, put everything back, then capture."""
        generators = self.net.generators
        kept = [t.clone() for t in self.adam.state()]
        random = [g.get_state() for g in generators]
        main = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._rewind()
                self._gather()
                self._step()
        main.wait_stream(side)
        for tensor, value in zip(self.adam.state(), kept, strict=True):
            tensor.copy_(value)
        for generator, state in zip(generators, random, strict=True):
            generator.set_state(state)
        self._rewind()
        graphs = []
        for work in (self._gather, self._step):
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                work()
            graphs.append(graph)
        return graphs[0], graphs[1]

    def _fetch(self, first: int) -> None:
        """Gather the rows of the block that starts with a step."""
        index = self._plan[first : first + self.at_once]
        self.index[: len(index)].copy_(index, non_blocking=True)
        if self._stager is not None:
            self._stager.stage(index)
        self._gather_graph.replay()

    def run(self, rates: list[tuple[float, float | None]]) -> NDArray[np.float64]:
        """Run one pass; return the mean loss of every member."""
        n_steps = len(rates)
        lr, beta1 = torch.tensor(rates, dtype=torch.float32).T
        self.lr[:n_steps].copy_(lr)
        self.beta1[:n_steps].copy_(beta1)
        self._rewind()
        for step in range(n_steps):
            if step % self.at_once == 0:
                self._fetch(step)
            self._step_graph.replay()
        # While the device is busy with this pass, the host makes the plan of the next.
        self._plan = self.batches.draw(next(self._plans))
        means: NDArray[np.float64] = self.losses.mean(0).double().cpu().numpy()
        return means
