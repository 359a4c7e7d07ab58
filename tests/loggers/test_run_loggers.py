"""Loggers of a training: what each of them gets, a run that goes on, and what they cannot do."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))
from runs import equal, tiny_options, weights, write_options

from d2sm_plugin.errors import DataError, DependencyError, ForeignError, OptionError
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.options.schema import LoggerOptions
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.registry import LOGGER_REGISTRY

CALLS: list[tuple] = []


class Recorder:
    """A logger that keeps what it gets."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def _take(self, name, *values):
        CALLS.append((name, *values))
        np.random.rand()  # a logger's own draws are none of the training's
        if name == self.fails:
            raise RuntimeError("no place left")

    def start(self, run):
        self._take("start", run)
        return "id-1" if run.id is None else run.id

    def scalars(self, values, step):
        self._take("scalars", dict(values), step)

    def images(self, images, step):
        self._take("images", dict(images), step)

    def finish(self, completed):
        self._take("finish", completed)


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(LOGGER_REGISTRY.fill(), "Recorder", Recorder)


def options_with(photographs, tmp_path, **logger):
    options = tiny_options(photographs, tmp_path)
    options["val"] |= {"val_freq": 4, "save_img": True, "max_pictures": 3}
    options["logger"] |= logger
    return options


def train(options, tmp_path, *arguments):
    path = write_options(options, tmp_path / "tiny.yml")
    assert training.main(["-opt", str(path), *arguments]) == 0


def of(name: str) -> list[tuple]:
    return [values for called, *values in CALLS if called == name]


def test_a_logger_gets_values_pictures_and_the_end(photographs, tmp_path):
    options = options_with(photographs, tmp_path, run_loggers={"kept": {"type": "Recorder"}})
    train(options, tmp_path)
    [[run]] = of("start")
    assert (run.name, run.folder, run.first_step, run.id) == ("tiny", tmp_path / "experiments" / "tiny", 1, None)
    assert run.options["train"]["total_iter"] == 8
    json.dumps(run.options)
    steps = [step for values, step in of("scalars") if "losses/l_pixel" in values]
    assert steps == [1, 2, 4, 6, 8]
    assert all(values["lr"] == 1e-3 for values, _ in of("scalars") if "losses/l_pixel" in values)
    assert [step for values, step in of("scalars") if "metrics/photos/psnr" in values] == [4, 8]
    assert [step for _, step in of("images")] == [4, 8]
    images, _ = of("images")[0]
    assert len(images) == 2 and all(name.startswith("photos/") for name in images)
    assert all(image.shape[1:] == (3 * 96 + 8, 3) and image.dtype == np.uint8 for image in images.values())
    assert CALLS[-1] == ("finish", True)
    assert json.loads((run.folder / "loggers.json").read_text()) == {"run_loggers.kept": "id-1"}


def test_a_continued_run_goes_on_in_the_same_place(photographs, tmp_path):
    options = options_with(photographs, tmp_path, run_loggers={"kept": {"type": "Recorder"}}, max_images=0)
    options["train"]["total_iter"] = 4
    train(options, tmp_path)
    options["train"]["total_iter"] = 8
    train(options, tmp_path, "--auto_resume")
    assert [(run.first_step, run.id) for (run,) in of("start")] == [(1, None), (5, "id-1")]
    assert not of("images")
    train(options, tmp_path)  # anew: the earlier run is put aside
    assert of("start")[-1][0].id is None


def test_loggers_change_no_weight(photographs, tmp_path):
    options = options_with(photographs, tmp_path, run_loggers={"kept": {"type": "Recorder"}}, use_tb_logger=True)
    train(options, tmp_path)
    plain = options_with(photographs, tmp_path)
    plain["name"] = "plain"
    train(plain, tmp_path)
    assert equal(weights(tmp_path), weights(tmp_path, "plain"))


class Careless(Recorder):
    """Changes what it gets, and returns what no file can keep."""

    def __init__(self, returns: int | None = None) -> None:
        super().__init__()
        self.returns = returns

    def start(self, run):
        run.options.clear()
        return self.returns

    def scalars(self, values, step):
        values.clear()

    def images(self, images, step):
        images.clear()


def test_a_logger_keeps_its_changes_to_itself(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_REGISTRY.fill(), "Careless", Careless)
    loggers = {"careless": {"type": "Careless"}, "kept": {"type": "Recorder"}}
    train(options_with(photographs, tmp_path, run_loggers=loggers), tmp_path)
    assert of("start")[0][0].options["name"] == "tiny"
    assert all(values for values, _ in of("scalars")) and len(of("images")[0][0]) == 2


def test_what_start_returns_is_a_text(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_REGISTRY.fill(), "Careless", Careless)
    loggers = {"kept": {"type": "Recorder"}, "careless": {"type": "Careless", "returns": 7}}
    with pytest.raises(
        ForeignError, match=r"^logger.run_loggers.careless: Careless raised TypeError: start returned int"
    ):
        train(options_with(photographs, tmp_path, run_loggers=loggers), tmp_path)
    assert CALLS[-1] == ("finish", False)  # the one that had started


def test_a_logger_without_its_methods_is_refused_before_anything_starts(photographs, tmp_path, monkeypatch):
    class Half:
        def start(self, run):
            pass

    monkeypatch.setitem(LOGGER_REGISTRY.fill(), "Half", Half)
    with pytest.raises(OptionError, match=r"^logger.run_loggers.a: Half has no method scalars, images, finish"):
        train(options_with(photographs, tmp_path, run_loggers={"a": {"type": "Half"}}), tmp_path)
    assert not (tmp_path / "experiments").exists()


def test_keys_of_wandb_that_would_do_nothing(photographs, tmp_path):
    off = options_with(photographs, tmp_path, wandb={"project": None, "resume_id": None})  # as in BasicSR's files
    assert "wandb" not in LoggerOptions.model_validate(off["logger"]).blocks()
    with pytest.raises(OptionError, match=r"logger.wandb: project is missing, so projct, mode would do nothing"):
        validate_options(options_with(photographs, tmp_path, wandb={"projct": "x", "mode": "offline"}))


def test_what_a_logger_cannot_do_is_said_once(photographs, tmp_path):
    loggers = {"full": {"type": "Recorder", "fails": "scalars"}, "kept": {"type": "Recorder"}}
    train(options_with(photographs, tmp_path, run_loggers=loggers), tmp_path)
    log = next((tmp_path / "experiments" / "tiny").glob("train_*.log")).read_text()
    line = "logger.run_loggers.full: Recorder raised RuntimeError: no place left; the run goes on without this logger"
    assert log.count(line) == 1 and "End of training" in log
    assert len(of("finish")) == 1  # the other one's


def test_a_logger_that_cannot_start_ends_the_run_before_its_first_step(photographs, tmp_path):
    loggers = {"kept": {"type": "Recorder"}, "full": {"type": "Recorder", "fails": "start"}}
    with pytest.raises(ForeignError, match=r"logger\.run_loggers\.full: Recorder raised RuntimeError: no place left"):
        train(options_with(photographs, tmp_path, run_loggers=loggers), tmp_path)
    assert not of("scalars") and of("finish") == [[False]]


def test_debug_runs_have_no_loggers(photographs, tmp_path):
    train(options_with(photographs, tmp_path, run_loggers={"kept": {"type": "Recorder"}}), tmp_path, "--debug")
    assert not CALLS


def test_tensorboard_has_values_and_pictures(photographs, tmp_path):
    train(options_with(photographs, tmp_path, use_tb_logger=True), tmp_path)
    events = EventAccumulator(str(tmp_path / "tb_logger" / "tiny"), size_guidance={"images": 0})
    events.Reload()
    assert {"losses/l_pixel", "lr", "metrics/photos/psnr"} <= set(events.Tags()["scalars"])
    names = events.Tags()["images"]
    assert len(names) == 2 and all(name.startswith("photos/") for name in names)
    [first, last] = events.Images(names[0])
    assert (first.step, last.step, last.width) == (4, 8, 3 * 96 + 8)


def test_a_folder_that_cannot_be_written_is_one_line(photographs, tmp_path):
    (tmp_path / "tb_logger").write_text("a file")
    with pytest.raises(DataError, match=r"tb_logger.*cannot be written"):
        train(options_with(photographs, tmp_path, use_tb_logger=True), tmp_path)


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ({"run_loggers": {"a": {"type": "Recordr"}}}, r"logger\.run_loggers\.a\.type: .*did you mean 'Recorder'"),
        ({"run_loggers": {"a": {"type": "Recorder", "fials": "x"}}}, r"run_loggers\.a\.fials: .*'fails'"),
        ({"wandb": {"project": 3}}, r"logger\.wandb\.project: expected a text, got 3"),
        ({"mlflow": {}}, r"logger\.mlflow: MlflowLogger needs experiment"),
        ({"mlflow": {"experiment": "a", "url": "b"}}, r"logger\.mlflow\.url: .* no such argument"),
        ({"max_images": -1}, r"logger\.max_images: expected a number of at least 0"),
    ],
)
def test_mistakes_are_told_before_anything_starts(photographs, tmp_path, logger, message):
    with pytest.raises(OptionError, match=message):
        validate_options(options_with(photographs, tmp_path, **logger))


def test_without_a_project_wandb_stays_off(photographs, tmp_path):
    train(options_with(photographs, tmp_path, wandb={"project": None, "resume_id": None}), tmp_path)


@pytest.mark.parametrize(("key", "block"), [("wandb", {"project": "a"}), ("mlflow", {"experiment": "a"})])
def test_a_missing_package_leaves_no_folder(photographs, tmp_path, monkeypatch, key, block):
    monkeypatch.setitem(sys.modules, key, None)
    with pytest.raises(DependencyError, match=rf'logger\.{key} needs {key}, .*pip install "\.\[{key}\]"'):
        train(options_with(photographs, tmp_path, **{key: block}), tmp_path)
    assert not (tmp_path / "experiments").exists()


def stand_in(monkeypatch, name: str, **members) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_wandb_gets_its_calls(photographs, tmp_path, monkeypatch):
    class Started:
        id = "abc"

        def log(self, values, step):
            CALLS.append(("log", values, step))

        def finish(self, exit_code):
            CALLS.append(("finish", exit_code))

    stand_in(
        monkeypatch, "wandb", Settings=dict, Image=lambda image: ("picture", image.shape),
        init=lambda **arguments: CALLS.append(("init", arguments)) or Started(),
    )  # fmt: skip
    options = options_with(photographs, tmp_path, wandb={"project": "p", "resume_id": None, "group": "g"})
    train(options, tmp_path)
    train(options | {"train": options["train"] | {"total_iter": 12}}, tmp_path, "--auto_resume")
    first, second = (arguments for (arguments,) in of("init"))
    assert (first["project"], first["id"], first["resume"], first["name"], first["group"]) == (
        "p",
        None,
        None,
        "tiny",
        "g",
    )
    assert (second["id"], second["resume"]) == ("abc", "allow")
    assert {"losses/l_pixel", "lr"} <= set(of("log")[0][0])
    assert ("picture", (96 + 18, 3 * 96 + 8, 3)) in [v for values, _ in of("log") for v in values.values()]
    assert of("finish") == [[0], [0]]


@pytest.mark.slow
def test_real_wandb_offline(photographs, tmp_path):
    pytest.importorskip("wandb", reason="needs wandb: pip install '.[wandb]'")
    options = options_with(photographs, tmp_path, wandb={"project": "tiny", "mode": "offline"})
    train(options, tmp_path)
    known = json.loads((tmp_path / "experiments/tiny/loggers.json").read_text())["wandb"]
    train(options | {"train": options["train"] | {"total_iter": 12}}, tmp_path, "--auto_resume")
    folders = list((tmp_path / "experiments/tiny/wandb").glob("offline-run-*"))
    assert folders and all(folder.name.endswith(known) for folder in folders)
    assert any(list(folder.rglob("*.png")) for folder in folders)


@pytest.mark.slow
def test_real_mlflow_in_a_local_store(photographs, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install '.[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="the store is a database")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    block = {"experiment": "tiny", "tracking_uri": store}
    options = options_with(photographs, tmp_path, mlflow=block)
    client = mlflow.MlflowClient(store)
    client.create_experiment("tiny", artifact_location=(tmp_path / "artifacts").as_uri())
    train(options, tmp_path)
    train(options | {"train": options["train"] | {"total_iter": 12}}, tmp_path, "--auto_resume")
    [run] = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["train.optim_g.lr"] == "0.001"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "metrics/photos/psnr")] == [4, 8, 12]
    assert len(list((tmp_path / "artifacts").rglob("*.png"))) == 6
