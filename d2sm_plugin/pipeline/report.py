"""Results as text: lines of a log, tables of a test."""

from __future__ import annotations

from tabulate import tabulate

from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.pipeline.best import BestMetrics
from d2sm_plugin.pipeline.metrics_file import Results

_CLASS_PREFIX = "IoU/"  # one for each class: kept in metrics.csv, too many for a line


def describe_model(model: D2SMModel, processes: int) -> str:
    """Return the log line that says what is trained, where, and with which objectives."""
    objectives = [
        key.removesuffix("_opt")
        for key, block in model.opt["train"].items()
        if key.endswith("_opt") and block is not None
    ]
    parameters = sum(p.numel() for p in model.net_g.parameters())
    return (
        f"{type(model).__name__} with {type(model.net_g).__name__}, {parameters:,} parameters, on {model.device}, "
        f"{processes} process(es); objectives: {', '.join(objectives)}"
    )


def result_lines(results: Results, best: BestMetrics) -> list[str]:
    """Return the log lines of a validation: each set's metrics, with the best so far and its step."""
    lines = []
    for name, (images, metrics) in results.items():
        parts = []
        for metric, value in metrics.items():
            if metric.startswith(_CLASS_PREFIX):
                continue
            part = f"{metric} {value:.4f}"
            if (name, metric) in best.values:
                top, step = best.values[name, metric]
                part += f" (best {top:.4f} at {step:,})"
            parts.append(part)
        lines.append(f"Validation {name}, {images} images: {', '.join(parts)}")
    return lines


def result_table(results: Results) -> str:
    """Return a table of sets by metrics, for a terminal or Markdown."""
    columns = sorted({m for _, metrics in results.values() for m in metrics if not m.startswith(_CLASS_PREFIX)})
    rows = [[name, images, *(metrics.get(c) for c in columns)] for name, (images, metrics) in results.items()]
    return tabulate(rows, headers=["set", "images", *columns], tablefmt="github", floatfmt=".4f")
