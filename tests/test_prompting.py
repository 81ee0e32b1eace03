"""Training the use of clicks changes what a click does, and no mask that the model prompts itself."""

import torch
from conftest import tiny_model

from sfrecsam_hf import TrainingConfig
from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.training.prompting import train_prompts


@torch.no_grad()
def test_only_prompted_masks_change(busi_folder, pixels):
    model = tiny_model()
    click = {"input_points": torch.full((2, 1, 1, 2), 30.0), "input_labels": torch.ones(2, 1, 1, dtype=torch.int)}
    before = model(pixels), model(pixels, **click)
    config = TrainingConfig(train=[str(busi_folder)], prompt_epochs=1, batch_size=4)
    with torch.enable_grad():
        train_prompts(model, [load_folder(busi_folder)], config)
    after = model(pixels), model(pixels, **click)
    assert torch.equal(before[0].pred_masks, after[0].pred_masks)
    assert torch.equal(before[0].presence_logits, after[0].presence_logits)
    assert not torch.allclose(before[1].pred_masks, after[1].pred_masks)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
