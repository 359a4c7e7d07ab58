"""The shape of a suite file: a base option file, its variants, seeds, and what is measured at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from d2sm_plugin.blocks import Block, read_block
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.file_names import FileName
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.options.reader import apply_override
from d2sm_plugin.options.schema import MAX_SEED

Fragment = dict[str, Any]
Seeds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_SEED)]], Field(min_length=1)]


class Variant(Block):
    """One row of the table."""

    like: str | None = Field(None, description="variant that this one starts from; none: the suite's options")
    options: Fragment = Field(default_factory=dict, description="laid over that; a block set to ~ is removed")
    seeds: Seeds | None = Field(None, description="its own seeds; none: those of the suite")


class TestFragment(Block):
    """Test sets that every trained network is measured on: the same blocks as in an option file for testing."""

    datasets: dict[str, Fragment] = Field(min_length=1, description="test sets; sigma: [25, 35, 50] makes one for each")
    val: Fragment = Field(default_factory=dict, description="metrics, segmentation, tile")


class Untrained(Block):
    """Rows that are not trained."""

    input: str | None = Field("noisy", description="name of the row of the degraded images; ~: none")
    start: str | None = Field("start", description="name of the row of path.pretrain_network_g, where given; ~: none")
    clean: str | None = Field("clean", description="name of the row of the clean images (MIoU alone); ~: none")


class Grid(Block):
    """Crops that are shown side by side."""

    keys: list[str] | None = Field(None, description="images of the test sets; none: `count` of them, evenly spread")
    count: NonNegativeInt = Field(2, description="number of images where no keys are given; 0: no grids")
    crop: Annotated[list[NonNegativeInt], Field(min_length=4, max_length=4)] | None = Field(
        None, description="[y, x, height, width]; none: the window of `size` with the most detail"
    )
    size: PositiveInt = Field(128, description="side of the chosen window, in pixels")


class Cost(Block):
    """Measurement of the time and memory of an iteration."""

    steps: PositiveInt = Field(12, description="training steps in a process of their own")
    drop: NonNegativeInt = Field(3, description="first steps that do not count")
    rounds: PositiveInt = Field(2, description="how often the variants take turns")

    @model_validator(mode="after")
    def _leaves_some(self) -> Cost:
        if self.drop >= self.steps:
            raise ValueError(f"drop: {self.drop} of {self.steps} steps leave none to measure")
        return self


class Intervals(Block):
    """Intervals of differences, over seeds and blocks of neighbouring frames."""

    block: PositiveInt = Field(10, description="neighbouring frames of a block; 1 for images of unlike scenes")
    resamples: PositiveInt = Field(2000, description="draws of the bootstrap")
    seed: NonNegativeInt = Field(0, description="of the draws")


class Suite(Block):
    """The whole suite file."""

    name: FileName = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="of the suite and of its report's folder")
    title: str | None = Field(None, description="heading of the report; none: the name")
    base: str = Field(description="option file for training, relative to the file that names it")
    options: Fragment = Field(default_factory=dict, description="laid over the base option file, for every variant")
    seeds: Seeds = Field(description="one run of every variant for each")
    variants: dict[str, Variant] = Field(min_length=1, description="name of the row -> what it changes")
    baseline: str = Field(description="variant that differences and ratios refer to")
    untrained: Untrained = Field(default_factory=Untrained)
    test: TestFragment
    processes: PositiveInt = Field(
        1, description="of each training, under torchrun, one GPU each; they share the batch"
    )
    columns: list[str] | None = Field(None, description="metrics of the table; none: val.metrics, and mIoU if measured")
    grid: Grid = Field(default_factory=Grid)
    cost: Cost = Field(default_factory=Cost)
    intervals: Intervals = Field(default_factory=Intervals)

    @model_validator(mode="after")
    def _names_fit(self) -> Suite:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline: no variant '{self.baseline}'{suggest(self.baseline, self.variants)}")
        rows = [*self.variants, *filter(None, (self.untrained.input, self.untrained.start, self.untrained.clean))]
        twice = sorted({name for name in rows if rows.count(name) > 1})
        if twice:
            raise ValueError(f"variants: the name '{twice[0]}' is that of an untrained row too; rename one")
        for name in self.variants:
            self.lineage(name)
        return self

    def lineage(self, variant: str) -> list[str]:
        """Return the variants whose options make up this one, in the order in which they are laid over each other.

        Raises:
            ValueError: when ``like`` names no variant, or leads back to where it came from.
        """
        chain = [variant]
        while (name := self.variants[chain[0]].like) is not None:
            if name not in self.variants:
                raise ValueError(f"variants.{chain[0]}.like: no variant '{name}'{suggest(name, self.variants)}")
            if name in chain:
                raise ValueError(f"variants.{variant}.like: it leads back to '{name}'")
            chain.insert(0, name)
        return chain

    def seeds_of(self, variant: str) -> list[int]:
        """Return the seeds of a variant: its own, or those of the suite."""
        return self.variants[variant].seeds or self.seeds


def read_suite(path: str | Path, force: Iterable[str] = ()) -> tuple[Suite, dict[str, Any]]:
    """Read and check a suite file and the option file it is based on.

    Args:
        path: the YAML file, or the name of a shipped one.
        force: overrides ``"options:train:total_iter=100"`` of keys of the suite file; ``"variants:NAME=~"`` leaves a
            variant out.

    Returns:
        The suite, and the raw content of its base option file.

    Raises:
        OptionError: for anything that cannot be used; the message names the file and the key.
    """
    file = read_option_file(path, relative=["base"])
    raw = file.content
    if isinstance(raw.get("variants"), dict):  # an empty block in the file is a variant that changes nothing
        raw["variants"] = {str(n): {} if block is None else block for n, block in raw["variants"].items()}
    for entry in force:
        apply_override(raw, entry)
    if isinstance(raw.get("variants"), dict):
        raw["variants"] = {n: block for n, block in raw["variants"].items() if block is not None}
    try:
        suite = read_block(Suite, raw, "")
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from None
    for variant in suite.variants:
        if len(set(suite.seeds_of(variant))) < len(suite.seeds_of(variant)):
            raise OptionError(f"{file}: seeds of '{variant}': one is given twice")
    return suite, read_option_file(suite.base).content
