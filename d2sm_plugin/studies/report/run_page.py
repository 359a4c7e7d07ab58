"""The page of one run: a training, or a test of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import reading_again
from d2sm_plugin.metrics.better import better_of
from d2sm_plugin.options.reader import known_models
from d2sm_plugin.pipeline.best import BestMetrics
from d2sm_plugin.pipeline.image_records import RECORDS, ImageRecord, read_records
from d2sm_plugin.pipeline.metrics_file import MetricRow, MetricsFile
from d2sm_plugin.pipeline.pictures import sheets_of_step
from d2sm_plugin.safe_yaml import read_yaml
from d2sm_plugin.studies.compare.image_table import image_value
from d2sm_plugin.studies.compare.tables import shown
from d2sm_plugin.studies.compare.tables import title as title_of
from d2sm_plugin.studies.report.charts import LineChart, line_chart
from d2sm_plugin.studies.report.page import Cell, Listing, Page, Section, Table, Tile
from d2sm_plugin.studies.report.pictures import Album, Comparison
from d2sm_plugin.studies.report.step_lines import StepValues, read_steps

OPTIONS = "options.yml"
_WORST = 5  # images in a table of failures
_FAILURES_SHOWN = 2  # of them as pictures
_CLASS = "IoU/"
_MIOU = "mIoU"
_INPUT = "_input"
_REMEDY = "give the folder of another run"


class RunFolder:
    """Contents of a run's folder.

    Args:
        folder: of a training (``experiments/NAME``) or a test (``results/NAME``).

    Raises:
        DataError: when a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        file = folder / OPTIONS
        with reading_again(file, _REMEDY):
            self.option_text = file.read_text(encoding="utf-8")
            options = read_yaml(file)
            train = options.get("train") or {}
            self.name, self.network = str(options["name"]), str(options["network_g"]["type"])
            self.trains = bool(options.get("is_train", train))
            self.total = int(train.get("total_iter", 0))
            self.objectives = [key.removesuffix("_opt") for key, block in train.items() if _is_objective(key, block)]
            self.weights = (options.get("path") or {}).get("pretrain_network_g")
            self.metrics: dict[str, Any] = dict((options.get("val") or {}).get("metrics") or {})
        self.rows = MetricsFile(folder / "metrics.csv").rows
        self.records = read_records(folder / RECORDS) if (folder / RECORDS).is_file() else {}
        self.steps = read_steps(folder) if self.trains else StepValues({}, ())

    @property
    def last(self) -> int:
        """Step of the last validation."""
        return max((row.step for row in self.rows), default=0)

    def lower(self) -> set[str]:
        """Return the figures of which lower ones are better, as far as this package knows them."""
        measures = (model.measures for model in known_models().values())
        names = {name for of in measures for name, better in of.items() if better == "lower"}
        with reading_again(self.path / OPTIONS, _REMEDY):
            for name, block in self.metrics.items():
                try:
                    if better_of(block, name) == "lower":
                        names |= {name, f"{name}{_INPUT}"}
                except OptionError:  # a metric of somebody's own, whose code is not run for a report
                    continue
        return names

    def pictures(self) -> dict[tuple[str, str], Path]:
        """Return the newest pictures: (set, key of the image) -> file with input, restored and clean."""
        if self.trains:
            return {(name, key): path for name, key, path in sheets_of_step(self.path / "visualization", self.last)}
        return {(path.parent.name, path.stem): path for path in sorted(self.path.glob("comparison/*/*.png"))}


def _is_objective(key: str, block: object) -> bool:
    return key.endswith("_opt") and block is not None


def run_page(folder: Path, most_bytes: int, count: int) -> Page:
    """Return the page of a run.

    Args:
        folder: of the run.
        most_bytes: of all pictures.
        count: pictures of each set, beside failures.

    Raises:
        DataError: when a file in the folder is damaged.
    """
    run, album = RunFolder(folder), Album(most_bytes)
    failures = _failures(run, album)
    pictures = _pictures(run, album, count)
    if album.left_out:
        pictures.paragraphs.append(f"Left out for the size of the page (--max-mb): {', '.join(album.left_out)}.")
    sections = [
        Section("training", "Training", lines=_step_charts(run)),
        _validation(run),
        pictures,
        failures,
        _origin(run),
    ]
    kind = "Training run" if run.trains else "Test run"
    return Page(run.name, kind, _subtitle(run), _tiles(run), sections)


def _step_charts(run: RunFolder) -> list[LineChart]:
    """Return a chart of each value in the log, the losses first."""
    names = sorted(run.steps.curves, key=lambda name: not name.startswith("l_"))
    titles = {name: f"Loss {name.removeprefix('l_')}" if name.startswith("l_") else name for name in names}
    return [line_chart(titles[name], {name: run.steps.curves[name]}) for name in names]


def _subtitle(run: RunFolder) -> str:
    if not run.trains:
        return f"{run.network}, weights: {run.weights or 'random'}"
    reached = max([run.last, *(max(of) for of in run.steps.curves.values())])
    return f"{run.network}, step {reached:,} of {run.total:,}; objectives: {', '.join(run.objectives)}"


def _tiles(run: RunFolder) -> list[Tile]:
    """Return the last value of each figure of each set, with the best one."""
    best = BestMetrics(run.lower(), run.rows)
    tiles = []
    for row in run.rows:
        if row.step != run.last or row.metric.startswith(_CLASS) or row.metric.endswith(_INPUT):
            continue
        detail = ""
        if (row.dataset, row.metric) in best.values and run.trains and len(_steps(run)) > 1:
            value, step = best.values[row.dataset, row.metric]
            detail = "the best so far" if step == run.last else f"best {_value(value, row.metric)} at step {step:,}"
        tiles.append(Tile(f"{row.dataset}: {_heading(row.metric)}", _value(row.value, row.metric), detail))
    return tiles[:12]


def _steps(run: RunFolder) -> set[int]:
    return {row.step for row in run.rows}


def _validation(run: RunFolder) -> Section:
    section = Section("validation", "Validation" if run.trains else "Figures")
    last = [row for row in run.rows if row.step == run.last]
    if len(_steps(run)) > 1:
        for metric in dict.fromkeys(row.metric for row in run.rows if not row.metric.startswith(_CLASS)):
            of_sets: dict[str, dict[int, float]] = {}
            for row in run.rows:
                if row.metric == metric:
                    of_sets.setdefault(row.dataset, {})[row.step] = row.value
            section.lines.append(line_chart(_heading(metric), of_sets))
    when = f"step {run.last:,}" if run.trains else "the test"
    plain = [row for row in last if not row.metric.startswith(_CLASS)]
    section.tables += _table(f"Means over the images of each set, of {when}", plain)
    classes = [row._replace(metric=row.metric.removeprefix(_CLASS)) for row in last if row.metric.startswith(_CLASS)]
    section.tables += _table("IoU of each class [%]", classes)
    return section


def _heading(metric: str) -> str:
    """Return the heading of a figure, with its unit; ``NAME_input`` is that of the degraded images."""
    if not metric.endswith(_INPUT):
        return title_of(metric)
    name, space, unit = title_of(metric.removesuffix(_INPUT)).partition(" [")
    return f"{name} of the input{space}{unit}"


def _value(value: float, metric: str) -> str:
    return shown(value, metric.removesuffix(_INPUT))


def _table(caption: str, rows: Sequence[MetricRow]) -> list[Table]:
    if not rows:
        return []
    metrics = list(dict.fromkeys(row.metric for row in rows))
    values = {(row.dataset, row.metric): _value(row.value, row.metric) for row in rows}
    images = {row.dataset: row.images for row in rows}
    lines = [
        [Cell(name), Cell(str(count)), *(Cell(values.get((name, metric), "")) for metric in metrics)]
        for name, count in images.items()
    ]
    return [Table(caption, ["set", "images", *map(_heading, metrics)], lines)]


def _pictures(run: RunFolder, album: Album, count: int) -> Section:
    """Return the first pictures of each set, in turns, but for those that are shown as failures."""
    section = Section("pictures", "Pictures")
    by_set: dict[str, list[tuple[str, Path]]] = {}
    for (name, key), path in run.pictures().items():
        by_set.setdefault(name, []).append((key, path))
    fresh = {name: [pair for pair in pairs if pair[1] not in album.shown] for name, pairs in by_set.items()}
    for place in range(count):
        for name, pairs in fresh.items():
            for key, path in pairs[place : place + 1]:
                section.comparisons += _listed(album.comparison(path, f"{key}, {name}"))
    if album.shown:
        section.paragraphs.append("Move the boundary, or choose what lies on each side.")
    told = [f"{name} has {len(pairs)}" for name, pairs in by_set.items() if len(pairs) > count]
    if told:
        section.paragraphs.append(
            f"The first {count} of each set, but for those among the failures: {', '.join(told)}."
        )
    return section


def _failures(run: RunFolder, album: Album) -> Section:
    """Return the images of each set that came out worst."""
    section = Section("failures", "Failure cases")
    files, lower = run.pictures(), run.lower()
    for name, records in run.records.items():
        metrics = [*records[0].values, *([_MIOU] if records[0].counts is not None else [])]
        judged = [m for m in dict.fromkeys(("psnr", _MIOU, *metrics[:1])) if m in metrics]
        for metric in judged[:2]:
            worst = worst_images(records, metric, metric in lower)
            if len(records) < 2 or not worst:
                continue
            lines = [
                [Cell(record.key), *(Cell(_of_image(record, m), m == metric) for m in metrics)] for record in worst
            ]
            extreme = "Highest" if metric in lower else "Lowest"
            caption = f"{extreme} {_heading(metric)} of {len(records)} images of {name}"
            section.tables.append(Table(caption, ["image", *map(_heading, metrics)], lines))
            for record in worst[:_FAILURES_SHOWN]:
                path = files.get((name, record.key))
                if path is not None and path not in album.shown:
                    value = f"{_heading(metric)}: {_of_image(record, metric)}"
                    section.comparisons += _listed(album.comparison(path, f"{record.key}, {name}, {value}"))
    return section


def worst_images(records: Sequence[ImageRecord], metric: str, lower: bool) -> list[ImageRecord]:
    """Return the records of the images with the worst values of a metric, the worst first.

    Args:
        records: of a set.
        metric: name of it; ``mIoU`` of an image is over the classes in it.
        lower: whether lower values are better.
    """
    values = {place: image_value(record, metric) for place, record in enumerate(records)}
    known = {place: value for place, value in values.items() if value is not None}
    order = sorted(known, key=lambda place: -known[place] if lower else known[place])
    return [records[place] for place in order[:_WORST]]


def _of_image(record: ImageRecord, metric: str) -> str:
    value = image_value(record, metric)
    return "" if value is None else _value(value, metric)


def _listed(comparison: Comparison | None) -> list[Comparison]:
    return [] if comparison is None else [comparison]


def _origin(run: RunFolder) -> Section:
    section = Section("origin", "Configuration and environment", paragraphs=list(run.steps.head[:4]))
    files = [path for path in sorted(run.path.glob("*.yml")) if path.name != OPTIONS]
    for path in files[:1]:
        with reading_again(path, "remove it"):
            section.listings.append(Listing(f"{path.name}: the option file and the command", path.read_text("utf-8")))
    section.listings.append(Listing(f"{OPTIONS}: every option with its default", run.option_text))
    return section
