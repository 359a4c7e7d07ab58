from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from d2sm_plugin.demo import run
from d2sm_plugin.options.reader import read_options


@pytest.mark.parametrize(
    "name", ["a #b", "a: b", "[x]", "~", "yes", "1e3", "*x", 'quo"te', "back\\slash", "ü=日本", "{a"]
)
def test_folders_of_any_name(tmp_path, monkeypatch, name):
    """Names that YAML would read otherwise reach the runs as they are."""
    out = tmp_path / name
    args = Namespace(out=out, iterations=7, options=run.shipped_folder())
    options = read_options(
        args.options / "demo_l1.yml", is_train=True, force=run._overrides(args, out / "data", "demo_l1")
    )
    assert Path(options["datasets"]["train"]["dataroot_gt"]) == out / "data/train_images.lmdb"
    assert Path(options["path"]["experiments_root"]) == out / "experiments"
    assert options["train"]["total_iter"] == 7
