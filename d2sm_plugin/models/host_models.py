"""The plugin's objectives in BasicSR's own models (``SRModel``, ``ESRGANModel``, ...), which its own trainer runs.

Those models read the option blocks they know by name, want a pair ``(perceptual, style)`` of ``perceptual_opt``, and
save networks, optimisers and schedulers alone. :func:`adapt` and :func:`with_objectives` give them what is missing.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses.relative_weight import gradient_norms, joint_norms
from d2sm_plugin.models.objective_weight import REFERENCE, check_steps
from d2sm_plugin.models.objectives import Objectives
from d2sm_plugin.registry import LOSS_REGISTRY, lookup

#: Ending of the names of host models that build every objective, such as ``SRModelWithObjectives``.
SUFFIX = "WithObjectives"
#: Blocks that BasicSR's models read themselves, where they know nothing of relative weights.
_OF_HOST = ("pixel_opt", "perceptual_opt", "gan_opt", "ldl_opt")


class NotedBlock(dict[str, Any]):
    """Option block that notes which of its keys are read, so that those nobody reads can be named.

    >>> block = NotedBlock(pixel_opt={"type": "L1Loss"}, d2sm_opt={"type": "D2SMLoss"}, fft_opt=None)
    >>> block.get("pixel_opt"), block.unread_objectives()
    ({'type': 'L1Loss'}, {'d2sm_opt': {'type': 'D2SMLoss'}})
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, and note it."""
        self.read.add(key)
        return super().get(key, default)

    def unread_objectives(self) -> dict[str, Any]:
        """Return the blocks ``*_opt`` that nobody has read and that are not empty."""
        return {k: v for k, v in self.items() if k.endswith("_opt") and v and k not in self.read}


class ObjectiveState:
    """State of objectives in the form of a scheduler: the host saves, restores and steps its schedulers.

    Args:
        objectives: by name; of :class:`Objectives` the schedules of weights are stepped too.
    """

    def __init__(self, objectives: Mapping[str, nn.Module]) -> None:
        self.objectives = dict(objectives)
        self._number = 1

    def step(self) -> None:
        """Go on to the next training step."""
        self._set_number(self._number + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the step, and buffers by objective."""
        return {"step": self._number, **{name: term.state_dict() for name, term in self.objectives.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for name, term in self.objectives.items():
            term.load_state_dict(state[name])
        self._set_number(state["step"])

    def _set_number(self, number: int) -> None:
        self._number = number
        for term in self.objectives.values():
            if isinstance(term, Objectives):
                term.step = number


def build_in_host(
    opt: Mapping[str, Any],
    build: Callable[[Mapping[str, Any]], Any],
    build_plugin_model: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """Build the model that options of BasicSR's own trainer or tester name.

    Args:
        opt: as BasicSR has read them.
        build: its ``build_model``.
        build_plugin_model: builds :class:`~d2sm_plugin.models.d2sm_model.D2SMModel` and its subclasses for it.

    Raises:
        OptionError: see :func:`adapt`; for options that the plugin's own models refuse; and for noise that is to be
            made on the device, which models of BasicSR do not do.
    """
    name = opt["model_type"]
    base = name.removesuffix(SUFFIX)
    if base != name and name not in MODEL_REGISTRY:
        MODEL_REGISTRY.register(with_objectives(lookup(MODEL_REGISTRY, base, "model_type")))
    line = lookup(MODEL_REGISTRY, name, "model_type").__mro__
    if any(cls.__module__ == "d2sm_plugin.models.d2sm_model" for cls in line):
        return build_plugin_model(opt)
    for key, block in (opt.get("datasets") or {}).items():
        if isinstance(block, Mapping) and block.get("noise_on") == "device":
            raise OptionError(
                f"datasets.{key}.noise_on: {name} wants images with their noise; remove it, or set "
                f"model_type: D2SMModel"
            )
    if opt.get("train") is not None:
        if base == name:
            _refuse_own_keys(opt["train"], opt["train"], name)
        opt = {**opt, "train": NotedBlock(opt["train"])}
    return adapt(build(opt))


def adapt(model: Any) -> Any:
    """Fit the plugin's objectives into a model of BasicSR's that has been built, and return the model.

    A criterion of ``perceptual_opt`` that returns a scalar returns the pair ``(scalar, None)`` from then on; what the
    plugin's objectives remember becomes part of the training state.

    Raises:
        OptionError: for a block ``*_opt`` with an objective of the plugin that the model has not read. Blocks with
            other objectives give a warning, as a model might read them later.
    """
    _return_pairs(getattr(model, "cri_perceptual", None))
    _keep_state(model)
    options = getattr(model, "opt", {}).get("train")
    for key, block in options.unread_objectives().items() if isinstance(options, NotedBlock) else ():
        name = type(model).__name__
        remark = f"train.{key}: {name} reads no such block, and trains without it; set model_type: {name}{SUFFIX}"
        if isinstance(block, Mapping) and block.get("type") in LOSS_REGISTRY.fill():
            raise OptionError(remark)
        warnings.warn(f"d2sm_plugin: {remark}", stacklevel=3)
    return model


def with_objectives(base: type) -> type:
    """Return a subclass of a model of BasicSR's that builds every ``*_opt`` block of ``train``, known to it or not.

    The further objectives get what ``perceptual_opt`` gets, and ``lq`` of the batch by ``takes: [restored, lq]``. Their
    sum is added there, each is logged as ``l_NAME``, and what they remember is saved and restored with the training
    state. Their weights may be relative to ``pixel_opt``.

    ``base`` must call ``cri_perceptual`` in its training step, as SRModel, SwinIRModel, SRGANModel, ESRGANModel,
    RealESRNetModel and RealESRGANModel do.

    With the plugin imported, ``model_type: SRModelWithObjectives`` names the subclass of SRModel.
    """

    class WithObjectives(base):
        def __init__(self, opt: Mapping[str, Any]) -> None:
            if opt.get("train") is not None and not isinstance(opt["train"], NotedBlock):
                opt = {**opt, "train": NotedBlock(opt["train"])}
            super().__init__(opt)

        def init_training_settings(self) -> None:
            _refuse_own_keys(self.opt["train"], _OF_HOST, type(self).__name__)
            super().init_training_settings()
            train = self.opt["train"]
            further = train.unread_objectives()
            train.read.update(further)
            self.objectives = Objectives(further).to(self.device).train()
            for note in check_steps(further, train["total_iter"], may_rest=True):
                logging.getLogger("basicsr").info(note)
            self.objectives.may_rest = True
            _keep_state(self)
            self.cri_perceptual = _Together(self)

        def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> Any:
            return super().reduce_loss_dict(self.cri_perceptual.itemised(loss_dict))

    WithObjectives.__name__ = WithObjectives.__qualname__ = f"{base.__name__}{SUFFIX}"
    return WithObjectives


class _Together:
    """Criterion of ``perceptual_opt``, if any, and all further objectives, as one; returns (perceptual, style)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.perceptual = model.cri_perceptual
        self.last: dict[str, Tensor] = {}

    def __call__(self, restored: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        pair = (None, None) if self.perceptual is None else _pair(self.perceptual(restored, gt))
        unweighted = self.model.objectives({"lq": self.model.lq, "gt": gt}, {"restored": restored})
        values = self.model.objectives.weighted(unweighted)
        self.last = {f"l_{name}": value.detach() for name, value in values.items()}
        self._set_relative_weights(unweighted, restored, gt)
        if pair[0] is not None:
            self.last["l_percep"] = pair[0].detach()
            values["perceptual"] = pair[0]
        return (torch.stack(list(values.values())).sum() if values else None), pair[1]

    def _set_relative_weights(self, values: Mapping[str, Tensor], restored: Tensor, gt: Tensor) -> None:
        """Let relative weights take in this step, for the next one."""
        names, losses = self.model.objectives.to_measure(), {}
        if names:
            if getattr(self.model, "cri_pix", None) is None:
                raise OptionError(
                    f"train.{names[1]}_opt.loss_weight.relative: it is relative to train.pixel_opt; add that"
                )
            losses = {REFERENCE: self.model.cri_pix(restored, gt)} | {k: values[k] for k in names if k in values}
        norms = gradient_norms(losses, [restored])
        weights, lines = self.model.objectives.measure(joint_norms({k: norm.square() for k, norm in norms.items()}))
        self.last |= {name: restored.new_tensor(weight) for name, weight in weights.items()}
        for level, line in lines:
            get_root_logger().log(level, line)

    def itemised(self, losses: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Return the host's losses of a step with the items of the perceptual sum in place of it."""
        rest, sums = OrderedDict(losses), ("l_percep", "l_g_percep")
        if any(rest.pop(name, None) is not None for name in sums):
            rest.update(self.last)
        return rest


def _refuse_own_keys(train: Mapping[str, Any], keys: Collection[str], name: str) -> None:
    """Refuse relative weights, schedules and rests of objectives that BasicSR builds."""
    for key, block in train.items():
        unknown = [k for k in ("schedule", "every") if isinstance(block, Mapping) and k in block]
        if key in keys and unknown:
            raise OptionError(
                f"train.{key}.{unknown[0]}: {name} builds this objective and knows no such key; remove it, or set "
                f"model_type: D2SMModel"
            )
        if key in keys and isinstance(block, Mapping) and isinstance(block.get("loss_weight"), Mapping):
            raise OptionError(
                f"train.{key}.loss_weight: {name} builds this objective, which takes a number; weights are relative in "
                f"D2SMModel, and in {name.removesuffix(SUFFIX)}{SUFFIX} for objectives that it does not know itself"
            )


def _pair(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value, None)


def _return_pairs(criterion: Any) -> None:
    if isinstance(criterion, nn.Module):
        criterion.register_forward_hook(lambda module, arguments, value: _pair(value))


def _keep_state(model: Any) -> None:
    """Let the host save what the plugin's objectives in a model remember, once."""
    schedulers = getattr(model, "schedulers", None)
    if schedulers is None or any(isinstance(scheduler, ObjectiveState) for scheduler in schedulers):
        return
    kept = {
        name: value
        for name, value in vars(model).items()
        if (name == "objectives" or name.startswith("cri_"))
        and isinstance(value, nn.Module)
        and type(value).__module__.startswith("d2sm_plugin.")
        and (isinstance(value, Objectives) or value.state_dict())
    }
    if kept:
        schedulers.append(ObjectiveState(kept))
