"""Training images held at training size, shown in an order and an augmentation that only seed and epoch decide."""

from collections.abc import Iterator

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from tqdm import tqdm

from ..evaluation.oracle_prompts import loose_box, random_click
from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.prompts import ABSENT
from .augmentation import augment
from .marks import marked

MOST_CLICKS = 2

Key = tuple[int, int]


class TrainingImages(torch.utils.data.Dataset):
    r"""
    Gray images and masks as bytes at training size; a batch is augmented and prompted as a whole.

    Resizing once and keeping bytes took the data time of a step from half of it to a twentieth (256 px, two cores).

    Args:
        sources (`list[datasets.Dataset]`): With the columns `image` and `mask`.
        processor ([`SFRecSamImageProcessorPil`]): Decides size, mean and standard deviation.
        seed (`int`): With epoch and index, decides the augmentation and the prompts of an image.
        augmentation (`float`): Strength.
        click_share (`float`): Share of lesion images that get clicks.
        box_share (`float`): Share of lesion images that get a loose box.
        marks (`float`): Share of lesion images on which calipers are drawn.
        prompts (`int`): Rows of prompts for each image, each drawn by itself.
    """

    def __init__(
        self,
        sources: list[Dataset],
        processor: SFRecSamImageProcessorPil,
        seed: int = 0,
        augmentation: float = 1.0,
        click_share: float = 0.0,
        box_share: float = 0.0,
        marks: float = 0.0,
        quiet: bool = False,
        prompts: int = 1,
    ):
        self.seed, self.augmentation, self.marks, self.prompts = seed, augmentation, marks, prompts
        self.click_share, self.box_share = click_share, box_share
        self.channel_mean = torch.tensor(processor.image_mean)[:, None, None]
        self.channel_std = torch.tensor(processor.image_std)[:, None, None]
        images, masks, sizes = [], [], []
        total = sum(len(source) for source in sources)
        with tqdm(total=total, desc="reading", disable=quiet) as bar:
            for source in sources:
                for row in source:
                    read = processor(
                        row["image"], segmentation_maps=row["mask"], do_normalize=False, return_tensors="pt"
                    )
                    images.append((read["pixel_values"][0, :1] * 255).round().to(torch.uint8))
                    masks.append(read["labels"][0, None].to(torch.uint8))
                    sizes.append(torch.as_tensor(read["reshaped_input_sizes"][0]))
                    bar.update()
        self.images, self.masks, self.sizes = torch.stack(images), torch.stack(masks), torch.stack(sizes)

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that is held, by which one set of images is told from another."""
        return self.images.numpy(), self.masks.numpy(), self.sizes.numpy()

    def __getitems__(self, keys: list[Key]) -> dict[str, Tensor]:
        """The batch of `(epoch, index)` pairs, ready for the model."""
        index = torch.tensor([key[1] for key in keys])
        seeds = [np.random.SeedSequence((self.seed, *key)).generate_state(3) for key in keys]
        askers = [np.random.default_rng(int(seed[1])) for seed in seeds]
        shown = [self._marked(key[1], int(seed[2])) for key, seed in zip(keys, seeds, strict=True)]
        images, masks, valid = augment(
            torch.stack(shown).float() / 255,
            self.masks[index].float(),
            self.sizes[index],
            [int(seed[0]) for seed in seeds],
            self.augmentation,
        )
        prompts = [
            [self._prompts(mask[0].numpy() > 0, asker) for _ in range(self.prompts)]
            for mask, asker in zip(masks, askers, strict=True)
        ]
        rows = [zip(*image, strict=True) for image in prompts]
        points, labels, boxes = (torch.stack([torch.stack(row) for row in kind]) for kind in zip(*rows, strict=True))
        batch = {
            "pixel_values": (images - self.channel_mean) / self.channel_std * valid,
            "pixel_mask": valid[:, 0],
            "labels": masks[:, 0],
        }
        if self.click_share or self.box_share:
            batch |= {"input_points": points, "input_labels": labels, "input_boxes": boxes}
        return batch

    def _marked(self, index: int, seed: int) -> Tensor:
        """The image of shape `(1, side, side)`, perhaps with calipers or a caption."""
        image = self.images[index]
        if not self.marks:
            return image
        height, width = self.sizes[index].tolist()
        scan, mask = (part[0, :height, :width].numpy() for part in (image, self.masks[index]))
        image = image.clone()
        image[0, :height, :width] = torch.from_numpy(marked(scan, mask > 0, self.marks, np.random.default_rng(seed)))
        return image

    def _kind(self, drawn: float) -> str | None:
        """What prompts an image of which a number in [0, 1) was drawn."""
        if drawn < self.box_share:
            return "box"
        return "clicks" if drawn < self.box_share + self.click_share else None

    def _prompts(self, mask: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Clicks on and beside the lesion, a loose box, or nothing, as a user might give them."""
        kind = self._kind(float(rng.random()))
        points = torch.full((MOST_CLICKS, 2), float(ABSENT))
        labels = torch.full((MOST_CLICKS,), ABSENT, dtype=torch.int)
        box = torch.full((4,), float(ABSENT))
        if kind is None or not mask.any() or mask.all():
            return points, labels, box
        if kind == "box":
            box = torch.tensor(loose_box(mask, rng))
            return points, labels, box
        for click in range(rng.integers(1, MOST_CLICKS + 1)):
            positive = click == 0 or rng.random() < 0.5
            points[click] = torch.tensor(random_click(mask if positive else ~mask, rng))
            labels[click] = int(positive)
        return points, labels, box


class EpochBatches(Sampler[list[Key]]):
    r"""
    The batches of one epoch as `(epoch, index)` pairs; set `epoch` and `start` before iterating.

    Each source shows its share: its images pass by in shuffled rounds, so that all are seen equally often.

    Args:
        lengths (`list[int]`): Images in each source.
        shares (`list[float]`): Share of each source that one epoch shows.
        batch_size (`int`): Images per batch.
        multiple (`int`): The number of batches is a multiple of this: processes times accumulation.
        seed (`int`): Decides the order.
    """

    drop_last = True

    def __init__(self, lengths: list[int], shares: list[float], batch_size: int, multiple: int, seed: int):
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.counts = [round(length * share) for length, share in zip(lengths, shares, strict=True)]
        self.batches = sum(self.counts) // (batch_size * multiple) * multiple
        self.epoch = 0
        self.start = 0
        if not self.batches:
            raise ValueError(
                f"{sum(self.counts)} training images do not fill one step of {batch_size * multiple}; "
                "lower batch_size or accumulation."
            )

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        chosen, offset = [], 0
        for source, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            chosen += [offset + index for index in self._window(source, length, count)]
            offset += length
        order = np.random.default_rng((self.seed, self.epoch)).permutation(chosen)
        for batch in range(self.start, self.batches):
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in members]

    def _window(self, source: int, length: int, count: int) -> list[int]:
        """The epoch's part of the source's endless sequence of shuffled rounds."""
        first = self.epoch * count
        rounds = range(first // length, (first + count - 1) // length + 1) if count else range(0)
        sequence = [np.random.default_rng((self.seed, source, turn)).permutation(length) for turn in rounds]
        if not sequence:
            return []
        skipped = first - rounds[0] * length
        return np.concatenate(sequence)[skipped : skipped + count].tolist()
