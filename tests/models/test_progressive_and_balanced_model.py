from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.progressive_model import _reduce_to
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import ARCH_REGISTRY, MODEL_REGISTRY, register

WGAN = {
    "type": "GANLoss", "gan_type": "wgan", "loss_weight": 1.0, "gradient_penalty": 2.5, "gradient_norm": 2.0,
    "drift": 0.001, "schedule": [[2, 1], [3, 0.1]],
}  # fmt: skip
GROWTH = {"ends": [2, 4], "fade": 1}
ADAM = {"type": "Adam", "lr": 1e-3, "betas": [0.0, 0.99]}


def model_of(kind, networks, **train):
    raw = {
        "name": "x",
        "model_type": kind,
        "num_gpu": 0,
        "datasets": {"train": {"type": "FaceDataset", "dataroot_gt": "faces", "landmarks": "faces.csv"}},
        **networks,
        "train": {"total_iter": 9, "optim_g": ADAM, "optim_d": ADAM, "pixel_opt": {"type": "MSELoss"}, **train},
    }
    options = validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1}
    torch.manual_seed(0)
    return MODEL_REGISTRY.get(kind)(options)


def growing(**train):
    networks = {
        "network_g": {"type": "PFSR", "num_feat": 16},
        "network_d": {"type": "PFSRDiscriminator", "num_feat": 4, "num_hidden": 8},
    }
    return model_of("ProgressiveModel", networks, **{"growth": GROWTH, "gan_opt": WGAN, **train})


def faces(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"lq": torch.rand(2, 3, 16, 16, generator=generator), "gt": torch.rand(2, 3, 128, 128, generator=generator)}


def equal_weights(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_stage_and_fade_follow_from_the_step():
    model = growing(growth={"ends": [50_000, 100_000], "fade": 25_000})
    expected = {
        1: (1, 1.0), 50_000: (1, 1.0), 50_001: (2, 0.0), 62_501: (2, 0.5), 75_001: (2, 1.0), 100_000: (2, 1.0),
        100_001: (3, 0.0), 112_501: (3, 0.5), 200_000: (3, 1.0),
    }  # fmt: skip
    assert {step: model.growth_at(step) for step in expected} == expected
    assert growing(growth={"ends": [1, 2], "fade": 0}).growth_at(2) == (2, 1.0)


def test_clear_faces_are_reduced_as_pil_does():
    images = torch.rand(2, 3, 16, 16)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    kernel = (
        torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    )  # PIL's triangle over four pixels; at the border its tail is missing
    expected = F.conv2d(padded.flatten(0, 1)[:, None], torch.outer(kernel, kernel)[None, None], stride=2).view(
        2, 3, 8, 8
    )
    torch.testing.assert_close(_reduce_to(images, 8)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert torch.equal(_reduce_to(images, 4), _reduce_to(_reduce_to(images, 8), 4))
    assert _reduce_to(images, 16) is images


def reference_step(net_g, net_d, optim_g, optim_d, data, step):
    """What one step is, written out: stage and fade are those of GROWTH."""
    stage, fade = {1: (1, 1.0), 2: (1, 1.0), 3: (2, 0.0), 4: (2, 1.0), 5: (3, 0.0), 6: (3, 1.0)}[step]
    for network in (net_g, net_d):
        network.grow(stage, fade)
    real = data["gt"]
    for _ in range(3 - stage):
        real = F.interpolate(real, scale_factor=0.5, mode="bilinear", antialias=True)
    fake = net_g(data["lq"])
    optim_g.zero_grad()
    net_d.requires_grad_(False)
    (F.mse_loss(fake, real) - (1.0 if step <= 2 else 0.1) * net_d(fake).mean()).backward()
    net_d.requires_grad_(True)
    fake = fake.detach()
    optim_d.zero_grad()
    judged = net_d(real)
    share = torch.rand(2, 1, 1, 1)
    between = (fake + share * (real - fake)).requires_grad_()
    (gradient,) = torch.autograd.grad(net_d(between).sum(), between, create_graph=True)
    penalty = 2.5 * ((gradient.square().sum((1, 2, 3)).sqrt() - 2) ** 2).mean()
    (-judged.mean() + 0.001 * judged.square().mean() + net_d(fake).mean() + penalty).backward()
    optim_g.step()
    optim_d.step()


def test_steps_of_every_stage_equal_the_formulas():
    model = growing(optim_g={"type": "SGD", "lr": 0.01}, optim_d={"type": "SGD", "lr": 0.01})
    net_g, net_d = copy.deepcopy(model.net_g), copy.deepcopy(model.net_d)
    optimisers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in (net_g, net_d)]
    for step in range(1, 7):
        torch.manual_seed(step)
        model.train_step([faces(step)], step)
        torch.manual_seed(step)
        reference_step(net_g, net_d, *optimisers, faces(step), step)
        log = model.get_current_log()
        assert {"l_pixel", "l_gan", "l_d_real", "l_d_fake", "l_d_penalty"} <= set(log)
        assert not any("d_penalty" in name for name in log if name.startswith("grad"))
        for trained, reference in ((model.net_g, net_g), (model.net_d, net_d)):
            for name, tensor in reference.state_dict().items():
                torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_validation_sees_the_whole_size_and_the_average_grows_too():
    model = growing(ema_decay=0.5)
    for step, stage in ((1, 1), (3, 2), (6, 3)):
        model.train_step([faces(step)], step)
        assert model.net_g_ema.stage == stage
        assert model.restore(faces()).shape == (2, 3, 128, 128)


def test_resuming_amid_the_growth_goes_on_bit_for_bit():
    model = growing()
    for step in range(1, 7):
        torch.manual_seed(100 + step)
        model.train_step([faces(step)], step)
        if step == 3:  # the second stage has just begun
            state = copy.deepcopy(model.training_state())
            networks = {label: copy.deepcopy(nets["params"].state_dict()) for label, nets in model.networks().items()}
    again = growing()
    for label, nets in again.networks().items():
        nets["params"].load_state_dict(networks[label])
    again.load_training_state(state)
    assert (again.net_g.stage, again.net_g.fade) == (2, 0.0)
    for step in range(4, 7):
        torch.manual_seed(100 + step)
        again.train_step([faces(step)], step)
    for label, nets in model.networks().items():
        assert equal_weights(nets["params"].state_dict(), again.networks()[label]["params"].state_dict())


def test_growing_without_a_discriminator():
    model = model_of("ProgressiveModel", {"network_g": {"type": "PFSR", "num_feat": 16}}, growth=GROWTH, optim_d=None)
    assert model.train_step([faces()], 5) and set(model.networks()) == {"net_g"}


def test_growth_that_does_not_fit():
    with pytest.raises(OptionError, match=r"train\.growth: expected a block of keys, got None"):
        growing(growth=None)
    with pytest.raises(OptionError, match=r"train\.growth\.ends: expected 2 steps for 3 stages, got \[5\]"):
        growing(growth={"ends": [5], "fade": 1})
    with pytest.raises(OptionError, match=r"train\.growth\.ends: steps must rise"):
        growing(growth={"ends": [5, 5], "fade": 1})
    with pytest.raises(OptionError, match=r"train\.growth\.fade: expected an integer, got 0\.5"):
        growing(growth={"ends": [5, 6], "fade": 0.5})
    with pytest.raises(OptionError, match=r"network_g\.type: URDGN does not grow"):
        model_of("ProgressiveModel", {"network_g": {"type": "URDGN"}}, growth=GROWTH)
    with pytest.raises(OptionError, match=r"train\.growth: unknown key"):
        model_of("GANModel", {"network_g": {"type": "URDGN"}}, growth=GROWTH)


# ------------------------------------------------------------------------------------------------- who is ahead, rests


@register(ARCH_REGISTRY)
class Opinion(nn.Module):
    """A discriminator whose logits for bright (real) and dark (restored) images are two parameters."""

    def __init__(self, real: float = 0.0, fake: float = 0.0) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor([real, fake]))

    def forward(self, images):
        return torch.where(images.mean((1, 2, 3)) > 0.5, *self.values)[:, None]


def balanced(real, fake, margin=0.3):
    gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.01, "margin": margin}
    networks = {
        "network_g": {"type": "URDGN", "num_feat": [4, 4, 4, 4]},
        "network_d": {"type": "Opinion", "real": real, "fake": fake},
    }
    model = model_of("BalancedGANModel", networks, gan_opt=gan)
    with torch.no_grad():
        model.net_g.layers[-1].weight.zero_()
        model.net_g.layers[-1].bias.fill_(-0.9)  # dark
    return model


@pytest.mark.parametrize(
    ("real", "fake", "generator", "discriminator"),
    [
        (0.0, 0.0, True, True),  # both losses are ln 2 = 0.69
        (0.0, -1.2, True, False),  # what is restored is found out: a loss of 0.26
        (1.2, 0.0, True, False),
        (0.0, 0.1, False, True),  # a loss of 0.74: the discriminator is behind
        (-0.1, 0.0, False, True),
        (1.2, 0.1, True, True),  # both would rest
    ],
)
def test_who_is_ahead_rests(real, fake, generator, discriminator):
    model = balanced(real, fake)
    data = {"lq": torch.rand(2, 3, 4, 4), "gt": torch.full((2, 3, 32, 32), 0.8)}
    before = {label: copy.deepcopy(nets["params"].state_dict()) for label, nets in model.networks().items()}
    assert model.train_step([data], 1)
    for label, trains in (("net_g", generator), ("net_d", discriminator)):
        parameters = dict(model.networks()[label]["params"].named_parameters())
        assert equal_weights(parameters, before[label]) is not trains
    steps = [len(optimiser.state) > 0 for optimiser in model.optimizers]
    assert steps == [generator, discriminator]


def test_balance_is_that_of_all_mini_batches():
    model = balanced(0.0, -1.2)
    bright, dark = (torch.full((2, 3, 32, 32), value) for value in (0.8, 0.1))  # a dark real one is misjudged: 1.46
    batches = [{"lq": torch.rand(2, 3, 4, 4), "gt": gt} for gt in (bright, dark)]
    model.train_step(batches, 1)
    # real (0.69 + 1.46) / 2 is above 0.7, restored 0.26 below 0.3: both would rest, so both train
    assert [len(optimiser.state) > 0 for optimiser in model.optimizers] == [True, True]


@pytest.mark.parametrize("margin", [0.0, 0.5, "0.3", True])
def test_margin_out_of_range(margin):
    with pytest.raises(OptionError, match=r"train\.gan_opt\.margin: expected a number"):
        balanced(0.0, 0.0, margin)


def test_keys_of_another_model_are_refused():
    networks = {"network_g": {"type": "URDGN"}, "network_d": {"type": "Opinion"}}
    gan = {"type": "GANLoss", "gan_type": "vanilla"}
    with pytest.raises(OptionError, match=r"train\.gan_opt\.margin: GANLoss takes no such argument"):
        model_of("GANModel", networks, gan_opt={**gan, "margin": 0.3})
    with pytest.raises(OptionError, match=r"train\.gan_opt\.drift: GANLoss takes no such argument"):
        model_of("BalancedGANModel", networks, gan_opt={**gan, "drift": 0.3})
