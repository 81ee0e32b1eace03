"""Settings of a training run: one dataclass, read from YAML, overridden by flags, saved with the run."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

# May change while a run goes on. Data may have moved: that the images are the same is told by their pixels.
FREE_ON_RESUME = ("train", "validation", "splits", "exclude", "output", "save_steps", "workers", "tracker", "overlays")


@dataclass
class TrainingConfig:
    r"""
    Settings of one run. Paths are as the caller's shell sees them.

    Args:
        train (`list[str]`): Data folders or zips to train on; their split `train`.
        validation (`list[str]`): Data folders or zips to choose the best checkpoint on; their splits `val` together.
            Without any, nothing is chosen and the last weights are kept.
        output (`str`): Folder of the run.
        splits (`str`, *optional*): CSV with `image,group,split`; without it the data's own split, or one by group.
        exclude (`str`, *optional*): CSV of images to leave out, such as BUSI's `objections.csv`.
        shares (`list[float]`, *optional*): Share of each folder that one epoch shows; all of each if not given.
        model (`str`): `"tiny"`, `"base"`, or a checkpoint to go on from.
        sam (`str`, *optional*): A SAM checkpoint (transformers folder, Hub name, or original `.pth`) to extend.
        branch (`str`): What the branch of a new model starts from: `"imagenet"`, `"random"`, or a checkpoint of ours.
        image_size (`int`, *optional*): Side of the input in pixels; the model's own if not given.
        answer_size (`int`, *optional*): Side of the input that the trained model gets; that of training if not given.
        overrides (`dict`): Fields of [`SFRecSamConfig`] to change for `"tiny"` and `"base"`.
        freeze_base (`bool`): Leave the original SAM weights as they are (with `sam`).
        epochs (`int`): Epochs of stage 1, the base segmentation; 0 keeps that of a checkpoint in `model`.
        fold_epochs (`int`, *optional*): Epochs of stage 1 in each fold; `epochs` if not given.
        correction_epochs (`int`): Epochs of stage 2, the corrector and the uncertainty head.
        batch_size (`int`): Images per process and step.
        accumulation (`int`): Batches per optimizer step.
        learning_rate (`float`): Peak of the cosine schedule.
        branch_learning_rate (`float`): The same for the pretrained convolutions of the branch.
        correction_learning_rate (`float`): The same for stage 2.
        weight_decay (`float`): AdamW's, on matrices and kernels only.
        warmup (`float`): Share of the steps that warm up.
        clip (`float`): Largest gradient norm.
        ema_decay (`float`): Of the exponential moving average that is validated and saved; 0 for none.
        augmentation (`float`): 0 for none, 1 for the recipe's.
        marks (`float`): Share of lesion images on which calipers are drawn; more of the normal ones.
        click_share (`float`): Share of lesion images that are given clicks in place of automatic prompts. Above 0, the
            best checkpoint of stage 1 is the best on average of both.
        box_share (`float`): Share of lesion images that are given a loose box.
        mc_samples (`int`, *optional*): Samples in stage 2; the configuration's if not given.
        mixed_precision (`str`): `"no"`, `"bf16"` or `"fp16"`.
        patience (`int`): Validations without a better Dice after which a stage ends; 0 never ends early.
        save_steps (`int`): Optimizer steps between two states to resume from; 0 for once an epoch.
        workers (`int`): Processes that augment.
        tracker (`str`, *optional*): `"tensorboard"`, or any other tracker that Accelerate knows and that is installed.
        overlays (`int`): Validation images drawn after each validation.
        seed (`int`): Of weights, order, augmentation, prompts and sampling.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    output: str = "runs/sf-recsam"
    splits: str | None = None
    exclude: str | None = None
    shares: list[float] | None = None
    model: str = "tiny"
    sam: str | None = None
    branch: str = "imagenet"
    image_size: int | None = None
    answer_size: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    freeze_base: bool = False
    epochs: int = 40
    fold_epochs: int | None = None
    correction_epochs: int = 6
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 1e-3
    branch_learning_rate: float = 4e-4
    correction_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.998
    augmentation: float = 1.0
    marks: float = 0.5
    click_share: float = 0.2
    box_share: float = 0.1
    mc_samples: int | None = 4
    mixed_precision: str = "no"
    patience: int = 0
    save_steps: int = 0
    workers: int = 0
    tracker: str | None = "tensorboard"
    overlays: int = 8
    seed: int = 0

    def __post_init__(self):
        for setting in fields(self):
            self._check_kind(setting.name, setting.type)
        if not self.train:
            raise ValueError("train must name a data folder or zip.")
        self.shares = [1.0] * len(self.train) if self.shares is None else self.shares
        if len(self.shares) != len(self.train):
            raise ValueError(f"shares has {len(self.shares)} entries for {len(self.train)} folders in train.")
        for name in ("batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more.")
        counts = (
            "epochs",
            "fold_epochs",
            "correction_epochs",
            "mc_samples",
            "patience",
            "save_steps",
            "workers",
            "overlays",
            "seed",
        )
        for name in (*counts, "weight_decay", "augmentation"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more.")
        for name in ("warmup", "ema_decay", "marks", "click_share", "box_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")
        for name in ("learning_rate", "branch_learning_rate", "correction_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        if self.click_share + self.box_share > 1:
            raise ValueError(
                f"click_share={self.click_share} and box_share={self.box_share} must not exceed 1 together."
            )
        if min(self.shares) < 0:
            raise ValueError(f"shares={self.shares} must be 0 or more.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision={self.mixed_precision!r} must be no, bf16 or fp16.")

    def _check_kind(self, name: str, declared: Any) -> None:
        """Refuses a value of another type than declared; a float may be text, as which YAML reads 1e-3."""
        value = getattr(self, name)
        members = get_args(declared) if isinstance(declared, UnionType) else (declared,)
        kinds = [get_origin(member) or member for member in members]
        try:
            if float in kinds and not isinstance(value, bool):
                setattr(self, name, float(value))
            elif list[float] in members and value is not None:
                setattr(self, name, [float(share) for share in value])
            elif type(value) not in kinds:
                raise TypeError
        except (TypeError, ValueError) as error:
            wanted = " or ".join("nothing" if kind.__name__ == "NoneType" else kind.__name__ for kind in kinds)
            raise ValueError(f"{name}={value!r} must be of type {wanted}.") from error

    @classmethod
    def from_yaml(cls, path: str | Path | None, **overrides: Any) -> "TrainingConfig":
        """
        Reads a YAML file, which may be left out, with `overrides` on top.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no YAML or no mapping, or a setting is unknown or out of range.
        """
        settings: Any = {}
        if path is not None:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path} does not exist; give the YAML file of a training run.")
            try:
                settings = yaml.safe_load(Path(path).read_text()) or {}
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must be a mapping of settings to values.")
        if unknown := set(settings) - {known.name for known in fields(cls)}:
            raise ValueError(f"{path} has unknown settings {sorted(unknown)}; see `sfrecsam train --help`.")
        return cls(**{**settings, **overrides})

    def changed_since(self, path: Path) -> list[str]:
        """
        What decides the result and differs from the settings in a run's `training.yaml`, each as `name: old -> new`.

        Raises:
            ValueError: The file is damaged.
        """
        begun = type(self).from_yaml(path)
        return [
            f"{setting.name}: {getattr(begun, setting.name)} -> {getattr(self, setting.name)}"
            for setting in fields(self)
            if setting.name not in FREE_ON_RESUME and getattr(begun, setting.name) != getattr(self, setting.name)
        ]

    def to_yaml(self, path: Path) -> None:
        """Writes every setting."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))
