"""BasicSR's registries know the plugin in whatever order both are imported, and forks keep what is theirs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from basicsr.utils import registry as host

from d2sm_plugin import registry as ours
from d2sm_plugin.errors import RegistrationError
from d2sm_plugin.registry import lookup, register

ROOT = Path(__file__).resolve().parents[1]
#: A registry with the interface of BasicSR's, for projects that stand in for forks.
FORK_REGISTRY = """
class Registry:
    def __init__(self, name):
        self._name, self._obj_map = name, {}
    def register(self, obj=None):
        if obj is None:
            return self.register
        assert obj.__name__ not in self._obj_map
        self._obj_map[obj.__name__] = obj
        return obj
    def get(self, name):
        if name not in self._obj_map:
            raise KeyError(name)
        return self._obj_map[name]
    def __contains__(self, name):
        return name in self._obj_map
    def __iter__(self):
        return iter(self._obj_map.items())
    def keys(self):
        return self._obj_map.keys()

LOSS_REGISTRY, MODEL_REGISTRY = Registry("loss"), Registry("model")
"""


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path[:0] = [{str(cwd)!r}, {str(ROOT)!r}]\n{textwrap.dedent(code)}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False, timeout=200
    )


def test_basicsr_before_the_plugin(tmp_path):
    code = """
    from torchvision.transforms import functional
    sys.modules["torchvision.transforms.functional_tensor"] = functional  # what BasicSR needs to be imported alone
    from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
    import d2sm_plugin
    assert not any(name.startswith("d2sm_plugin.losses") for name in sys.modules)
    from basicsr.losses import build_loss
    assert type(build_loss({"type": "TVLoss"})).__module__ == "d2sm_plugin.losses.tv_loss"
    assert MODEL_REGISTRY.get("D2SMModel").__module__ == "d2sm_plugin.models.d2sm_model"
    assert MODEL_REGISTRY.get("SRModel").__module__ == "basicsr.models.sr_model"
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def fork(tmp_path):
    """A fork of BasicSR that imports the plugin while it is imported, and has an objective of the same name."""
    folder = tmp_path / "basicsr"
    for name, text in {
        "__init__.py": "from basicsr.losses import tv_loss\n",
        "utils/__init__.py": "",
        "utils/registry.py": FORK_REGISTRY,
        "losses/__init__.py": "",
        "losses/tv_loss.py": """
            from basicsr.utils.registry import LOSS_REGISTRY
            from d2sm_plugin.losses import D2SMLoss
            @LOSS_REGISTRY.register()
            class TVLoss: ...
            """,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return tmp_path


def test_a_fork_of_basicsr_keeps_its_own_names_and_gets_the_others(fork):
    code = """
    import warnings
    import basicsr
    from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
    import d2sm_plugin
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert LOSS_REGISTRY.get("D2SMLoss").__module__ == "d2sm_plugin.losses.d2sm_loss"
        assert LOSS_REGISTRY.get("TVLoss").__module__ == "basicsr.losses.tv_loss"
        assert "SSIMLoss" in LOSS_REGISTRY and "NoLoss" not in LOSS_REGISTRY
        print(*(warning.message for warning in caught), sep="\\n")
        caught.clear()
        assert "D2SMModel" not in MODEL_REGISTRY  # the fork lacks what it is built on
        print(*(warning.message for warning in caught), sep="\\n")
    from d2sm_plugin.losses.tv_loss import TVLoss
    """
    done = python(code, fork)
    assert done.returncode == 0, done.stderr
    clash, model = done.stdout.splitlines()
    assert clash == (
        "d2sm_plugin: 'TVLoss' stays that of module basicsr.losses.tv_loss in the loss registry; import the other one "
        "from d2sm_plugin.losses.tv_loss"
    )
    assert model.startswith("d2sm_plugin: no model of it is registered here: ")


@pytest.fixture
def clean_names():
    ours.LOSS_REGISTRY.fill()
    before = {table: dict(table._obj_map) for table in (ours.LOSS_REGISTRY, host.LOSS_REGISTRY)}
    yield
    for table, names in before.items():
        table._obj_map.clear()
        table._obj_map.update(names)


def test_what_is_registered_in_either_is_found_in_both(clean_names):
    @host.LOSS_REGISTRY.register()
    class ByHost: ...

    @ours.LOSS_REGISTRY.register()
    class ByPlugin: ...

    for registry in (ours.LOSS_REGISTRY, host.LOSS_REGISTRY):
        assert lookup(registry, "ByHost", "x") is ByHost and lookup(registry, "ByPlugin", "x") is ByPlugin
        assert {"ByHost", "ByPlugin", "L1Loss", "D2SMLoss"} <= set(registry.keys()) & set(dict(iter(registry)))


def test_a_name_of_the_host_is_not_taken(clean_names):
    class L1Loss: ...

    for decorate in (register(ours.LOSS_REGISTRY), ours.LOSS_REGISTRY.register(), register(host.LOSS_REGISTRY)):
        with pytest.raises(RegistrationError, match=r"'L1Loss' is claimed twice.*basicsr\.losses.*test_host_import"):
            decorate(L1Loss)
    assert host.LOSS_REGISTRY.get("L1Loss") is not L1Loss
