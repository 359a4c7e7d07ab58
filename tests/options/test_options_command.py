from __future__ import annotations

import os
import subprocess
import sys

import pytest

from d2sm_plugin.cli import UNREAD
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.files import read_option_file, shipped_folder, shipped_names
from d2sm_plugin.options.options import main
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.safe_yaml import parse_yaml
from d2sm_plugin.studies.compare.suite import read_suite


def test_list(capsys):
    main(["list"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert sorted(lines) == [name for name in shipped_names() if "shared/" not in name]
    assert lines["train_ffdnet_l1"] == ("FFDNet with L1 alone on noisy Cityscapes: the baseline of the paper's Table 1")
    assert lines["train_cbdnet_d2sm"].endswith('"w/. Internal" in Table 1')
    main(["list", "ffdnet_d2sm_wo"])
    assert capsys.readouterr().out.startswith("train_ffdnet_d2sm_wo_internal  ")
    with pytest.raises(OptionError, match="no shipped option file has 'ffdnett' in its name"):
        main(["list", "ffdnett"])


def test_show_prints_the_merged_whole(capsys):
    main(["show", "train_ffdnet_d2sm"])
    shown = capsys.readouterr().out
    assert shown.startswith("# ")
    assert parse_yaml(shown, "shown") == read_option_file("train_ffdnet_d2sm").content
    main(["show", "demo_base"])
    assert capsys.readouterr().out == (shipped_folder() / "demo_base.yml").read_text(encoding="utf-8")


def test_copies_stand_on_their_own(tmp_path, monkeypatch):
    main(["copy", "train_ffdnet_d2sm_wo_internal", "--out", str(tmp_path)])
    main(["copy", "suites/table1_cityscapes.yml", "--out", str(tmp_path)])
    copied = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.yml"))
    assert copied == [
        "shared/cityscapes.yml",
        "suites/shared/ffdnet_cityscapes.yml",
        "suites/table1_cityscapes.yml",
        *(f"train_cbdnet{part}.yml" for part in ("", "_d2sm", "_d2sm_wo_internal")),
        "train_ffdnet_d2sm.yml",
        "train_ffdnet_d2sm_wo_internal.yml",
        "train_ffdnet_l1.yml",
        *(f"train_sadnet{part}.yml" for part in ("", "_d2sm", "_d2sm_wo_internal")),
    ]
    monkeypatch.setattr("d2sm_plugin.options.files.shipped_names", list)  # so that nothing is found by name
    read_options(tmp_path / "train_ffdnet_d2sm_wo_internal.yml")
    read_suite(tmp_path / "suites" / "table1_cityscapes.yml")


def test_no_file_of_the_user_is_overwritten(tmp_path):
    (tmp_path / "train_ffdnet_l1.yml").write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"train_ffdnet_l1\.yml: there is another file of that name"):
        main(["copy", "train_ffdnet_d2sm", "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["train_ffdnet_l1.yml"]
    with pytest.raises(OptionError, match="train_ffdnet_l2: no shipped option file; did you mean 'train_ffdnet_l1'"):
        main(["copy", "train_ffdnet_l2", "--out", str(tmp_path)])


def test_a_reader_that_has_gone_is_no_error():
    """As ``d2sm options list | head`` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "d2sm_plugin", "options", "list"]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (UNREAD, "")
