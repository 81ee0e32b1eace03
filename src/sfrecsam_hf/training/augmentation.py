"""Augmentation for ultrasound: what changes between scanners, probes and hands, with the mask moved along.

Every image draws from its own generator, so that an epoch does not depend on batch size, accumulation, the number of
processes, or on whether training was interrupted.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Draw = Callable[..., Tensor]

WAVES = (5, 5)  # points at which the smooth displacement is drawn


def augment(
    images: Tensor, masks: Tensor, sizes: Tensor, seeds: list[int], strength: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Flips, affine and elastic warps, corners, gamma, gain, depth-dependent attenuation, lateral shading, an
    acoustic shadow, speckle and blur.

    Args:
        images (`torch.Tensor` of shape `(batch, 1, height, width)`): Gray in [0, 1], padded right and below.
        masks (`torch.Tensor` of shape `(batch, masks, height, width)`): 0 or 1.
        sizes (`torch.Tensor` of shape `(batch, 2)`): Height and width inside the padding.
        seeds (`list[int]`): One per image.
        strength (`float`): 0 for none, 1 for the recipe's.

    Returns:
        Images and masks of the same shapes, and `valid`, which is 1 on the image and 0 on padding.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(low: float, high: float, chance: float = 1.0) -> Tensor:
        """One number per image, or 0 where the chance fails."""
        drawn = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        return (low + (high - low) * drawn[:, 0]) * strength * (drawn[:, 1] < chance)

    images, masks, valid = _warped(images, masks, sizes, generators, uniform)
    images = _intensity(images, generators, uniform)
    return images * valid, masks, valid


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _warped(
    images: Tensor, masks: Tensor, sizes: Tensor, generators: list[torch.Generator], uniform: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Flip, rotation to 15 degrees, scale from 0.74 to 1.65, stretch to 1.16 and shift about the image's own centre, and
    a smooth displacement of up to a few hundredths of the side.

    Where the image leaves a part of its place uncovered, that part becomes padding, or in 3 of 10 images its edge goes
    on there: so [`ScanFrame`] fills the corners of steered beams and turned pictures.
    """
    height, width = images.shape[-2:]
    side = torch.tensor([height, width])
    inside = (torch.arange(height)[:, None] < sizes[:, :1, None]) & (torch.arange(width) < sizes[:, 1:, None])
    valid = inside[:, None].float()
    centre = sizes.float() / side - 1
    angle = uniform(-15, 15) * (math.pi / 180)
    scale, stretch = uniform(-0.3, 0.5).exp(), uniform(-0.15, 0.15).exp()
    flip = 1 - 2 * (uniform(0, 1) > 0.5).float()
    shift_x, shift_y = uniform(-0.15, 0.15), uniform(-0.15, 0.15)
    cosine, sine = angle.cos(), angle.sin()
    xx, xy = cosine * flip / (scale * stretch), -sine / (scale * stretch)
    yx, yy = sine * flip / scale, cosine * stretch / scale
    cy, cx = centre.unbind(1)
    theta = torch.stack(
        [
            torch.stack([xx, xy, cx - xx * cx - xy * cy + shift_x], dim=1),
            torch.stack([yx, yy, cy - yx * cx - yy * cy + shift_y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    waves = torch.stack([torch.randn(2, *WAVES, generator=generator) for generator in generators])
    waves = F.interpolate(waves, size=(height, width), mode="bicubic", align_corners=False)
    grid = grid + (_column(uniform(0, 0.06, 0.5)) * waves).permute(0, 2, 3, 1)
    covered = F.grid_sample(valid, grid, mode="nearest", align_corners=False)
    filled = _column(uniform(1, 1, 0.3) > 0)
    first, last = 1 / side - 1, (2 * sizes - 1) / side - 1
    within = grid.clamp(first.flip(0), last.flip(1)[:, None, None])
    return (
        F.grid_sample(images, torch.where(filled, within, grid), align_corners=False),
        (F.grid_sample(masks, grid, align_corners=False) > 0.5).float(),
        torch.where(filled, torch.maximum(valid, covered), covered),
    )


def _intensity(images: Tensor, generators: list[torch.Generator], uniform: Draw) -> Tensor:
    height, width = images.shape[-2:]
    images = images.clamp(0, 1) ** _column(uniform(-0.5, 0.5, 0.6).exp())
    images = images * _column(uniform(-0.35, 0.35, 0.6).exp())
    depth = torch.linspace(-1, 1, height)[:, None]
    images = images * (_column(uniform(-0.6, 0.6, 0.4)) * depth).exp()
    lateral = torch.linspace(-1, 1, width)
    images = images * (_column(uniform(-0.3, 0.3, 0.2)) * lateral).exp()
    images = images * (-_shadow(depth, lateral, uniform)).exp()
    for grain in (1, 2):
        amount = uniform(0, 0.25, 0.25)
        speckle = torch.stack(
            [torch.randn(1, height // grain, width // grain, generator=generator) for generator in generators]
        )
        speckle = F.interpolate(speckle, size=(height, width), mode="bilinear", align_corners=False)
        images = images * (1 + _column(amount) * speckle)
    soft = F.avg_pool2d(F.avg_pool2d(images, 3, 1, 1), 3, 1, 1)
    return torch.where(_column(uniform(1, 1, 0.2)) > 0, soft, images).clamp(0, 1)


def _shadow(depth: Tensor, lateral: Tensor, uniform: Draw) -> Tensor:
    """How much darker each pixel is, in logarithms, below something that swallows the sound."""
    centre, width, top = uniform(-1, 1), uniform(0.05, 0.35), uniform(-0.9, 0.5)
    across = ((lateral - _column(centre)) / (_column(width) + 1e-3)) ** 2
    below = ((depth - _column(top)) / 0.2).clamp(0, 1)
    return _column(uniform(0.3, 1.6, 0.3)) * (-across).exp() * below
