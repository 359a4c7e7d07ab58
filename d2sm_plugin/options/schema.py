"""The shape of an option file: which keys there are and which values they take.

The dialect is BasicSR's. Blocks with a ``type`` (networks, objectives, datasets, metrics, optimisers) are open here;
:mod:`d2sm_plugin.options.checks` holds them against what the named class takes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, create_model, model_validator

from d2sm_plugin.blocks import Block, Whole, at_key
from d2sm_plugin.file_names import FileName
from d2sm_plugin.models.train_options import TrainOptions
from d2sm_plugin.seg.scorer import SegmentationOptions

TypeBlock = dict[str, Any]
#: Seeds are 32 bits for NumPy; every rank adds its number.
MAX_SEED = 2**31 - 1


class PathOptions(Block):
    """``path``: where weights come from and where results go; relative paths start at the working directory."""

    pretrain_network_g: str | None = Field(None, description="weights to start from (path or URL)")
    param_key_g: str | None = Field(None, description="wrapper in that file, e.g. params_ema; none: found by itself")
    strict_load_g: bool = Field(True, description="false: load what fits, leave the rest")
    pretrain_network_d: str | None = Field(None, description="discriminator weights, for models that have one")
    param_key_d: str | None = Field(None, description="as param_key_g, for the discriminator")
    strict_load_d: bool = Field(True, description="as strict_load_g, for the discriminator")
    resume_state: str | None = Field(None, description="training state to continue from (training_states/N.state)")
    ignore_resume_networks: bool | None = Field(None, description="accepted for BasicSR's sake; not used")
    experiments_root: str = Field("experiments", description="folder that holds one folder for each training run")
    results_root: str = Field("results", description="folder that holds one folder for each test run")


class ValOptions(Block):
    """``val``: when to validate, what to measure, which pictures to keep."""

    val_freq: Whole | None = Field(None, ge=1, description="steps between two validations; none: at the end alone")
    save_img: bool = Field(True, description="write pictures")
    max_pictures: NonNegativeInt = Field(8, description="pictures a set (training; testing writes every one)")
    suffix: FileName | None = Field(None, description="appended to the names of restored pictures (testing)")
    pbar: bool = Field(True, description="progress bar")
    tile: PositiveInt | None = Field(None, description="restore by tiles of so many pixels; none: whole images")
    tile_overlap: NonNegativeInt | None = Field(
        None, description="context on each inner side of a tile, in pixels; none: as far as the network sees"
    )
    measure_input: bool = Field(False, description="measure the degraded images as well, as NAME_input")
    save_best: str | list[str] | None = Field(
        None, description="metric, or several, whose best network on the first set is kept"
    )
    patience: PositiveInt | None = Field(
        None, description="end the training after so many validations without a better (first) `save_best`"
    )
    metrics: dict[FileName, TypeBlock] = Field(
        default_factory=dict, description="name: {type: calculate_psnr, crop_border: 0}"
    )
    segmentation: SegmentationOptions | None = Field(None, description="semantic accuracy, see docs/segmentation.md")

    @property
    def best_of(self) -> list[str]:
        """The names of ``save_best``."""
        return [self.save_best] if isinstance(self.save_best, str) else self.save_best or []


class LoggerOptions(Block):
    """``logger``: what is written while training."""

    print_freq: Whole = Field(100, ge=1, description="steps between two lines of the log")
    save_checkpoint_freq: Whole = Field(5000, ge=1, description="steps between two checkpoints")
    keep_checkpoints: PositiveInt | None = Field(5, description="newest checkpoints to keep; none: all")
    weights_format: Literal["safetensors", "pth"] = Field(
        "safetensors", description="kind of network files; BasicSR and older tools read pth"
    )
    grad_norm_freq: Whole = Field(0, ge=0, description="steps between gradient-norm ratios; 0: the first step only")
    use_tb_logger: bool = Field(True, description="TensorBoard curves under tb_logger/NAME")
    wandb: dict[str, Any] | None = Field(
        None, description="{project: ..., resume_id: ...} and arguments of wandb.init; off without a project"
    )
    mlflow: dict[str, Any] | None = Field(
        None, description="{experiment: ..., tracking_uri: ...}: a run of MLflow as well"
    )
    run_loggers: dict[FileName, TypeBlock] = Field(
        default_factory=dict, description="loggers of your own, name: {type: ...}, see docs/extend.md"
    )
    max_images: NonNegativeInt = Field(
        2, description="pictures of each validation set that all these loggers get; 0: none"
    )

    @model_validator(mode="after")
    def _project(self) -> LoggerOptions:
        keys = [key for key, value in (self.wandb or {}).items() if value is not None]
        if keys and "project" not in keys:
            raise at_key("wandb", f"project is missing, so {', '.join(map(str, keys))} would do nothing; add it")
        return self

    def blocks(self) -> dict[str, TypeBlock]:
        """Return the loggers that are asked for: name -> block with its type."""
        named: dict[str, TypeBlock] = {"use_tb_logger": {"type": "TensorBoardLogger"}} if self.use_tb_logger else {}
        if (self.wandb or {}).get("project"):  # as in BasicSR, whose files name none
            named["wandb"] = {"type": "WandbLogger", **(self.wandb or {})}
        if self.mlflow is not None:
            named["mlflow"] = {"type": "MlflowLogger", **self.mlflow}
        return named | {f"run_loggers.{name}": block for name, block in self.run_loggers.items()}


class Options(Block):
    """The whole option file."""

    name: FileName = Field(description="name of the run and of its folder")
    model_type: str = Field("D2SMModel", description="model that owns networks and objectives")
    custom_imports: list[str] = Field(
        default_factory=list,
        description="your own modules (`my_networks`) and files (`./my_losses.py`, beside the option file) with "
        "registered classes",
    )
    scale: PositiveInt = Field(1, description="super-resolution factor; 1 for denoising and dehazing")
    num_gpu: NonNegativeInt | Literal["auto"] = Field("auto", description="0: CPU; auto: one where there is one")
    manual_seed: int = Field(0, ge=0, le=MAX_SEED, description="seeds weights, data order, crops and noise")
    deterministic: bool = Field(False, description="ask CUDA for repeatable kernels too (slower)")
    datasets: dict[str, TypeBlock] = Field(
        description="train and any number of train_2, val, val_2, test_cbsd68: the key's beginning is the phase"
    )
    network_g: TypeBlock = Field(description="the restoration network: type and its arguments")
    network_d: TypeBlock | None = Field(None, description="the discriminator, for models that have one")
    path: PathOptions = Field(default_factory=PathOptions, description="see below")
    train: TrainOptions | None = Field(None, description="see below; needed for training")
    val: ValOptions = Field(default_factory=ValOptions, description="see below")
    logger: LoggerOptions = Field(default_factory=LoggerOptions, description="see below")
    dist_params: dict[str, Any] | None = Field(None, description="accepted for BasicSR's sake; torchrun decides")
    find_unused_parameters: bool = Field(
        False, description="for networks of which some parameters get no gradient, with several processes"
    )


@cache
def options_of(train_options: type[TrainOptions]) -> type[Options]:
    """Return the shape of an option file for models that declare these ``train_options``."""
    field = Field(None, description=Options.model_fields["train"].description)
    train: Any = (train_options | None, field)
    return create_model("Options", __base__=Options, train=train)
