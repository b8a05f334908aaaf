"""Tune a small diffusion U-Net on two digits, by each subset of Dutt et al.'s table of methods.

There are no released weights in it: the U-Net is trained from scratch on eight of the ten
handwritten digits of scikit-learn, then each subset learns the other two. What is printed is the
error of the predicted noise on held-out images, lower is better.

    pip install peftcore peftcore-svdiff peftcore-difffit peftcore-freeze peftcore-bitfit diffusers
    python examples/diffusion.py 400 200        # steps from scratch, and of each subset
"""

import sys
from collections.abc import Iterable

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import peftcore

_ATTENTION = {"method": "freeze", "targets": ["path:**.attn1.**", "path:**.attn2.**"]}
#: Rows 16 to 18 of the table, and full tuning. The branches of a U-Net end in these layers.
SUBSETS: dict[str, list] = {
    "svdiff": [{"method": "svdiff", "targets": ["conv", "linear"], "shift_1d": True}],
    "difffit": [
        {"method": "difffit", "targets": ["path:**.to_out.0", "path:**.ff.net.2", "path:**.conv2"]}
    ],
    "attention": [_ATTENTION],
    "bias": ["bitfit"],
    "norm": ["norm_tuning"],
    "bias-norm-attention": ["bitfit", "norm_tuning", _ATTENTION],
    "full": ["full"],
}
#: Learning rates; 4e-3 for the others.
RATES = {"svdiff": 5e-2, "full": 2e-4, "attention": 1e-3, "bias-norm-attention": 1e-3}
WIDTH = 12  # of the embedding of a digit


def unet() -> UNet2DConditionModel:
    """Return a small U-Net of Stable Diffusion's kind, conditioned on one vector."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def error(model: nn.Module, images: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the predicted noise; images [B, 1, 8, 8], words [B, W]."""
    schedule = DDPMScheduler(num_train_timesteps=100)
    noise = torch.randn(images.shape, generator=generator)
    steps = torch.randint(0, 100, (len(images),), generator=generator)
    noisy = schedule.add_noise(images, noise, steps)
    return F.mse_loss(model(noisy, steps, words[:, None]).sample, noise)


def groups(adapter: peftcore.Adapter, rate: float) -> list[dict]:
    """Return what an adapter trains, each parameter with the rate that its method wants."""
    factors = adapter.learning_rates()
    return [{"params": [p], "lr": rate * factors.get(p, 1.0)} for p in adapter.parameters()]


def fit(model: nn.Module, parameters: Iterable, data: tuple, steps: int, rate: float, seed: int):
    """Train some parameters, or groups of them, for some steps of 32 images."""
    images, words = data
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(list(parameters), lr=rate)
    for _ in range(steps):
        rows = torch.randint(len(images), (32,), generator=chance)
        optimizer.zero_grad()
        error(model, images[rows], words[rows], chance).backward()
        optimizer.step()


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images in -1 to 1 with a vector of their digit: of eight digits, and of two more."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    table = torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(data.target)
    words, new, held = table[target], target >= 8, torch.arange(len(images)) % 3 == 0
    return {
        "old": (images[~new], words[~new]),
        "train": (images[new & ~held], words[new & ~held]),
        "test": (images[new & held], words[new & held]),
    }


def main(scratch: int, steps: int) -> None:
    """Print the error of each subset."""
    torch.manual_seed(0)
    data, model = digits(), unet()
    fit(model, model.parameters(), data["old"], scratch, 2e-3, seed=0)
    model.eval()

    def tested() -> float:
        with torch.no_grad():
            chance = torch.Generator().manual_seed(1)
            return sum(float(error(model, *data["test"], chance)) for _ in range(8)) / 8

    print(f"{'untuned':20} {0:9,} trained  error {tested():.4f}")
    for name, methods in SUBSETS.items():
        adapter = peftcore.attach(model, methods)
        rate = RATES.get(name, 4e-3)
        fit(model, groups(adapter, rate), data["train"], steps, rate, seed=2)
        print(f"{name:20} {adapter.plan.trainable:9,} trained  error {tested():.4f}")
        adapter.detach()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
