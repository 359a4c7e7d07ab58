"""The shape of a suite file: a base option file, its variants, seeds, and what is measured at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from d2sm_plugin.blocks import Block, read_block
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.file_names import FileName
from d2sm_plugin.options.files import BASES_OF_SUITE, read_option_file
from d2sm_plugin.options.reader import apply_override
from d2sm_plugin.options.schema import MAX_SEED

Fragment = dict[str, Any]
Pattern = Annotated[str, Field(min_length=1)]
Patterns = Annotated[list[Pattern], Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_SEED)]], Field(min_length=1)]


class TestedRow(Block):
    """One row of the table: a network that is tested as it is."""

    base: str | None = Field(None, description="option file that it starts from, as the suite's; none: the suite's")
    options: Fragment = Field(default_factory=dict, description="laid over that; a block set to ~ is removed")
    val: Fragment = Field(default_factory=dict, description="laid over the suite's test.val for this row: tile, ...")


class Variant(TestedRow):
    """One row of the table: a network that is trained, then tested."""

    like: str | None = Field(None, description="variant that this one starts from; none: the suite's options")
    seeds: Seeds | None = Field(None, description="its own seeds; none: those of the suite")
    baseline: str | None = Field(
        None, description="variant that its difference refers to, and beside which it is ranked; none: the suite's"
    )


class TestFragment(Block):
    """Test sets that every trained network is measured on: the same blocks as in an option file for testing."""

    datasets: dict[str, Fragment] = Field(min_length=1, description="test sets; sigma: [25, 35, 50] makes one for each")
    val: Fragment = Field(default_factory=dict, description="metrics, segmentation, tile")


class Untrained(Block):
    """Rows that are not trained."""

    input: str | None = Field("noisy", description="name of the row of the degraded images; ~: none")
    start: str | None = Field("start", description="name of the row of path.pretrain_network_g, where given; ~: none")
    clean: str | None = Field("clean", description="name of the row of the clean images (MIoU alone); ~: none")


class Published(Block):
    """Figures of a publication, which stand beside those that are measured."""

    source: str = Field(description="the publication, and what it measured on")
    columns: list[str] = Field(min_length=1, description="their headings")
    rows: dict[str, list[float | None]] = Field(min_length=1, description="name of the row -> a figure for each column")

    @model_validator(mode="after")
    def _is_whole(self) -> Published:
        for name, figures in self.rows.items():
            if len(figures) != len(self.columns):
                raise ValueError(f"rows.{name}: {len(figures)} figures for {len(self.columns)} columns; ~ for none")
        return self


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
    groups: dict[Annotated[str, Field(pattern=r"^[^|\n]+$")], Pattern | Patterns | None] = Field(
        default_factory=dict,
        description='name -> pattern of image names, such as "Seq05VD*", or a list of them: differences for these too;'
        " ~: none",
    )


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
    tested: dict[str, TestedRow] = Field(
        default_factory=dict, description="name of the row -> a network that is tested as it is, of published weights"
    )
    published: Published | None = Field(None, description="figures of a publication; none: no such columns")
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
        kinds = self.untrained
        rows = [*self.variants, *self.tested, *filter(None, (kinds.input, kinds.start, kinds.clean))]
        twice = sorted({name for name in rows if rows.count(name) > 1})
        if twice:
            raise ValueError(f"variants: the name '{twice[0]}' is that of an untrained row too; rename one")
        for name in self.variants:
            self.lineage(name)
        for name in self.variants:
            if (baseline := self.baseline_of(name)) not in self.variants:
                raise ValueError(f"variants.{name}.baseline: no variant '{baseline}'{suggest(baseline, self.variants)}")
            if self.baseline_of(baseline) != baseline:
                raise ValueError(f"variants.{name}.baseline: '{baseline}' has a baseline of its own; name that one")
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

    def baseline_of(self, variant: str) -> str:
        """Return the variant that a variant's difference refers to: named by it or what it is like, or the suite's."""
        named = [self.variants[name].baseline for name in self.lineage(variant)]
        return next((name for name in reversed(named) if name is not None), self.baseline)

    def base_of(self, variant: str) -> str:
        """Return the option file that a variant starts from: named by it or what it is like, or the suite's."""
        named = [self.variants[name].base for name in self.lineage(variant)]
        return next((name for name in reversed(named) if name is not None), self.base)

    def seeds_of(self, variant: str) -> list[int]:
        """Return the seeds of a variant: its own, or those of the suite."""
        return self.variants[variant].seeds or self.seeds


def read_suite(path: str | Path, force: Iterable[str] = ()) -> tuple[Suite, dict[str, Any]]:
    """Read and check a suite file and the option file it is based on.

    Args:
        path: the YAML file, or the name of a shipped one: ``table1_camvid`` or ``suites/table1_camvid``.
        force: overrides ``"options:train:total_iter=100"`` of keys of the suite file; ``"variants:NAME=~"`` and
            ``"tested:NAME=~"`` leave a row out.

    Returns:
        The suite, and the raw content of its base option file.

    Raises:
        OptionError: for anything that cannot be used; the message names the file and the key.
    """
    if not Path(path).exists() and len(Path(path).parts) == 1:
        path = Path("suites", path)  # a shipped one by its bare name
    file = read_option_file(path, relative=BASES_OF_SUITE)
    raw = file.content
    if isinstance(raw.get("variants"), dict):  # an empty block in the file is a variant that changes nothing
        raw["variants"] = {str(n): {} if block is None else block for n, block in raw["variants"].items()}
    for entry in force:
        apply_override(raw, entry)
    for kind in ("variants", "tested"):
        if isinstance(raw.get(kind), dict):
            raw[kind] = {n: block for n, block in raw[kind].items() if block is not None}
    try:
        suite = read_block(Suite, raw, "")
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from None
    for variant in suite.variants:
        if len(set(suite.seeds_of(variant))) < len(suite.seeds_of(variant)):
            raise OptionError(f"{file}: seeds of '{variant}': one is given twice")
    return suite, read_option_file(suite.base).content
