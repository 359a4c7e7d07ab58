from __future__ import annotations

import copy

import pytest
import yaml
from test_reader import RAW

from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.files import find_option_file, read_option_file, shipped_folder, shipped_names
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.experiment import Folder
from d2sm_plugin.safe_yaml import read_yaml


@pytest.fixture
def write(tmp_path):
    def write_one(file, **content):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write_one


@pytest.fixture
def chain(write):
    """Three files in two folders, each laid over the one before; the first is a whole training."""
    raw = copy.deepcopy(RAW)
    raw["train"] |= {"scheduler": {"type": "MultiStepLR", "milestones": [5]}, "ssim_opt": {"type": "MSELoss"}}
    write("base.yml", **raw)
    write("variants/middle.yml", extends="../base.yml", train={"total_iter": 20, "ssim_opt": None})
    last = {"scheduler": {"type": "CosineAnnealingLR", "T_max": 20}, "optim_g": {"lr": 3e-4}}
    return write("variants/last.yml", extends="middle.yml", name="last", train=last)


def test_each_file_states_what_it_changes(chain):
    file = read_option_file(chain)
    assert [path.name for path in file.files] == ["last.yml", "middle.yml", "base.yml"]
    assert file.content == RAW | {
        "name": "last",
        "train": {
            "total_iter": 20,
            "optim_g": {"type": "AdamW", "lr": 3e-4},
            "pixel_opt": {"type": "L1Loss"},
            "scheduler": {"type": "CosineAnnealingLR", "T_max": 20},
        },
    }


def test_overrides_come_last(chain):
    options = read_options(chain, force=["train:total_iter=10", "train:optim_g:lr=1e-3"])
    assert options["train"]["total_iter"] == 10
    assert options["train"]["optim_g"] == {"type": "AdamW", "lr": 1e-3}


def test_a_run_keeps_the_merged_whole(chain, write, tmp_path):
    Folder(tmp_path / "runs", "last").start(chain, read_options(chain), resume=False)
    kept = tmp_path / "runs" / "last" / "last.yml"
    assert read_yaml(kept) == read_option_file(chain).content
    assert read_options(kept) == read_options(chain)
    plain = write("plain.yml", **RAW)
    plain.write_text("# a remark\n" + plain.read_text(encoding="utf-8"), encoding="utf-8")
    Folder(tmp_path / "runs", "plain").start(plain, read_options(plain), resume=False)
    assert "# a remark\nname: x" in (tmp_path / "runs" / "plain" / "plain.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"extends": "missing.yml"}, r"own\.yml: extends: .*missing\.yml: no such option file$"),
        ({"extends": "small_ffdnet_l2.yml"}, r"no such option file; did you mean the shipped 'small_ffdnet_l1'\?"),
        ({"extends": ["a.yml", "b.yml"]}, r"own\.yml: extends: expected the name of an option file, got \["),
        ({"extends": "own.yml"}, r"own\.yml: extends: it leads back to .*own\.yml"),
        ({"extends": "variants/../round.yml"}, r"round\.yml: extends: it leads back to .*own\.yml"),
        ({"extends": "base.yml", "nam": 1}, r"own\.yml \(extends .*base\.yml\): nam: unknown key; did you mean 'name'"),
    ],
)
def test_mistakes(content, message, chain, write, tmp_path):
    write("round.yml", extends="own.yml")
    with pytest.raises(OptionError, match=message) as error:
        read_options(write("own.yml", **content))
    assert "\n" not in str(error.value)


def test_shipped_files_are_found_by_name(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = shipped_folder() / "small_ffdnet_l1.yml"
    assert find_option_file("small_ffdnet_l1") == find_option_file("small_ffdnet_l1.yml") == shipped
    assert find_option_file("suites/fig9_camvid") == shipped_folder() / "suites" / "fig9_camvid.yml"
    assert {"demo_l1", "train_ffdnet_d2sm", "suites/shared/ffdnet_camvid"} <= set(shipped_names())
    file = read_option_file(write("own.yml", extends="small_ffdnet_l1.yml", name="own"))
    assert file.content == read_option_file(shipped).content | {"name": "own"}
    write("small_ffdnet_l1.yml", name="mine")  # a file that exists goes first
    assert read_option_file("small_ffdnet_l1.yml").content == {"name": "mine"}
    with pytest.raises(OptionError, match=r"small_fdnet_l1: no such option file; did you mean .*'small_ffdnet_l1'"):
        read_options("small_fdnet_l1")
