"""What the tests share: a model small enough to run in milliseconds, and a data folder in BUSI's layout."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hub_server import LOOPBACK, Hub
from huggingface_hub import constants
from transformers import SamConfig, SamModel

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, SFRecSamModel, SFRecSamProcessor, TrainingConfig
from sfrecsam_hf.cli import main
from sfrecsam_hf.modeling.false_corrector import INITIAL_BIAS
from sfrecsam_hf.training.summary import write_summary

IMAGE_SIZE = 64
SEED = 9  # of weights with which the masks of the sample scans are part lesion, part not
STEADY_SEED = 7  # of weights that magnify rounding least: in bfloat16 98 % of the pixels stay what they were
# Files of tests that start browsers, servers or other processes, or that train, export or compile for long.
SLOW = {
    "test_compile.py",
    "test_export.py",
    "test_hub_auto_classes.py",
    "test_hub_quick_start.py",
    "test_hub_remote_code.py",
    "test_launch.py",
    "test_pipeline_torchvision.py",
    "test_space_browser.py",
    "test_space_deploy.py",
    "test_training_equivalence.py",
    "test_wheel.py",
}
SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"
TINY_PARTS = {
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2.0,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "output_channels": 32,
        "num_pos_feats": 16,
        "adapter_dim": 8,
    },
    "prompt_encoder_config": {"hidden_size": 32},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
    "branch_width": 0.25,
    "decoder_channels": [8, 8, 8, 16, 16],
    "corrector_channels": 8,
    "mc_samples": 2,
}
WITHOUT_DROPOUT = {
    **TINY_PARTS,
    "vision_config": {**TINY_PARTS["vision_config"], "encoder_dropout": 0.0},
    "sample_dropout": 0.0,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of slow files; single ones carry the mark themselves."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


def tiny_config(**overrides) -> SFRecSamConfig:
    return SFRecSamConfig(**{**TINY_PARTS, **overrides})


def randomised(model: torch.nn.Module, seed: int = SEED) -> torch.nn.Module:
    """
    Every weight drawn anew by its name, at a lively scale, so that no path is silent because it starts at zero.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
    return model.eval()


def tiny_model(seed: int = SEED, **overrides) -> SFRecSamModel:
    """A model in which everything happens: lesions, masks with both classes, corrections in both directions."""
    model = randomised(SFRecSamModel(tiny_config(**overrides)), seed)
    with torch.no_grad():
        model.coarse_mask_head.presence[-1].bias.fill_(1.0)
        for half in (model.corrector.false_positive, model.corrector.false_negative):
            if half is not None:
                half.leave.bias.fill_(-INITIAL_BIAS)
    return model


def tiny_sam(window_size: int = 4, patch_size: int = 8) -> SamModel:
    """A plain `SamModel` of the same geometry."""
    vision = {**TINY_PARTS["vision_config"], "window_size": window_size, "patch_size": patch_size}
    vision.pop("adapter_dim")
    prompt = {**TINY_PARTS["prompt_encoder_config"], "image_size": IMAGE_SIZE, "patch_size": vision["patch_size"]}
    decoder = TINY_PARTS["mask_decoder_config"]
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return randomised(SamModel(config), STEADY_SEED)


@pytest.fixture
def model() -> SFRecSamModel:
    return tiny_model()


@pytest.fixture(scope="session")
def processor() -> SFRecSamProcessor:
    return SFRecSamProcessor(SFRecSamImageProcessor(image_size=IMAGE_SIZE))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def scan(height: int, width: int, seed: int, lesion: bool = True) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Speckle with a dark ellipse, and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    y, x = rng.uniform(0.35, 0.65, 2) * (height, width)
    mask = ((rows - y) / (0.2 * height)) ** 2 + ((columns - x) / (0.25 * width)) ** 2 < 1
    mask &= lesion
    coarse = rng.normal(130, 45, (-(-height // 8), -(-width // 8)))
    texture = np.kron(coarse, np.ones((8, 8)))[:height, :width]
    gray = np.where(mask, 25, texture) * rng.gamma(8, 1 / 8, (height, width))
    return PIL.Image.fromarray(gray.clip(0, 255).astype(np.uint8)), PIL.Image.fromarray(mask.astype(np.uint8) * 255)


def short_run(folder: Path, output: Path, **changes) -> TrainingConfig:
    """Settings of a run on one folder that takes seconds."""
    chosen = {
        "train": [str(folder)],
        "validation": [str(folder)],
        "output": str(output),
        "overrides": TINY_PARTS,
        "branch": "random",
        "epochs": 2,
        "correction_epochs": 1,
        "batch_size": 4,
        "mc_samples": 2,
        "tracker": None,
        "overlays": 0,
    }
    return TrainingConfig(**{**chosen, **changes})


@pytest.fixture
def one_thread():
    """As processes that a test starts with OMP_NUM_THREADS=1: sums split over other threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def busi_folder(tmp_path_factory):
    """BUSI's layout: 10 benign, 6 malignant, 4 normal; benign (2) has two masks, benign (3) shows (1) again."""
    root = tmp_path_factory.mktemp("Dataset_BUSI_with_GT")
    seed = 0
    for label, count in (("benign", 10), ("malignant", 6), ("normal", 4)):
        (root / label).mkdir()
        for number in range(1, count + 1):
            seed += 1
            image, mask = scan(60 + 5 * number, 90 - 3 * number, seed, lesion=label != "normal")
            stem = root / label / f"{label} ({number})"
            image.save(f"{stem}.png")
            mask.save(f"{stem}_mask.png")
    first = PIL.Image.open(root / "benign" / "benign (1).png")
    brighter = PIL.Image.fromarray((np.asarray(first) * 1.15).clip(0, 255).astype(np.uint8))
    brighter.resize((first.width * 2, first.height * 2)).save(root / "benign" / "benign (3).png")
    mask = PIL.Image.open(root / "benign" / "benign (1)_mask.png")
    mask.resize((first.width * 2, first.height * 2)).save(root / "benign" / "benign (3)_mask.png")
    image = PIL.Image.open(root / "benign" / "benign (2).png")
    corner = np.zeros((image.height, image.width), np.uint8)
    corner[:5, :7] = 255
    PIL.Image.fromarray(corner).save(root / "benign" / "benign (2)_mask_1.png")
    return root


@pytest.fixture(scope="session")
def evaluated_run(tiny_checkpoint, busi_folder, tmp_path_factory):
    """A run as `sfrecsam train` leaves it, evaluated on two data sets; nobody may write into it."""
    run = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(tiny_checkpoint, run / "best")
    history = [{"stage": 1, "epoch": 3, "step": 123}, {"stage": 2, "epoch": 2, "step": 45}]
    config = TrainingConfig(train=[str(busi_folder)], validation=[str(busi_folder)], learning_rate=0.0037)
    groups = [f"group {index // 2}" for index in range(20)]
    cost = {"seconds": 7654.0, "processes": 2, "image_size": IMAGE_SIZE, "parameters": tiny_model().num_parameters()}
    write_summary(run / "best", config, history, [groups[:13]], [groups[14:]], torch.device("cpu"), **cost)
    for data, output in ((busi_folder, "evaluation"), (SAMPLES, "evaluation/samples")):
        options = ["--model", str(run / "best"), "--output", str(run / output), "--samples", "1", "--device", "cpu"]
        assert main(["evaluate", "--data", str(data), *options]) == 0
    return run


@pytest.fixture(scope="session")
def hub() -> Hub:
    """A running Hub that this process and its children push to and pull from."""
    LOOPBACK.start()
    assert LOOPBACK.endpoint == constants.ENDPOINT, "huggingface_hub was imported before tests/hub_server.py"
    yield LOOPBACK
    LOOPBACK.stop()


@pytest.fixture(scope="session")
def space_page(tiny_checkpoint):
    """The Space, served as it is for visitors, with the tiny model."""
    from app import SERVED, space

    with space(str(tiny_checkpoint)) as page:
        page.launch(prevent_thread_lock=True, quiet=True, **SERVED)
        yield page
        page.close()
