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
        strength (`float`): 0 for none, 1 for the recipe's. It scales amounts; a flip, a fill and a blur have the same
            chance at every strength above 0.

    Returns:
        Images and masks of the same shapes, and `valid`, which is 1 on the image and 0 on padding.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawn() -> Tensor:
        return torch.stack([torch.rand(2, generator=generator) for generator in generators])

    def uniform(low: float, high: float, chance: float = 1.0) -> Tensor:
        """One number per image, or 0 where the chance fails."""
        amount, luck = drawn().unbind(1)
        return (low + (high - low) * amount) * strength * (luck < chance)

    def happens(chance: float) -> Tensor:
        """True for some of the images."""
        return (drawn()[:, 1] < chance) & (strength > 0)

    images, masks, valid = _warped(images, masks, sizes, generators, uniform, happens)
    images = _intensity(images, generators, uniform, happens)
    return images * valid, masks, valid


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def linear_map(angle: Tensor, scale: Tensor, stretch: Tensor, flip: Tensor) -> Tensor:
    """
    Where a pixel comes from: the image is flipped left to right, stretched along its own axes, scaled, then rotated.

    Args:
        angle (`torch.Tensor` of shape `(batch,)`): In radians.
        scale, stretch (`torch.Tensor` of shape `(batch,)`): The image becomes `scale * stretch` times as wide and
            `scale / stretch` times as high.
        flip (`torch.Tensor` of shape `(batch,)`): -1 for a flip, 1 for none.

    Returns:
        `torch.Tensor` of shape `(batch, 2, 2)`, from the place in the result to the place in the image. Its rows are
        orthogonal: a rectangle stays one.
    """
    cosine, sine = angle.cos(), angle.sin()
    across = torch.stack([cosine * flip, -sine * flip], dim=1) / (scale * stretch)[:, None]
    down = torch.stack([sine, cosine], dim=1) * (stretch / scale)[:, None]
    return torch.stack([across, down], dim=1)


def _warped(
    images: Tensor, masks: Tensor, sizes: Tensor, generators: list[torch.Generator], uniform: Draw, happens: Draw
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
    flip = 1 - 2 * happens(0.5).float()
    shift = torch.stack([uniform(-0.15, 0.15), uniform(-0.15, 0.15)], dim=1)
    matrix, centre = linear_map(angle, scale, stretch, flip), centre.flip(1)  # (x, y)
    moved = centre + shift - (matrix @ centre[:, :, None])[:, :, 0]
    theta = torch.cat([matrix, moved[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    waves = torch.stack([torch.randn(2, *WAVES, generator=generator) for generator in generators])
    waves = F.interpolate(waves, size=(height, width), mode="bicubic", align_corners=False)
    grid = grid + (_column(uniform(0, 0.06, 0.5)) * waves).permute(0, 2, 3, 1)
    covered = F.grid_sample(valid, grid, mode="nearest", align_corners=False)
    filled = _column(happens(0.3))
    first, last = 1 / side - 1, (2 * sizes - 1) / side - 1
    within = grid.clamp(first.flip(0), last.flip(1)[:, None, None])
    return (
        F.grid_sample(images, torch.where(filled, within, grid), align_corners=False),
        (F.grid_sample(masks, grid, align_corners=False) > 0.5).float(),
        torch.where(filled, torch.maximum(valid, covered), covered),
    )


def _intensity(images: Tensor, generators: list[torch.Generator], uniform: Draw, happens: Draw) -> Tensor:
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
    return torch.where(_column(happens(0.2)), soft, images).clamp(0, 1)


def _shadow(depth: Tensor, lateral: Tensor, uniform: Draw) -> Tensor:
    """How much darker each pixel is, in logarithms, below something that swallows the sound."""
    centre, width, top = uniform(-1, 1), uniform(0.05, 0.35), uniform(-0.9, 0.5)
    across = ((lateral - _column(centre)) / (_column(width) + 1e-3)) ** 2
    below = ((depth - _column(top)) / 0.2).clamp(0, 1)
    return _column(uniform(0.3, 1.6, 0.3)) * (-across).exp() * below
