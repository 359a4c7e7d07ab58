"""Deep semantic statistics matching, the objective of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from d2sm_plugin.argument_types import BlockOf, Weight
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.losses.clear_centre import ClearCentre
from d2sm_plugin.losses.functional import check_options, computing_dtype, semantic_divergence
from d2sm_plugin.losses.gather import share_of
from d2sm_plugin.losses.queue_sampler import QueueSampler
from d2sm_plugin.losses.sampled_objective import SampledObjective
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.shorthands import as_sampler, complete
from d2sm_plugin.losses.state_module import not_compiled
from d2sm_plugin.registry import FEATURE_REGISTRY, LOSS_REGISTRY, register

KERNELS = ("cosine", "centred_cosine")


@register(LOSS_REGISTRY)
class D2SMLoss(SampledObjective):
    """Match the statistics of restored images to those of clear ones, in a semantic feature space (paper, eq. 2 to 9).

    Under ``torch.distributed``, and in training mode, the features of all processes form one joint batch, in the
    order of ranks: every process computes the same value, keeps the same queue, and a network in
    DistributedDataParallel gets the gradient of a single process with the joint batch. All processes must then hold
    batches of one size.

    The extractor is no child module: it is frozen, kept in eval mode, moves with the objective, and is neither among
    its parameters nor in its ``state_dict``, which holds what the queue and the sampler remember. It runs under the
    autocast of the caller, if any; the divergence never does.

    Without arguments it is the recommended recipe (preset ``"positions"``): all positions of a late feature map.

    Args:
        extractor: module that maps images (B, 3, H, W), RGB in [0, 1], to features (B, D); a network of timm, or its
            name; or an option block such as ``{"type": "VGG19Features", "layer": "fc7"}``. None takes that of the
            preset.
        queue: None compares the samples of the batch alone; a :class:`QueueSampler`, its size or ``{"type":
            "QueueSampler", "size": 256}`` compares with historic ones too.
        patches: None takes whole images as samples; a :class:`PatchSampler`, a :class:`SpatialSampler`, their names
            ``"patch"`` and ``"spatial"``, or an option block takes several samples of each image.
        divergence: ``"kl"`` (eq. 2), ``"reverse_kl"`` (iKLD of Table 4) or ``"js"`` (eq. 10); see
            :func:`d2sm_plugin.losses.functional.semantic_divergence`.
        reduction: ``"sum"`` over the samples, as in eq. 2 (not BasicSR's usual ``"mean"``): the value grows with their
            number, queue included. ``"mean"`` divides by that number.
        loss_weight: factor on the result.
        kernel: ``"cosine"`` is (cos + 1) / 2 of features (eq. 5); ``"centred_cosine"`` is the same of features less the
            mean of the clear ones, whose rows are less uniform (ours). Without a queue that is the mean of the batch;
            with a queue of q samples, that of the first q clear samples, which is then frozen so that all rows in the
            queue are centred alike. Until then each batch is compared by itself.
        preset: ``"positions"``, ``"dinov2"``, ``"dinov3"`` or ``"paper"``: what takes the place of extractor, queue and
            patches that are None (see :data:`d2sm_plugin.losses.shorthands.PRESETS`). None means ``"positions"`` where
            no extractor is given.

    Attributes:
        last: of the last call, ``divergence`` (scalar tensor on the device, before ``loss_weight``), ``samples``
            (number in the joint batch) and ``queue_fill`` (number in the queue).

    Raises:
        OptionError: for arguments that cannot be used or combined.

    >>> import timm
    >>> network = timm.create_model("test_resnet")  # random weights; D2SMLoss("tf_efficientnet_lite0") has ImageNet's
    >>> loss = D2SMLoss(network, queue=256, patches="spatial", loss_weight=1e-3)
    >>> clear = torch.rand(2, 3, 96, 96)
    >>> restored = (clear + 0.1 * torch.randn_like(clear)).requires_grad_()
    >>> loss(restored, clear).backward()
    >>> loss.last["samples"], restored.grad.shape
    (18, torch.Size([2, 3, 96, 96]))
    """

    def __init__(
        self,
        extractor: Annotated[nn.Module | Mapping[str, Any] | str | None, BlockOf(FEATURE_REGISTRY)] = None,
        queue: Annotated[QueueSampler | Mapping[str, Any] | int | None, BlockOf(LOSS_REGISTRY, QueueSampler)] = None,
        patches: Annotated[Sampler | Mapping[str, Any] | str | None, BlockOf(LOSS_REGISTRY, Sampler)] = None,
        divergence: str = "kl",
        reduction: Literal["sum", "mean"] = "sum",
        loss_weight: Weight = 1.0,
        preset: str | None = None,
        kernel: Literal["cosine", "centred_cosine"] = "cosine",
    ) -> None:
        check_options(divergence, reduction)
        if kernel not in KERNELS:
            raise OptionError(f"D2SMLoss.kernel: '{kernel}' is unknown{suggest(str(kernel), KERNELS)}")
        parts = complete(preset, extractor=extractor, queue=queue, patches=patches)
        super().__init__(parts["extractor"], parts["patches"])
        self.divergence, self.reduction, self.loss_weight = divergence, reduction, loss_weight
        self.queue = as_sampler(parts["queue"], QueueSampler, "D2SMLoss.queue")
        if self.queue is not None and self.within_images:
            raise OptionError(
                "D2SMLoss: patches with scope 'image' compare samples of one image only, so a queue of other images' "
                "samples has no part in it; set scope 'batch', or leave the queue out"
            )
        self.kernel = kernel
        self.centre = ClearCentre(self.queue.size if self.queue is not None else None) if kernel != "cosine" else None
        self.last: dict[str, Tensor | int] = {}

    @not_compiled
    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Divergence of the restored images from the clear ones.

        Under ``torch.compile`` it is one break of the graph, because what a queue or a sampler remembers is no part of
        a graph. An extractor compiled by itself stays compiled.

        Args:
            restored: images (B, 3, H, W) in [0, 1], which they may leave a little.
            clear: images (B, 3, H, W) in [0, 1]; constants.

        Returns:
            A scalar. The gradient reaches ``restored`` only.

        Raises:
            ShapeError: for images of wrong shape and, at the first call, of another value range.
        """
        restored_samples, clear_samples = self.samples(restored, clear)
        value = self._compare(restored_samples, clear_samples)
        self.last = {
            "divergence": value.detach(),
            "samples": restored_samples.shape[0] * restored_samples.shape[1],
            "queue_fill": 0 if self.queue is None else len(self.queue),
        }
        return value * self.loss_weight

    def extra_repr(self) -> str:
        """Name what is no child module."""
        return (
            f"extractor={type(self.network).__name__}, kernel={self.kernel}, divergence={self.divergence}, "
            f"reduction={self.reduction}, loss_weight={self.loss_weight}"
        )

    @property
    def filling(self) -> bool:
        """True while the queue does not hold all its samples yet."""
        return self.queue is not None and len(self.queue) < self.queue.size

    @property
    def accumulation(self) -> str:
        """Way that mini-batches of one step make the joint batch, see :mod:`d2sm_plugin.losses.accumulation`.

        With a queue each value is that of all samples in it, whose number does not depend on the mini-batch, and its
        gradient reaches the rows of the mini-batch alone: the gradients of mini-batches are parts of one, and add up
        for ``"mean"`` too.
        """
        return self.reduction if self.queue is None else "queue"

    def _compare(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Divergence of samples (B, P, D)."""
        options = self.divergence, self.reduction
        queue = self.queue
        if self.centre is not None:
            restored, clear = (features.to(computing_dtype(features)) for features in (restored, clear))
            ready = self.centre.frozen
            centre = self.centre(clear.flatten(0, 1))
            restored, clear = restored - centre, clear - centre
            queue = queue if ready else None
        if self.within_images:
            return self._within_images(restored, clear)
        pooled = restored.flatten(0, 1), clear.flatten(0, 1)
        share = share_of(len(pooled[0])) if self.training else None
        return (semantic_divergence if queue is None else queue)(*pooled, *options, share)

    def _within_images(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Sum or mean of the divergences of each image's samples (B, P, D); of several processes, each has its own."""
        share = share_of(len(restored)) if self.training else None
        images = slice(*(share.rows if share is not None else (None,)))
        pairs = zip(restored[images], clear[images], strict=True)
        total = torch.stack([semantic_divergence(*pair, self.divergence, self.reduction) for pair in pairs]).sum()
        if share is not None:
            joint = total.detach().clone()
            share.add(joint)
            total = total + (joint - total.detach())
        return total if self.reduction == "sum" else total / len(restored)
