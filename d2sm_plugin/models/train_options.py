"""The keys of the block ``train``: those of every model, and the base for those that a model adds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from d2sm_plugin.blocks import Block, Whole, at_key
from d2sm_plugin.data.dataset_options import MOST_AT_ONCE
from d2sm_plugin.errors import suggest

_EXAMPLES = ("pixel_opt", "perceptual_opt", "d2sm_opt")


class TrainOptions(Block):
    """``train``: the optimiser, its schedule, and one ``*_opt`` block for each objective.

    A model with keys of its own names a subclass as its class attribute ``train_options``.
    """

    model_config = ConfigDict(extra="allow")  # the objectives; anything else is refused by the check below

    total_iter: Whole = Field(ge=1, description="optimiser steps of the whole run")
    warmup_iter: Whole = Field(
        -1, ge=-1, description="linear warm-up of the learning rate over so many steps; -1: none"
    )
    ema_decay: float = Field(0.0, ge=0, lt=1, description="exponential moving average of the weights; 0: none")
    optim_g: dict[str, Any] = Field(description="type: any class of torch.optim; lr and the rest go to it")
    scheduler: dict[str, Any] | None = Field(
        None, description="BasicSR's MultiStepLR, CosineAnnealingRestartLR, or torch's"
    )
    amp: Literal["bf16", "fp16"] | None = Field(None, description="autocast of networks and extractors; none: float32")
    channels_last: bool = Field(False, description="memory layout of networks, extractors and images; often faster")
    compile: bool = Field(
        False, description="torch.compile of the network and of D2SM's extractors; slow to start, needs a C++ compiler"
    )
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: no clipping")
    accumulate: PositiveInt = Field(1, le=MOST_AT_ONCE, description="mini-batches for one optimiser step")
    max_nonfinite_steps: PositiveInt = Field(10, description="stop after so many non-finite losses in a row")

    @property
    def objectives(self) -> dict[str, dict[str, Any]]:
        """The ``*_opt`` blocks that are switched on, in the order of the option file."""
        return {key: block for key, block in (self.model_extra or {}).items() if block is not None}

    @model_validator(mode="before")
    @classmethod
    def _only_objectives_besides(cls, block: Any) -> Any:
        known = [*cls.model_fields, *_EXAMPLES]
        for key, value in block.items() if isinstance(block, dict) else ():
            if key in cls.model_fields:
                continue
            if not isinstance(key, str) or not key.endswith("_opt") or key == "_opt":
                raise at_key(str(key), f"unknown key{suggest(str(key), known)}")
            if value is not None and (not isinstance(value, dict) or "type" not in value):
                raise at_key(key, "expected a block with a 'type', or ~ to switch the objective off")
        return block
