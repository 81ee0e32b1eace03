"""Settings of a training run: one dataclass, read from YAML, overridden by flags, saved with the run."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

# May change while a run goes on. Data may have moved: that the images are the same is told by their pixels.
FREE_ON_RESUME = ("train", "validation", "splits", "exclude", "output", "save_steps", "workers", "tracker", "overlays")


@dataclass
class TrainingConfig:
    """
    Settings of one run; each field explains itself, as does `sfrecsam train --help`. Paths are as the shell sees them.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    train: list[str] = field(
        default_factory=list, metadata={"help": "Data folders or zips to train on. Of each, the split train is used."}
    )
    validation: list[str] = field(
        default_factory=list,
        metadata={"help": "Data folders or zips to choose the best checkpoint on. Without any, the last is kept."},
    )
    output: str = field(default="runs/sf-recsam", metadata={"help": "Folder of the run."})
    splits: str | None = field(
        default=None,
        metadata={"help": "CSV with the columns image, group and split. Without it the data's own split is used."},
    )
    exclude: str | None = field(
        default=None, metadata={"help": "CSV of images to leave out, such as the objections.csv of BUSI."}
    )
    shares: list[float] | None = field(
        default=None,
        metadata={"help": "Share of each folder that one epoch shows. Without it an epoch shows all."},
    )
    model: str = field(
        default="tiny", metadata={"help": "tiny, base, or a checkpoint to start from: a folder or a name on the Hub."}
    )
    target: str | None = field(
        default=None,
        metadata={"help": "What the masks outline, such as lesion or fetal head. Without it, what the model says."},
    )
    modality: str | None = field(
        default=None,
        metadata={"help": "What the images are, such as breast ultrasound. Without it, what the model says."},
    )
    sam: str | None = field(
        default=None,
        metadata={"help": "Segment Anything to extend: a folder, a name on the Hub, or a .pth file."},
    )
    branch: str = field(
        default="imagenet",
        metadata={"help": "What the branch of a new model starts from: imagenet, random, or a checkpoint of ours."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the input in pixels. Without it, that of the model."}
    )
    answer_size: int | None = field(
        default=None, metadata={"help": "Side of the input that the trained model gets. Without it, that of training."}
    )
    overrides: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of SFRecSamConfig to change, for the models tiny and base."}
    )
    freeze_base: bool = field(
        default=False, metadata={"help": "Leave the original SAM weights as they are. For use with sam."}
    )
    epochs: int = field(
        default=40,
        metadata={"help": "Epochs of stage 1, the base segmentation. 0 keeps that of the checkpoint in model."},
    )
    fold_epochs: int | None = field(
        default=None, metadata={"help": "Epochs of stage 1 in each fold of --folds. Without it, as many as epochs."}
    )
    correction_epochs: int = field(
        default=6, metadata={"help": "Epochs of stage 2, the correctors and the uncertainty head."}
    )
    prompt_epochs: int = field(
        default=0, metadata={"help": "With --folds: epochs in which only the use of clicks and boxes is trained."}
    )
    batch_size: int = field(default=16, metadata={"help": "Images for each process and step."})
    accumulation: int = field(default=1, metadata={"help": "Batches for each optimizer step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate of stage 1."})
    branch_learning_rate: float = field(
        default=4e-4, metadata={"help": "Highest learning rate of the pretrained convolutions."}
    )
    correction_learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate of stage 2."})
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay of AdamW, on matrices and kernels only."}
    )
    warmup: float = field(default=0.05, metadata={"help": "Share of the steps in which the learning rate rises."})
    clip: float = field(default=1.0, metadata={"help": "Largest gradient norm."})
    ema_decay: float = field(
        default=0.998,
        metadata={"help": "Decay of the moving average that is validated and saved. 0 averages nothing."},
    )
    augmentation: float = field(
        default=1.0, metadata={"help": "Strength of the augmentation. 0 leaves the images as they are."}
    )
    marks: float = field(
        default=0.5,
        metadata={"help": "Share of the lesion images on which calipers are drawn; more of the normal ones."},
    )
    click_share: float = field(
        default=0.2,
        metadata={
            "help": (
                "Share of the lesion images that are given clicks. Above 0, the best checkpoint of stage "
                "1 is the best on average of clicked and automatic masks."
            )
        },
    )
    box_share: float = field(default=0.1, metadata={"help": "Share of the lesion images that are given a loose box."})
    mc_samples: int | None = field(default=4, metadata={"help": "Stochastic passes in stage 2."})
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16."})
    patience: int = field(
        default=0, metadata={"help": "Epochs without a better Dice after which a stage ends. 0 never ends it early."}
    )
    save_steps: int = field(
        default=0,
        metadata={"help": "Optimizer steps between two states to resume from. 0 saves one after each epoch."},
    )
    workers: int = field(default=0, metadata={"help": "Processes that augment."})
    tracker: str | None = field(
        default="tensorboard", metadata={"help": "tensorboard, or another tracker that Accelerate knows."}
    )
    overlays: int = field(default=8, metadata={"help": "Validation images that are drawn after each epoch."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, order, augmentation, prompts and sampling."})

    def __post_init__(self):
        for known in fields(self):
            self._check_kind(known.name, known.type)
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
            "prompt_epochs",
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
        numbers = getattr(self, name) if list[float] in members else [getattr(self, name)]
        if not all(math.isfinite(number) for number in numbers or [] if isinstance(number, float)):
            raise ValueError(f"{name}={value} must be finite.")

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
                settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            except (yaml.YAMLError, UnicodeDecodeError) as error:
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
            f"{known.name}: {getattr(begun, known.name)} -> {getattr(self, known.name)}"
            for known in fields(self)
            if known.name not in FREE_ON_RESUME and getattr(begun, known.name) != getattr(self, known.name)
        ]

    def to_yaml(self, path: Path) -> None:
        """Writes every setting."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))
