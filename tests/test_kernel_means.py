"""Kernels of the convolutional branch begin with a mean of zero, and training keeps whatever mean they have."""

import torch
from conftest import tiny_config

from sfrecsam_hf import SFRecSamModel, TrainingConfig, train
from sfrecsam_hf.modeling.layers import ReluConv2d


def means(model: SFRecSamModel) -> dict[str, torch.Tensor]:
    return {name: layer.kernel_means() for name, layer in model.named_modules() if isinstance(layer, ReluConv2d)}


def test_kernels_begin_with_a_mean_of_zero():
    found = means(SFRecSamModel(tiny_config()))
    assert len(found) > 10
    for name, mean in found.items():
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-6, msg=name)


def test_loading_keeps_the_means_of_a_checkpoint(tiny_checkpoint, model):
    loaded = means(SFRecSamModel.from_pretrained(tiny_checkpoint))
    for name, mean in means(model).items():
        assert mean.abs().max() > 1e-3
        torch.testing.assert_close(loaded[name], mean, rtol=0, atol=0, msg=name)


def test_training_keeps_the_means_of_a_checkpoint(busi_folder, tiny_checkpoint, tmp_path):
    config = TrainingConfig(
        train=[str(busi_folder)],
        validation=[str(busi_folder)],
        output=str(tmp_path / "run"),
        model=str(tiny_checkpoint),
        epochs=1,
        correction_epochs=0,
        batch_size=4,
        learning_rate=1e-2,
        ema_decay=0.0,
        tracker=None,
        overlays=0,
    )
    best = train(config)
    before, after = SFRecSamModel.from_pretrained(tiny_checkpoint), SFRecSamModel.from_pretrained(best)
    trained = dict(after.named_modules())
    for name, mean in means(before).items():
        torch.testing.assert_close(trained[name].kernel_means(), mean, rtol=0, atol=1e-5, msg=name)
        assert (trained[name].weight - before.get_submodule(name).weight).abs().max() > 1e-3, name
