"""A whole pass on a GPU without Python in between: the training step captured as a CUDA graph.

The graph holds all of a step: it looks up the step's rows in the plan of the pass, gathers them, augments,
runs forward and backward and updates the parameters. What changes from step to step (rows, learning rate,
momentum, step number) lies in tensors on the device that the graph reads, so that a step costs the host
one replay, and nothing waits for anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skhep_nn.schedules import Rates

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


class GraphedPass:
    """Captures the training step of a net and replays it for every step of a pass.

    Parameters
    ----------
    net : MemberNet
        Initialised, its module on a CUDA device.
    batches : TrainBatches
        Where the rows of a pass come from.
    """

    def __init__(self, net: Any, batches: Any) -> None:
        self.net = net
        self.batches = batches
        device = batches.dataset.X.device
        parameters = [p for p in net.module_.parameters() if p.requires_grad]
        group = net.optimizer_.param_groups[0]
        self.adam = FlatAdam(
            parameters, group, decoupled=isinstance(net.optimizer_, torch.optim.AdamW)
        )
        self.index, self.share = (t.clone() for t in batches.template(device))
        n_steps, n_members = self.index.shape[:2]
        self.lr, self.beta1 = torch.zeros(2, n_steps, device=device)
        self.losses = torch.zeros(n_steps, n_members, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.graph = self._capture()
        self._plan: tuple[Tensor, Tensor] | None = None

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

    def _step(self) -> None:
        for p in self.adam.parameters:
            p.grad = None
        batch = self.batches.dataset.gather(
            self.index.index_select(0, self.position)[0],
            self.share.index_select(0, self.position)[0],
        )
        step = self.net.train_step_single(batch)
        self.losses.index_copy_(0, self.position, step["member_losses"].unsqueeze(0))
        lr, beta1 = (t.index_select(0, self.position)[0] for t in (self.lr, self.beta1))
        self.adam.step(lr, beta1)
        self.position.add_(1)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up aside, as capture asks for, put everything back, then capture."""
        generator = self.net.generator
        kept = [t.clone() for t in self.adam.state()]
        random = generator.get_state()
        main = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.position.zero_()
                self._step()
        main.wait_stream(side)
        for tensor, value in zip(self.adam.state(), kept, strict=True):
            tensor.copy_(value)
        generator.set_state(random)
        self.position.zero_()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def run(self, rates: Rates) -> NDArray[np.float64]:
        """Run one pass; return the mean loss of every member."""
        net = self.net
        applied = []
        for step in range(len(self.index)):
            net.set_rates(rates, step)  # a callback may have had the last word, see there
            group = net.optimizer_.param_groups[0]
            applied.append((group["lr"], group["betas"][0]))
        lr, beta1 = torch.tensor(applied, dtype=torch.float32).T
        self.lr.copy_(lr)
        self.beta1.copy_(beta1)
        index, share = self.batches.draw() if self._plan is None else self._plan
        self.index.copy_(index)
        self.share.copy_(share)
        self.position.zero_()
        for _ in range(len(self.index)):
            self.graph.replay()
        # While the device is busy with this pass, the host makes the plan of the next.
        self._plan = self.batches.draw()
        means: NDArray[np.float64] = self.losses.mean(0).double().cpu().numpy()
        return means
