"""
The way of clicks and boxes to the mask, trained alone: the rest of the model, and so every automatic mask, stays.

A base that trains on clicks beside automatic prompts has learned to find lesions long before it listens to a click.
"""

import numpy as np
import torch
from datasets import Dataset
from transformers import get_scheduler

from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.modeling_sfrecsam import SFRecSamModel
from .config import TrainingConfig
from .dataset import EpochBatches, TrainingImages

CLICKS, BOXES = 0.8, 0.2
PROMPTS = 2  # to each image: encoding it costs more than answering them


def train_prompts(model: SFRecSamModel, sources: list[Dataset], config: TrainingConfig) -> None:
    """
    Trains the prompt fusion of a model, with a click or a box on every lesion.

    Args:
        model ([`SFRecSamModel`]): Trained in place, at its own input size.
        sources (`list[datasets.Dataset]`): Training images; normal scans are passed over.
        config ([`TrainingConfig`]): Its `prompt_epochs`, `shares`, rate, batch size and augmentation are used.
    """
    torch.manual_seed(config.seed)
    lesions = [
        source.select([index for index, mask in enumerate(source["mask"]) if np.any(mask)]) for source in sources
    ]
    processor = SFRecSamImageProcessorPil(image_size=model.config.vision_config.image_size)
    images = TrainingImages(
        lesions, processor, config.seed, config.augmentation, CLICKS, BOXES, config.marks, False, PROMPTS
    )
    lengths = [len(source) for source in lesions]
    batches = EpochBatches(lengths, config.shares, config.batch_size, 1, config.seed)
    steps = config.prompt_epochs * batches.batches
    trained = list(model.prompt_fusion.parameters())
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    scheduler = get_scheduler("cosine", optimizer, round(config.warmup * steps), steps)
    model.requires_grad_(False)
    model.prompt_fusion.requires_grad_(True)
    model.training_stage = 1
    model.train()
    for epoch in range(config.prompt_epochs):
        batches.epoch, total = epoch, 0.0
        for keys in batches:
            loss = model(**images.__getitems__(keys)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            total += float(loss.detach())
        print(f"prompts, epoch {epoch + 1}: loss {total / batches.batches:.3f}", flush=True)
    model.training_stage = None
    model.requires_grad_(True)
    model.eval()
