"""Two-stage training with Accelerate (paper section 3.4): first the base, then the corrector on top of it."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, set_seed
from datasets import Dataset
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler

from ..data.splits import Resolved, resolve
from ..inference.inputs import signed
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .calibration import calibrate, calibrate_correction
from .checkpointing import Checkpoints, Progress, digest, replaced, saved_progress, saved_state, size_of
from .config import TrainingConfig
from .dataset import EpochBatches, TrainingImages
from .history import History
from .optimizer import averaged, decayed_adamw
from .starting_model import build_model, unsharded
from .summary import write_summary
from .validation import Validation, scores

WITHOUT_OVERLAP = 3  # epochs after which a run says that its masks meet no lesion

# SAM shares one tensor between two modules, which is told anew at each save.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def train(config: TrainingConfig, resume: bool = False, data: Resolved | None = None) -> Path:
    """
    Trains both stages and returns the folder of the best checkpoint, which loads with `from_pretrained`.

    Args:
        config ([`TrainingConfig`]): All settings; saved with the run.
        resume (`bool`): Go on from the run's last state, sample for sample.
        data ([`Resolved`], *optional*): The images of each folder in `config.train`, in place of its own split.

    Raises:
        FileExistsError: The output folder holds a run and `resume` is False.
        FileNotFoundError: There is nothing to resume.
        FloatingPointError: The loss is not finite.
        OSError: The output folder cannot be written; the last state in it is whole.
        ValueError: The data or the state cannot be used, or the run was begun with other settings.
    """
    best = Path(config.output) / "best"
    if resume and config.answer_size and size_of(best) == config.answer_size != config.image_size:
        return best  # the last thing that a run does is to give its model this size
    try:
        run = TrainingRun(config, resume, data)
        while run.progress.stage <= 2:
            run.train_stage()
        run.close()
        if config.answer_size is not None:
            run.checkpoints.save_at(config.answer_size)
    except KeyboardInterrupt as stop:
        saved = (Path(config.output) / "latest").is_file()
        remedy = "the same command with --resume goes on" if saved else "nothing was saved yet, so begin it anew"
        raise KeyboardInterrupt(remedy) from stop
    return best


@dataclass
class Stage:
    """What a stage trains with, as Accelerate prepared it, and the steps over which the learning rate rises."""

    model: torch.nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    loader: DataLoader
    warmup: int


class TrainingRun:
    """One run in one folder; a process may end at any moment and another go on from there."""

    def __init__(self, config: TrainingConfig, resume: bool = False, data: Resolved | None = None):
        self.config, self.output = config, Path(config.output)
        if not resume and (self.output / "latest").is_file():
            raise FileExistsError(f"{self.output} already holds a run; pass --resume or choose another --output.")
        self.resumed = saved_state(self.output) if resume else None
        if resume and (changed := config.changed_since(self.output / "training.yaml")):
            raise ValueError(
                f"{self.output} was begun with other settings ({', '.join(changed)}); resume with the same, or choose "
                "another --output."
            )
        set_seed(config.seed)
        if data is None:
            start = None if config.sam else config.model
            data = resolve(config.train, config.validation, config.splits, config.exclude, start)
        sources, self.used = data.train, _used(config, data)
        self.groups = [source["group"][:] for source in sources]
        self.validation = Validation(data.validation, config) if data.validation else None
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several processes would not find each other
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.accumulation,
            log_with=config.tracker,
            project_dir=str(self.output),
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if config.tracker is not None and not self.accelerator.log_with:
            raise ValueError(f"tracker={config.tracker} is not installed; install it, or set another, or none.")
        processes = self.accelerator.num_processes
        self.progress = Progress() if self.resumed is None else saved_progress(self.resumed, processes)
        self.checkpoints = Checkpoints(self.output, self.accelerator, data.record)
        self.history = History(self.output / "history.jsonl")
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if sharded and (config.ema_decay or not self.accelerator.is_fsdp2):
            raise ValueError(
                "With FSDP no process holds the whole model to average: set ema_decay to 0 and fsdp_version to 2, as "
                "in examples/accelerate/fsdp.yaml."
            )
        layout = torch.contiguous_format if sharded else torch.channels_last  # FSDP cuts contiguous weights only
        model = build_model(config) if self.resumed is None else _unfilled(self.resumed)
        self.model = model.to(self.accelerator.device, memory_format=layout)
        image_processor = SFRecSamImageProcessorPil(image_size=self.model.config.vision_config.image_size)
        self.processor = SFRecSamProcessor(image_processor)
        main = self.accelerator.is_main_process
        self.images = TrainingImages(
            sources,
            image_processor,
            config.seed,
            config.augmentation,
            config.click_share,
            config.box_share,
            config.marks,
            quiet=not main,
        )
        self.batches = EpochBatches(
            [len(source) for source in sources],
            config.shares,
            config.batch_size,
            config.accumulation * processes,
            config.seed,
        )
        shown = digest(*self.images.arrays(), *([] if self.validation is None else self.validation.arrays()))
        if self.resumed is not None and shown != self.progress.shown:
            raise ValueError(
                f"The images are not those that {self.output} was begun with; restore them, or choose another "
                "--output."
            )
        self.progress.shown = shown
        if main:
            _made(self.output)
            with replaced(self.output / "training.yaml") as fresh:
                config.to_yaml(fresh)
            self.history.cut(self.progress)
        if config.tracker is not None:
            flat = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float, str))}
            self.accelerator.init_trackers("logs", config=flat)

    def train_stage(self) -> None:
        """One stage from its start, or from the state to resume, to its end; leaves its best model in `best/`."""
        progress, accelerator = self.progress, self.accelerator
        epochs = self.config.epochs if progress.stage == 1 else self.config.correction_epochs
        if progress.stage == 2 and self.resumed is None:
            self._start_from_best()
        if epochs == 0:
            self.checkpoints.save_best(self.model, self.processor)
            progress.stage += 1
            return
        stage = self._prepared(epochs)
        if self.resumed is not None:
            self.checkpoints.load(self.resumed, progress, stage.average)
            self.resumed = None
        else:
            self._save_state(stage.average)
        if progress.stage == 2 and progress.step == 0:  # only now: a state holds what stage 2 starts from
            self.checkpoints.save_best(self._whole_model(), self.processor)

        while progress.epoch < epochs and not self._out_of_patience():
            self._train_epoch(stage)
            averaged_yet = stage.average is not None and progress.averaged
            self._validate(stage.average.module if averaged_yet else self._whole_model())
            progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
            self._save_state(stage.average)
            self._summarise()
        self.model = accelerator.unwrap_model(stage.model, keep_fp32_wrapper=False)
        self.model = self._whole_model()
        accelerator.free_memory()
        if progress.stage == 2 and self.validation is not None:
            self._calibrate_correction()
        self.progress = Progress(stage=progress.stage + 1, seconds=progress.seconds, shown=progress.shown)

    def _prepared(self, epochs: int) -> Stage:
        """Chooses what trains in this stage, and how."""
        config, progress, accelerator = self.config, self.progress, self.accelerator
        trainable = self.model.train_stage(progress.stage, config.freeze_base)
        steps_per_epoch = self.batches.batches // (config.accumulation * accelerator.num_processes)
        rate = config.learning_rate if progress.stage == 1 else config.correction_learning_rate
        optimizer = decayed_adamw(self.model, rate, config.weight_decay, config.branch_learning_rate)
        warmup = round(config.warmup * epochs * steps_per_epoch)
        scheduler = get_scheduler("cosine", optimizer, warmup, epochs * steps_per_epoch)
        loader = DataLoader(
            self.images,
            batch_sampler=self.batches,
            collate_fn=_as_it_is,
            num_workers=config.workers,
            generator=torch.Generator(),  # or every new iterator would draw from, and so shift, dropout's generator
        )
        average = averaged(self.model, config.ema_decay)
        wrapped, optimizer, scheduler, loader = accelerator.prepare(self.model, optimizer, scheduler, loader)
        if accelerator.is_fsdp2:  # other prompts use other weights, and every process must send the same gradients
            wrapped.set_reduce_scatter_unused_params(True)
        self._header(trainable, epochs, steps_per_epoch)
        return Stage(wrapped, average, optimizer, scheduler, loader, warmup)

    def _train_epoch(self, stage: Stage) -> None:
        """The epoch's batches, or what is left of them, and a row of their means in the history."""
        progress, accelerator, save_steps = self.progress, self.accelerator, self.config.save_steps
        self.batches.epoch = progress.epoch + (progress.stage - 1) * self.config.epochs
        self.batches.start = progress.batch
        stage.model.train(progress.stage == 1)
        name = f"stage {progress.stage} epoch {progress.epoch + 1}"
        bar = tqdm(stage.loader, desc=name, disable=not accelerator.is_main_process)
        clock = time.perf_counter()
        for batch in bar:
            progress.add(**{"time/data": time.perf_counter() - clock})
            self._train_batch(stage, batch)
            progress.seconds += time.perf_counter() - clock
            means = self._means()
            spent = {part: f"{means[f'time/{part}']:.2f}s" for part in ("data", "forward", "backward")}
            bar.set_postfix(
                loss=f"{means['train/loss']:.3f}", **spent, images=f"{means['time/images_per_second']:.1f}/s"
            )
            due = save_steps and accelerator.sync_gradients and progress.step % save_steps == 0
            if due and progress.batch < self.batches.batches:  # the end of the epoch is saved after its validation
                self._save_state(stage.average)
            clock = time.perf_counter()
        rate = {"train/learning_rate": stage.scheduler.get_last_lr()[0], "time/total": progress.seconds}
        self._log(self._means() | rate)

    def _train_batch(self, stage: Stage, batch: dict[str, torch.Tensor]) -> None:
        progress, accelerator, start = self.progress, self.accelerator, time.perf_counter()
        with accelerator.accumulate(stage.model):
            outputs = stage.model(**batch, **self._stage_options())
            # On a GPU calls return early, and the forward pass is counted where it is waited for: as backward.
            progress.add(**{"time/forward": time.perf_counter() - start})
            start = time.perf_counter()
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
            stage.optimizer.step()
            stage.optimizer.zero_grad()
        progress.batch += accelerator.num_processes
        if accelerator.sync_gradients:
            stage.scheduler.step()
            progress.step += 1
            if stage.average is not None and progress.step > stage.warmup:
                stage.average.update_parameters(self.model)
                progress.averaged += 1
        terms = {name: float(term.detach()) for name, term in outputs.loss_terms.items()}
        if not all(math.isfinite(term) for term in terms.values()):
            kept = f" The best model so far is in {self.checkpoints.best}." if self.checkpoints.best.exists() else ""
            raise FloatingPointError(
                f"A loss term is not finite at step {progress.step} of stage {progress.stage} ({terms}); begin "
                f"another run with a lower learning_rate, or with mixed_precision no.{kept}"
            )
        terms["loss"] = float(outputs.loss.detach())
        progress.add(**{f"train/{name}": term for name, term in terms.items()})
        progress.add(**{"time/backward": time.perf_counter() - start})

    def _means(self) -> dict[str, float]:
        """Of the epoch so far: what a batch gave and took on average, and how many images a second passed by."""
        progress, processes = self.progress, self.accelerator.num_processes
        seconds = sum(total for name, total in progress.sums.items() if name.startswith("time/"))
        means = {name: total * processes / progress.batch for name, total in progress.sums.items()}
        return means | {"time/images_per_second": progress.batch * self.config.batch_size / seconds}

    def _whole_model(self) -> SFRecSamModel:
        return unsharded(self.model) if self.accelerator.is_fsdp2 else self.model

    def _stage_options(self) -> dict:
        """Stage 2 sees what inference sees: dropout off, samples drawn, no mask emptied."""
        if self.progress.stage == 1:
            return {}
        seed = int(np.random.SeedSequence((self.config.seed, self.progress.step)).generate_state(1)[0])
        return {
            "generator": torch.Generator().manual_seed(seed),
            "mc_samples": self.config.mc_samples,
            "presence_threshold": 0.0,
        }

    def _validate(self, model: SFRecSamModel) -> None:
        """Tells how the epoch did on the held-out images, draws some, and keeps the best model, or else the last."""
        if self.validation is None:
            self.checkpoints.save_best(model, self.processor)
            return
        accelerator, progress, start = self.accelerator, self.progress, time.perf_counter()
        outcomes = self.validation.outcomes(model, self.processor, accelerator, progress.stage)
        found = scores(outcomes)
        self._log({f"validation/{name}": value for name, value in found.items()})
        accelerator.print(
            f"stage {progress.stage} epoch {progress.epoch + 1}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        )
        progress.without_overlap = 0 if found["final_dice"] > 0 else progress.without_overlap + 1
        if progress.without_overlap >= WITHOUT_OVERLAP:
            accelerator.print(
                f"For {progress.without_overlap} epochs no mask has met a lesion. See with `sfrecsam data` whether "
                "the masks are read as you expect, or begin anew with another learning_rate."
            )
        quality = self.validation.quality(found)
        progress.waited += 1
        if quality > progress.best:
            progress.best, progress.waited = quality, 0
            self.checkpoints.save_best(model, self.processor)
        if accelerator.is_main_process and self.config.overlays:
            folder = self.output / "overlays"
            folder.mkdir(exist_ok=True)
            with replaced(folder / f"stage{progress.stage}-epoch{progress.epoch + 1:03d}.png") as fresh:
                self.validation.sheet(outcomes).save(fresh, format="png", pnginfo=signed())
        progress.seconds += time.perf_counter() - start

    def _start_from_best(self) -> None:
        """Loads stage 1's best weights, and sets the thresholds on the validation images."""
        self.accelerator.wait_for_everyone()
        start, best = time.perf_counter(), SFRecSamModel.from_pretrained(self.checkpoints.best)
        self.model.load_state_dict(best.state_dict())
        if self.validation is None:
            return
        thresholds = calibrate(self.model.eval(), self.processor, *self.validation.parts)
        self._set_thresholds(self.model, thresholds, start)

    def _calibrate_correction(self) -> None:
        """Sets the threshold of the best correctors on the validation images."""
        self.accelerator.wait_for_everyone()
        start, best = time.perf_counter(), SFRecSamModel.from_pretrained(self.checkpoints.best)
        best = best.to(self.accelerator.device).eval()
        clicked = self.config.click_share > 0
        thresholds = calibrate_correction(best, self.processor, self.validation.images, clicked)
        self._set_thresholds(best, thresholds, start)
        self.checkpoints.save_best(best, self.processor)

    def _set_thresholds(self, model: SFRecSamModel, thresholds: dict[str, float], start: float) -> None:
        for name, value in thresholds.items():
            setattr(model.config, name, value)
        self.accelerator.print("calibrated on validation: " + ", ".join(f"{k} {v:.3f}" for k, v in thresholds.items()))
        self.progress.seconds += time.perf_counter() - start

    def _save_state(self, average: AveragedModel | None) -> None:
        self.checkpoints.save(self.progress, self.model.config, average)

    def _summarise(self) -> None:
        """Writes what the run was and has cost so far beside its best checkpoint."""
        if not self.accelerator.is_main_process:
            return
        write_summary(
            self.checkpoints.best,
            self.config,
            self.history.rows(),
            self.groups,
            [part["group"][:] for part in self._held_out()],
            self.accelerator.device,
            seconds=self.progress.seconds,
            processes=self.accelerator.num_processes,
            image_size=self.model.config.vision_config.image_size,
            parameters=self.model.num_parameters(),
        )

    def _held_out(self) -> list[Dataset]:
        return [] if self.validation is None else self.validation.parts

    def _out_of_patience(self) -> bool:
        return bool(self.config.patience) and self.progress.waited >= self.config.patience

    def _log(self, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.history.append(self.progress, values)
        self.accelerator.log(values, step=self.progress.step + (self.progress.stage - 1) * 1_000_000)

    def _header(self, trainable: int, epochs: int, steps_per_epoch: int) -> None:
        config, accelerator = self.config, self.accelerator
        effective = config.batch_size * config.accumulation * accelerator.num_processes
        accelerator.print(
            f"***** stage {self.progress.stage}: {epochs} epochs of {steps_per_epoch} steps of {effective} images "
            f"({config.batch_size} x {config.accumulation} accumulated x {accelerator.num_processes} processes): "
            f"an epoch shows {steps_per_epoch * effective} of {len(self.images)} training images\n"
            + "".join(f"***** {line}\n" for line in self.used)
            + f"***** {trainable:,} of {self.model.num_parameters():,} parameters train; {accelerator.device}, "
            f"{config.mixed_precision} precision, seed {config.seed}"
        )

    def close(self) -> None:
        """Tells what the run was and cost in the end, and ends the trackers."""
        self._summarise()
        if self.config.tracker is not None:
            self.accelerator.end_training()


def _unfilled(state: Path) -> SFRecSamModel:
    """The model of a state, whose weights are still to be loaded: what the run started from may have changed."""
    return SFRecSamModel(SFRecSamConfig.from_pretrained(state))


def _used(config: TrainingConfig, resolved: Resolved) -> list[str]:
    """A line for each data set: how many of its images train, validate, and are left."""
    counts = {source: {"train": 0, "validate": 0} for source in resolved.held}
    for use, sources, parts in (
        ("train", config.train, resolved.train),
        ("validate", config.validation, resolved.validation),
    ):
        for source, part in zip(sources, parts, strict=True):
            counts[source][use] = len(part)
    return [
        f"{source}: of {held} images {counts[source]['train']} train, {counts[source]['validate']} validate, "
        f"{held - sum(counts[source].values())} are not used"
        for source, held in resolved.held.items()
    ]


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"The folder {folder} cannot be made ({error.strerror}); choose another --output.") from error


def _as_it_is(batch: dict) -> dict:
    return batch


__all__ = ["TrainingConfig", "train"]
