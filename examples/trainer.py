"""Fine-tunes a checkpoint with `transformers.Trainer`, whole or by LoRA, on a folder of images and masks.

    python examples/trainer.py --data my_scans --output runs/trainer
    python examples/trainer.py --data my_scans --output runs/lora --lora

`sfrecsam train` does more: two stages, augmentation, prompts and calibration. This is for those whose own code uses
Trainer. The result is a checkpoint folder for `--model` and `from_pretrained`.
"""

import argparse
from pathlib import Path

import numpy as np
from transformers import EvalPrediction, Trainer, TrainingArguments

from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.inference.bundled import bundled_checkpoint

# Queries and values of the image encoder and of SAM's decoder.
ADAPTED = r"vision_encoder\..*\.qkv|mask_decoder\..*\.(q_proj|v_proj)"


def dice(prediction: EvalPrediction) -> dict[str, float]:
    """Mean Dice of the scans with a lesion, at the resolution of the masks."""
    logits, labels = prediction.predictions[:, 0, 0], prediction.label_ids
    step = labels.shape[-1] // logits.shape[-1]
    found, true = logits > 0, labels[:, ::step, ::step] > 0
    overlap = 2 * (found & true).sum((1, 2)) / np.maximum(found.sum((1, 2)) + true.sum((1, 2)), 1)
    return {"dice": float(overlap[true.any((1, 2))].mean())}


def main() -> None:
    """Trains the base on the folder's own split, or one made of it, and prints loss and Dice of the held-out part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with images and masks")
    parser.add_argument("--output", required=True, help="folder of the run; the checkpoint is in its folder best")
    parser.add_argument("--model", default=str(bundled_checkpoint()), help="checkpoint to start from")
    parser.add_argument("--epochs", type=int, default=10, help="epochs (%(default)s)")
    parser.add_argument("--lora", action="store_true", help="train LoRA adapters only; needs peft")
    options = parser.parse_args()

    model, processor = (kind.from_pretrained(options.model) for kind in (SFRecSamModel, SFRecSamProcessor))
    model.train_stage(1)
    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(target_modules=ADAPTED, r=8, lora_alpha=16))

    def prepared(rows: dict) -> dict:
        return dict(processor(rows["image"], segmentation_maps=rows["mask"]))

    settings = TrainingArguments(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=4,
        learning_rate=2e-4,
        lr_scheduler_type="cosine",
        eval_strategy="epoch",
        remove_unused_columns=False,  # or image and mask were gone before `prepared` sees them
        label_names=["labels"],
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=load_split(options.data, "train").with_transform(prepared),
        eval_dataset=load_split(options.data, "val").with_transform(prepared),
        compute_metrics=dice,
    )
    trainer.train()
    print(trainer.evaluate())
    best = model.merge_and_unload() if options.lora else model
    best.save_pretrained(Path(options.output) / "best")
    processor.save_pretrained(Path(options.output) / "best")


if __name__ == "__main__":
    main()
