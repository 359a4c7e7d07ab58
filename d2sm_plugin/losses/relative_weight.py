"""A weight that sets itself: an objective's gradient as a multiple of another objective's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.gather import mean_over_processes, world_size
from d2sm_plugin.losses.state_module import StateModule, not_compiled


class RelativeWeight(StateModule):
    """Factor that makes an objective's gradient at the network's output ``relative`` times that of a reference.

    It is ``relative * sqrt(R / O)``, with the means R and O, over the first ``steps`` steps, of the squared L2 norms of
    both gradients with respect to the output. So it does not matter what the objective is a sum or a mean of.

    Args:
        relative: the multiple, above 0.
        steps: that are measured; the weight then stays as it is. With ``follow``, the steps that the means reach back
            over, about.
        follow: measure every step of the training, which costs a second backward pass of the objective each.

    Attributes:
        squares: the means O and R, float64; part of the state like ``count``, the number of steps in them.
        settled: whether a step was measured with nothing provisional (see :meth:`add`).

    Raises:
        OptionError: for arguments that cannot be used.

    >>> weight = RelativeWeight(0.5)
    >>> output = torch.zeros(3, requires_grad=True)
    >>> pixel, other = output.sum(), (100 * output).sum()
    >>> total = pixel + weight(other, pixel, output)
    >>> round(weight.value, 6)
    0.005
    """

    host_buffers = ("squares", "count", "settled")
    squares: Tensor
    count: Tensor
    settled: Tensor

    def __init__(self, relative: float, steps: int = 50, follow: bool = False) -> None:
        super().__init__()
        if isinstance(relative, bool) or not isinstance(relative, int | float) or not 0 < relative < math.inf:
            raise OptionError(f"RelativeWeight.relative: expected a finite number above 0, got {relative!r}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise OptionError(f"RelativeWeight.steps: expected an integer of at least 1, got {steps!r}")
        self.relative, self.steps, self.follow = float(relative), steps, follow
        self._warned = False
        self.register_buffer("squares", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    @property
    def value(self) -> float:
        """Weight as measured up to now; 0 before anything is."""
        objective, reference = self.squares.tolist()
        return self.relative * math.sqrt(reference / objective) if self.count else 0.0

    @property
    def measuring(self) -> bool:
        """True until the weight is frozen."""
        return self.follow or not bool(self.settled) or int(self.count) < self.steps

    def add(self, objective: float, reference: float, settled: bool = True) -> bool:
        """Take in the gradients of a step; norms that are not finite and above 0 leave everything as it is.

        Args:
            objective: L2 norm of the objective's gradient at the output, before any weight.
            reference: likewise of the reference, as it enters the training.
            settled: False while the objective's scale is still to change, as that of D2SM with a queue that fills. What
                was measured before counts until the first step that is settled, and no more from then on.

        Returns:
            Whether the step was measured.
        """
        pair = torch.tensor([objective, reference], dtype=torch.float64).square()
        if not (pair.isfinite().all() and (pair > 0).all()):
            return False
        if settled and not self.settled:
            self.settled.fill_(True)
            self.count.zero_()
        self.count += 1
        self.squares.lerp_(pair, 1 / min(int(self.count), self.steps))
        return True

    @not_compiled
    def forward(self, objective: Tensor, reference: Tensor, output: Tensor, settled: bool = True) -> Tensor:
        """Weighted objective, a scalar, measured first where that is still to be done.

        Call it once a step, in every process of a distributed training, and add the result to the reference.

        Args:
            objective: its value (a scalar), before any weight.
            reference: that of the reference, usually the pixel objective.
            output: what the network made, of which both were computed.
            settled: see :meth:`add`; ``not loss.filling`` for a D2SMLoss with a queue.
        """
        if self.measuring and self.training and torch.is_grad_enabled():
            of_process = gradient_norms({"objective": objective, "reference": reference}, [output])
            norms = joint_norms({name: norm.square() for name, norm in of_process.items()})
            if not self.add(norms["objective"], norms["reference"], settled) and not self._warned:
                self._warned = True
                warnings.warn(f"RelativeWeight: {unmeasured(norms)}; such steps are not counted", stacklevel=2)
        return self.value * objective

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return f"relative={self.relative:g}, steps={self.steps}, follow={self.follow}"


def unmeasured(norms: Mapping[str, float]) -> str:
    """Return what makes a step tell nothing about a weight, for a message."""
    return ", ".join(f"the gradient of {name} at the output has the norm {norm:.3g}" for name, norm in norms.items())


def gradient_norms(losses: Mapping[str, Tensor], outputs: Iterable[Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """Return the L2 norm of each objective's gradient with respect to the network's outputs, by name.

    The graph stays usable, so that the training step can go on with the same losses.

    Args:
        losses: scalars.
        outputs: tensors; those without gradient are passed over.
        scale: factor on losses in the backward pass, which keeps gradients of float16 from vanishing.
    """
    leaves = [tensor for tensor in outputs if tensor.requires_grad]
    norms = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            norms[name] = loss.new_zeros(())
            continue
        loss = loss if scale == 1 else scale * loss
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        squares = [(g.float() / scale).square().sum() for g in gradients if g is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())
    return norms


def joint_norms(squares: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the norms of gradients at the outputs of all processes together, as DistributedDataParallel averages them.

    Every process must call it. Waits for the device.

    Args:
        squares: squared norms at the outputs of this process.
    """
    if not squares:
        return {}
    joint = mean_over_processes(torch.stack(list(squares.values()))) / world_size()
    return dict(zip(squares, joint.double().sqrt().tolist(), strict=True))
