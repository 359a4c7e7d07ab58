"""Notice of a variant that is no longer what it was when its runs were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import reading_again, write_json
from d2sm_plugin.options.merge import differences
from d2sm_plugin.studies.compare.fingerprint import fingerprint
from d2sm_plugin.studies.compare.jobs import SuiteRun

_FILE = "definitions.json"
_SHOWN = 4


def changed_variants(jobs: Sequence[SuiteRun], report: Path) -> dict[str, list[str]]:
    """Return the variants that were defined otherwise when runs of theirs began: name -> what differs.

    Args:
        jobs: of the suite as it is now.
        report: folder of the suite's report, where the definitions are kept.
    """
    file = report / _FILE
    if not file.is_file():
        return {}
    with reading_again(file, "remove it; changes of variants whose runs are there are then not noticed"):
        recorded = dict(json.loads(file.read_text(encoding="utf-8")))
    changed = {}
    for variant, now in _definitions(jobs).items():
        before = recorded.get(variant)
        out = next(job.out for job in jobs)
        if before is not None and before != now and list((out / "runs").glob(f"*-{fingerprint(before)}-s*")):
            changed[variant] = list(differences(before, now))
    return changed


def check_definitions(jobs: Sequence[SuiteRun], report: Path, source: str | Path) -> None:
    """Refuse a suite in which a variant has changed since its runs were made.

    Raises:
        OptionError: naming the variants and what differs.
    """
    changed = changed_variants(jobs, report)
    if not changed:
        return
    variant, phrases = next(iter(changed.items()))
    more = f" and {len(phrases) - _SHOWN} more" if len(phrases) > _SHOWN else ""
    further = f" ({', '.join(list(changed)[1:])} changed too)" if len(changed) > 1 else ""
    raise OptionError(
        f"{source}: variant '{variant}' has runs in {report.parent} that were made with other options: "
        f"{'; '.join(phrases[:_SHOWN])}{more}{further}. Take the change back, give the variant another name, or run it "
        f"anew with --rerun"
    )


def record_definitions(jobs: Sequence[SuiteRun], report: Path) -> None:
    """Keep the present definitions for later calls."""
    report.mkdir(parents=True, exist_ok=True)
    write_json(report / _FILE, _definitions(jobs))


def _definitions(jobs: Sequence[SuiteRun]) -> dict[str, Any]:
    definitions = {job.row: job.definition for job in jobs if job.train is not None}
    return json.loads(json.dumps(definitions, default=str))
