"""The shape of an option file: which keys there are and which values they take.

The dialect is BasicSR's. Blocks with a ``type`` (networks, objectives, datasets, metrics, optimisers) are open here;
:mod:`d2sm_plugin.options.checks` holds them against what the named class takes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

Block = dict[str, Any]


class Strict(BaseModel):
    """A block in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class PathOptions(Strict):
    """``path``: where weights come from and where results go; relative paths start at the working directory."""

    pretrain_network_g: str | None = Field(None, description="weights to start from (path or URL)")
    param_key_g: str | None = Field(None, description="wrapper in that file, e.g. params_ema; none: found by itself")
    strict_load_g: bool = Field(True, description="false: load what fits, leave the rest")
    pretrain_network_d: str | None = Field(None, description="discriminator weights, for models that have one")
    param_key_d: str | None = None
    strict_load_d: bool = True
    resume_state: str | None = Field(None, description="training state to continue from (training_states/N.state)")
    ignore_resume_networks: bool | None = Field(None, description="accepted for BasicSR's sake; not used")
    experiments_root: str = Field("experiments", description="folder that holds one folder for each training run")
    results_root: str = Field("results", description="folder that holds one folder for each test run")


class TrainOptions(BaseModel):
    """``train``: the optimiser, its schedule, and one ``*_opt`` block for each objective."""

    model_config = ConfigDict(extra="allow")  # the *_opt blocks; anything else is refused by the check below

    total_iter: PositiveInt = Field(description="optimiser steps of the whole run")
    warmup_iter: int = Field(-1, description="linear warm-up of the learning rate over so many steps; -1: none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="exponential moving average of the weights; 0: none")
    optim_g: Block = Field(description="type: any class of torch.optim; lr and the rest go to it")
    optim_d: Block | None = Field(None, description="likewise for a discriminator")
    scheduler: Block | None = Field(None, description="BasicSR's MultiStepLR, CosineAnnealingRestartLR, or torch's")
    amp: Literal["bf16", "fp16"] | None = Field(None, description="autocast of networks and extractors; none: float32")
    channels_last: bool = Field(False, description="memory layout of networks, extractors and images; often faster")
    compile: bool = Field(
        False, description="torch.compile of the network and of D2SM's extractor; slow to start, needs a C++ compiler"
    )
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: no clipping")
    accumulate: PositiveInt = Field(1, description="mini-batches for one optimiser step")
    max_nonfinite_steps: PositiveInt = Field(10, description="stop after so many non-finite losses in a row")
    frozen: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="part of the network -> step until which it keeps its weights (DICModel)"
    )
    growth: Block | None = Field(
        None, description="{ends: [steps], fade: steps}: stages of a network that grows (ProgressiveModel)"
    )
    net_d_iters: PositiveInt = 1
    net_d_init_iters: NonNegativeInt = 0

    @model_validator(mode="after")
    def _only_objectives_besides(self) -> TrainOptions:
        known = set(type(self).model_fields)
        for key, value in (self.model_extra or {}).items():
            if not key.endswith("_opt"):
                names = [*known, "pixel_opt", "d2sm_opt", "perceptual_opt"]
                raise PydanticCustomError("unknown_key", "unknown key", {"key": key, "known": names})
            if value is not None and (not isinstance(value, dict) or "type" not in value):
                raise PydanticCustomError("not_a_block", "not a block", {"key": key})
        return self


class ValOptions(Strict):
    """``val``: when to validate, what to measure, which pictures to keep."""

    val_freq: PositiveInt | None = Field(None, description="steps between two validations; none: at the end alone")
    save_img: bool = Field(True, description="write pictures")
    max_pictures: NonNegativeInt = Field(8, description="pictures a set (training; testing writes every one)")
    suffix: str | None = Field(None, description="appended to the names of restored pictures (testing)")
    pbar: bool = Field(True, description="progress bar")
    tile: PositiveInt | None = Field(None, description="restore by tiles of so many pixels; none: whole images")
    tile_overlap: NonNegativeInt | None = Field(
        None, description="context on each inner side of a tile, in pixels; none: as far as the network sees"
    )
    measure_input: bool = Field(False, description="measure the degraded images as well, as NAME_input")
    save_best: str | None = Field(None, description="metric whose best network on the first set is kept")
    metrics: dict[str, Block] = Field(default_factory=dict, description="name: {type: calculate_psnr, crop_border: 0}")
    segmentation: Block | None = Field(None, description="semantic accuracy, see docs/segmentation.md")


class LoggerOptions(Strict):
    """``logger``: what is written while training."""

    print_freq: PositiveInt = Field(100, description="steps between two lines of the log")
    save_checkpoint_freq: PositiveInt = Field(5000, description="steps between two checkpoints")
    keep_checkpoints: PositiveInt | None = Field(5, description="newest checkpoints to keep; none: all")
    grad_norm_freq: NonNegativeInt = Field(0, description="steps between gradient-norm ratios; 0: the first step only")
    use_tb_logger: bool = True
    wandb: dict[str, Any] | None = None


class Options(Strict):
    """The whole option file."""

    name: str = Field(min_length=1, pattern=r"^[^/\\]+$", description="name of the run and of its folder")
    model_type: str = "D2SMModel"
    scale: PositiveInt = Field(1, description="super-resolution factor; 1 for denoising and dehazing")
    num_gpu: NonNegativeInt | Literal["auto"] = Field("auto", description="0: CPU; auto: one where there is one")
    manual_seed: NonNegativeInt = Field(0, description="seeds weights, data order, crops and noise")
    deterministic: bool = Field(False, description="ask CUDA for repeatable kernels too (slower)")
    datasets: dict[str, Block]
    network_g: Block
    network_d: Block | None = None
    path: PathOptions = Field(default_factory=PathOptions)
    train: TrainOptions | None = None
    val: ValOptions = Field(default_factory=ValOptions)
    logger: LoggerOptions = Field(default_factory=LoggerOptions)
    dist_params: dict[str, Any] | None = Field(None, description="accepted for BasicSR's sake; torchrun decides")
    find_unused_parameters: bool = False
