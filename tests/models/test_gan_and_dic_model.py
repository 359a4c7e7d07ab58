from __future__ import annotations

import copy

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import register

GAN = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.05}


@register(ARCH_REGISTRY)
class TwoConvolutions(nn.Module):
    """A generator of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, lq):
        return self.second(self.first(lq).tanh())


@register(ARCH_REGISTRY)
class SmallCritic(nn.Module):
    """A discriminator of few weights."""

    def __init__(self, num_in_ch: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(num_in_ch, 4, 3, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))

    def forward(self, images):
        return self.body(images).mean((2, 3))


def model_of(kind="GANModel", critic=True, frozen=None, **train):
    raw = {
        "name": "x",
        "model_type": kind,
        "num_gpu": 0,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "TwoConvolutions"},
        "train": {"total_iter": 9, "optim_g": {"type": "Adam", "lr": 0.01}, "pixel_opt": {"type": "L1Loss"}, **train},
    }
    if critic:
        raw["network_d"] = {"type": "SmallCritic"}
        raw["train"] = {"optim_d": {"type": "Adam", "lr": 0.02}, "gan_opt": GAN, **raw["train"]}
    if frozen is not None:
        raw["train"]["frozen"] = frozen
    options = validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1}
    torch.manual_seed(0)
    return MODEL_REGISTRY.get(kind)(options)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, 2, 3, 8, 8, generator=generator)
    return {"lq": lq, "gt": gt, "key": ["a", "b"]}


def state(net):
    return copy.deepcopy(net.state_dict())


def equal_weights(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_step_equals_updating_one_network_after_the_other():
    model = model_of()
    net_g, net_d = copy.deepcopy(model.net_g), copy.deepcopy(model.net_d)
    optim_g = torch.optim.Adam(net_g.parameters(), lr=0.01)
    optim_d = torch.optim.Adam(net_d.parameters(), lr=0.02)
    gan = LOSS_REGISTRY.get("GANLoss")(gan_type="vanilla", loss_weight=0.05)
    for step in range(1, 4):
        data = batch(step)
        model.train_step([data], step)
        net_d.requires_grad_(False)
        fake = net_g(data["lq"])
        optim_g.zero_grad()
        ((fake - data["gt"]).abs().mean() + gan(net_d(fake), True)).backward()
        optim_g.step()
        net_d.requires_grad_(True)
        optim_d.zero_grad()
        gan(net_d(data["gt"]), True, is_disc=True).backward()
        gan(net_d(fake.detach()), False, is_disc=True).backward()
        optim_d.step()
    for trained, reference in ((model.net_g, net_g), (model.net_d, net_d)):
        for name, tensor in reference.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], tensor)
    log = model.get_current_log()
    assert {"l_pixel", "l_gan", "l_d_real", "l_d_fake"} <= set(log)
    assert "grad_norm/gan" in log and "grad_norm/d_real" not in log


def test_the_weight_of_the_discriminators_part_may_be_relative():
    """The adversarial gradient at the output is then half that of L1, in the steps in which the generator trains."""
    gan = {**GAN, "loss_weight": {"relative": 0.5, "steps": 1}}
    slow = {"type": "Adam", "lr": 1e-7}
    model = model_of(gan_opt=gan, net_d_init_iters=1, optim_g=slow, optim_d=slow)
    model.opt["logger"]["grad_norm_freq"] = 1
    logs = []
    for step in (1, 2, 3):
        model.train_step([batch()], step)
        logs.append(model.get_current_log())
    assert "grad_ratio/gan" not in logs[0]
    assert logs[1]["grad_ratio/gan"] == logs[1]["l_gan"] == 0
    assert logs[2]["grad_ratio/gan"] == pytest.approx(0.5, rel=1e-3)
    again = model_of(gan_opt=gan)
    again.load_training_state({**model.training_state(), "iter": 3})
    assert again.objectives.weights["gan"].at(4) == model.objectives.weights["gan"].at(4) > 0


def test_the_generator_rests_at_first_and_in_between():
    model = model_of(net_d_init_iters=2, net_d_iters=2)
    changes = []
    for step in range(1, 7):
        before, critic = state(model.net_g), state(model.net_d)
        assert model.train_step([batch(step)], step)
        changes.append(not equal_weights(before, model.net_g.state_dict()))
        assert not equal_weights(critic, model.net_d.state_dict())
    assert changes == [False, False, False, True, False, True]


def test_resuming_goes_on_bit_for_bit():
    scheduler = {"type": "MultiStepLR", "milestones": [2, 3], "gamma": 0.5}
    model = model_of(scheduler=scheduler, ema_decay=0.9)
    for step in range(1, 7):
        model.update_learning_rate(step)
        model.train_step([batch(step)], step)
        if step == 3:
            saved = copy.deepcopy(model.training_state())
            weights = {
                (label, key): state(net) for label, nets in model.networks().items() for key, net in nets.items()
            }
    again = model_of(scheduler=scheduler, ema_decay=0.9)
    for label, nets in again.networks().items():
        for key, net in nets.items():
            net.load_state_dict(weights[label, key])
    again.load_training_state(saved)
    for step in range(4, 7):
        again.update_learning_rate(step)
        again.train_step([batch(step)], step)
    assert set(model.networks()) == {"net_g", "net_d"}
    for label, nets in model.networks().items():
        for key, net in nets.items():
            assert equal_weights(net.state_dict(), again.networks()[label][key].state_dict())


def test_a_loss_that_is_not_finite_trains_neither_network():
    model = model_of()
    data = batch()
    data["gt"][0, 0, 0, 0] = float("nan")
    before = state(model.net_g), state(model.net_d)
    assert not model.train_step([data], 2)
    assert equal_weights(before[0], model.net_g.state_dict()) and equal_weights(before[1], model.net_d.state_dict())


def test_weights_of_the_critic_are_loaded(tmp_path):
    critic = SmallCritic()
    torch.save({"params": critic.state_dict()}, tmp_path / "critic.pth")
    raw = model_of().opt
    raw["path"]["pretrain_network_d"] = str(tmp_path / "critic.pth")
    model = MODEL_REGISTRY.get("GANModel")(raw)
    assert equal_weights(critic.state_dict(), model.net_d.state_dict())


def test_gan_blocks_that_are_missing():
    with pytest.raises(OptionError, match=r"train\.gan_opt: this block is missing"):
        model_of(gan_opt=None)
    with pytest.raises(OptionError, match=r"network_d: this block is missing"):
        model_of(critic=False, gan_opt=GAN)
    with pytest.raises(OptionError, match=r"train\.optim_d: this block is missing"):
        model_of(optim_d=None)
    with pytest.raises(OptionError, match=r"train\.gan_opt\.takes: .* gives steps"):
        model_of(gan_opt={**GAN, "takes": ["steps", "gt"]}).train_step([batch()], 1)


def test_a_conditional_critic_sees_the_degraded_image_first():
    model = model_of()
    raw = model.opt
    raw["network_d"] = {"type": "SmallCritic", "num_in_ch": 6}
    raw["train"]["gan_opt"] = {**GAN, "condition": ["lq"]}
    torch.manual_seed(0)
    model = MODEL_REGISTRY.get("GANModel")(raw)
    data = batch()
    with torch.no_grad():
        fake = model.net_g(data["lq"])
        gan = LOSS_REGISTRY.get("GANLoss")(gan_type="vanilla", loss_weight=0.05)
        scores = [model.net_d(torch.cat((data["lq"], image), dim=1)) for image in (fake, data["gt"])]
    assert model.train_step([data], 1)
    log = model.get_current_log()
    assert log["l_gan"] == pytest.approx(gan(scores[0], True).item())
    assert log["l_d_fake"] == pytest.approx(gan(scores[0], False, is_disc=True).item())
    assert log["l_d_real"] == pytest.approx(gan(scores[1], True, is_disc=True).item())
    # The generator's gradient comes through the image alone; the condition is a constant.
    assert all(p.grad is not None for p in model.net_g.parameters())


def test_conditions_that_do_not_fit():
    with pytest.raises(
        OptionError, match=r"train\.gan_opt\.condition: .* gives depth \(given: gt, key, lq, restored\)"
    ):
        model_of(gan_opt={**GAN, "condition": ["depth"]}).train_step([batch()], 1)
    data = batch() | {"small": torch.rand(2, 3, 4, 4)}
    with pytest.raises(OptionError, match=r"condition: small has the size \(4, 4\), the judged image \(8, 8\)"):
        model_of(gan_opt={**GAN, "condition": ["small"]}).train_step([data], 1)
    with pytest.raises(OptionError, match=r"train\.gan_opt\.conditions: GANLoss takes no such argument"):
        model_of(gan_opt={**GAN, "conditions": ["lq"]})


def test_dic_model_without_a_critic():
    model = model_of("DICModel", critic=False)
    assert model.net_d is None and list(model.networks()) == ["net_g"]
    assert model.train_step([batch()], 1)
    assert set(model.get_current_log()) >= {"l_pixel"}


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_frozen_part_rests_until_its_step_and_lets_gradients_through(decay):
    model = model_of("DICModel", critic=False, frozen={"second": 2}, optim_g={
        "type": "Adam", "lr": 0.01, "weight_decay": decay,
    })  # fmt: skip
    for step in range(1, 5):
        before = state(model.net_g)
        model.train_step([batch(step)], step)
        after = model.net_g.state_dict()
        assert not torch.equal(before["first.weight"], after["first.weight"])
        assert torch.equal(before["second.weight"], after["second.weight"]) is (step <= 2)


def test_frozen_part_that_is_not_there():
    with pytest.raises(OptionError, match=r"train\.frozen: TwoConvolutions has no part 'third'.*known: first, second"):
        model_of("DICModel", critic=False, frozen={"third": 5})


def test_alignment_model_measures_and_draws():
    raw = {
        "name": "x",
        "model_type": "AlignmentModel",
        "num_gpu": 0,
        "datasets": {
            "train": {"type": "FaceDataset", "points": "celeba5", "dataroot_gt": "faces", "landmarks": "a.csv"}
        },
        "network_g": {"type": "StackedHourglass", "num_points": 5, "num_stack": 1, "num_feat": 8},
        "train": {
            "total_iter": 9,
            "optim_g": {"type": "Adam", "lr": 0.01},
            "align_opt": {"type": "MSELoss", "takes": ["heatmaps", "gt_heatmaps"]},
        },
    }
    options = validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1}
    model = MODEL_REGISTRY.get("AlignmentModel")(options)
    faces = {
        "gt": torch.rand(2, 3, 64, 64),
        "landmarks": torch.rand(2, 5, 2) * 64,
        "gt_heatmaps": torch.rand(2, 5, 16, 16),
    }
    assert model.train_step([faces], 1)
    actual = model.find(faces)
    assert actual.shape == (2, 5, 2) and model.net_g.training
    errors = (actual - faces["landmarks"]).square().sum(-1).mean(-1).sqrt()
    eyes = (faces["landmarks"][:, 1] - faces["landmarks"][:, 0]).norm(dim=-1)
    pictures = model.restore(faces)
    assert pictures.shape == (2, 3, 64, 64)
    assert torch.equal(pictures, pictures.clamp(0, 1))
    measured = torch.tensor([row["nrmse"] for row in model.measure(faces, pictures)])
    torch.testing.assert_close(measured, errors / eyes, rtol=1e-4, atol=1e-6)


def test_other_objectives_may_rest_beside_a_discriminator():
    model = model_of(pixel_opt={"type": "L1Loss", "every": 2})
    logged = []
    for step in (1, 2):
        model.train_step([batch()], step)
        logged.append({name for name in model.get_current_log() if name in ("l_pixel", "l_gan")})
    assert logged == [{"l_gan"}, {"l_gan", "l_pixel"}]


def test_a_discriminator_may_train_alone_at_first():
    late = {"schedule": [[3, 0], [4, 1]]}
    gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1, **late}
    model = model_of(pixel_opt={"type": "L1Loss", **late}, gan_opt=gan, net_d_init_iters=3)
    moved = []
    for step in range(1, 6):
        before = [parameter.clone() for parameter in model.net_g.parameters()]
        model.train_step([batch()], step)
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True)))
    assert moved == [False, False, False, True, True]


def test_rests_of_an_objective_and_of_the_generator_must_not_coincide():
    model_of(pixel_opt={"type": "L1Loss", "every": 3}, net_d_iters=2)
    with pytest.raises(OptionError, match=r"pixel_opt\.every: the generator trains once in net_d_iters = 2 steps"):
        model_of(pixel_opt={"type": "L1Loss", "every": 4}, net_d_iters=2)
