"""Two-stage training with Accelerate (paper section 3.4): first the base, then the corrector on top of it."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, set_seed
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler

from ..data.splits import resolve
from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .calibration import calibrate, calibrate_correction
from .config import TrainingConfig
from .dataset import EpochBatches, TrainingImages
from .starting_model import build_model, unsharded
from .summary import write_summary
from .validation import Validation, scores

THRESHOLDS = ("suspicion_threshold", "presence_threshold")

# SAM shares one tensor between two modules, which is told anew at each save.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


@dataclass
class Progress:
    """Where a run stands: everything that is needed beside the weights to go on from a step."""

    stage: int = 1
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    waited: int = 0
    averaged: int = 0
    seconds: float = 0.0


def train(config: TrainingConfig, resume: bool = False) -> Path:
    """
    Trains both stages and returns the folder of the best checkpoint, which loads with `from_pretrained`.

    Args:
        config ([`TrainingConfig`]): All settings; saved with the run.
        resume (`bool`): Go on from the run's last state, sample for sample.

    Raises:
        FileExistsError: The output folder holds a run and `resume` is False.
        FileNotFoundError: There is nothing to resume.
        ValueError: The data cannot be used.
    """
    run = TrainingRun(config, resume)
    while run.progress.stage <= 2:
        run.train_stage()
    run.close()
    return run.output / "best"


class TrainingRun:
    """One run in one folder; a process may end at any moment and another go on from there."""

    def __init__(self, config: TrainingConfig, resume: bool = False):
        self.config, self.output = config, Path(config.output)
        latest = self.output / "latest"
        if resume and not latest.is_file():
            raise FileNotFoundError(f"{latest} does not exist, so there is nothing to resume; train without --resume.")
        if not resume and latest.is_file():
            raise FileExistsError(f"{self.output} already holds a run; pass --resume or choose another --output.")
        set_seed(config.seed)
        sources, held_out = resolve(config.train, config.validation, config.splits)
        self.groups = [source["group"][:] for source in sources]
        self.validation = Validation(held_out, config)
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several processes would not find each other
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.accumulation,
            log_with=config.tracker,
            project_dir=str(self.output),
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if sharded and (config.ema_decay or not self.accelerator.is_fsdp2):
            raise ValueError(
                "With FSDP no process holds the whole model to average: set ema_decay to 0 and fsdp_version to 2, as "
                "in examples/accelerate/fsdp.yaml."
            )
        layout = torch.contiguous_format if sharded else torch.channels_last  # FSDP cuts contiguous weights only
        self.model = build_model(config).to(self.accelerator.device, memory_format=layout)
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
            quiet=not main,
        )
        self.batches = EpochBatches(
            [len(source) for source in sources],
            config.shares,
            config.batch_size,
            config.accumulation * self.accelerator.num_processes,
            config.seed,
        )
        self.progress = Progress()
        self.resumed = None
        if resume:
            self.resumed = self.output / latest.read_text()
            self.progress = Progress(**json.loads((self.resumed / "progress.json").read_text()))
        if main:
            self.output.mkdir(parents=True, exist_ok=True)
            config.to_yaml(self.output / "training.yaml")
            self._cut_history()
        if config.tracker is not None:
            flat = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float, str))}
            self.accelerator.init_trackers("logs", config=flat)

    def train_stage(self) -> None:
        """One stage from its start, or from the state to resume, to its end; leaves its best model in `best/`."""
        config, progress, accelerator = self.config, self.progress, self.accelerator
        epochs = config.epochs if progress.stage == 1 else config.correction_epochs
        if progress.stage == 2:
            self._start_from_best()
        if epochs == 0:
            if progress.stage == 1:
                self._save_best(self.model)
            progress.stage += 1
            return
        trainable = self.model.train_stage(progress.stage, config.freeze_base)
        steps_per_epoch = self.batches.batches // (config.accumulation * accelerator.num_processes)
        rate = config.learning_rate if progress.stage == 1 else config.correction_learning_rate
        optimizer = decayed_adamw(self.model, rate, config.weight_decay)
        warmup = round(config.warmup * epochs * steps_per_epoch)
        scheduler = get_scheduler("cosine", optimizer, warmup, epochs * steps_per_epoch)
        loader = DataLoader(
            self.images,
            batch_sampler=self.batches,
            collate_fn=_as_it_is,
            num_workers=config.workers,
            generator=torch.Generator(),  # or every new iterator would draw from, and so shift, dropout's generator
        )
        average = None
        if config.ema_decay:
            average = AveragedModel(self.model, multi_avg_fn=moving_average(config.ema_decay), use_buffers=True)
            average.requires_grad_(False)
        wrapped, optimizer, scheduler, loader = accelerator.prepare(self.model, optimizer, scheduler, loader)
        if accelerator.is_fsdp2:  # other prompts use other weights, and every process must send the same gradients
            wrapped.set_reduce_scatter_unused_params(True)
        self._header(trainable, epochs, steps_per_epoch)
        if self.resumed is not None:
            accelerator.load_state(str(self.resumed))
            if average is not None and progress.averaged:
                load_model(average.module, self.resumed / "average.safetensors")
                average.n_averaged.fill_(progress.averaged)
            self.resumed = None

        while progress.epoch < epochs and not self._out_of_patience():
            self._train_epoch(wrapped, average, optimizer, scheduler, loader, warmup)
            self._validate(average.module if average is not None and progress.averaged else self._whole_model())
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._save_state(average)
            self._summarise()
        self.model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        self.model = self._whole_model()
        accelerator.free_memory()
        if progress.stage == 2:
            self._let_correctors_in()
        self.progress = Progress(stage=progress.stage + 1, seconds=progress.seconds)

    def _train_epoch(
        self,
        wrapped: torch.nn.Module,
        average: AveragedModel | None,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        loader: DataLoader,
        warmup: int,
    ) -> None:
        config, progress, accelerator = self.config, self.progress, self.accelerator
        self.batches.epoch = progress.epoch + (progress.stage - 1) * config.epochs
        self.batches.start = progress.batch
        wrapped.train(progress.stage == 1)
        bar = tqdm(
            loader,
            desc=f"stage {progress.stage} epoch {progress.epoch + 1}",
            disable=not accelerator.is_main_process,
        )
        sums: dict[str, float] = {}
        # On a GPU calls return early, and the time of the forward pass is counted where it is waited for: as backward.
        spent = {"data": 0.0, "forward": 0.0, "backward": 0.0}
        seen, images_per_second, clock = 0, 0.0, time.perf_counter()
        for batch in bar:
            loaded = time.perf_counter()
            with accelerator.accumulate(wrapped):
                outputs = wrapped(**batch, **self._stage_options())
                answered = time.perf_counter()
                accelerator.backward(outputs.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
                optimizer.step()
                optimizer.zero_grad()
            progress.batch += accelerator.num_processes
            if accelerator.sync_gradients:
                scheduler.step()
                progress.step += 1
                if average is not None and progress.step > warmup:
                    average.update_parameters(self.model)
                    progress.averaged += 1
            terms = {name: float(term.detach()) for name, term in outputs.loss_terms.items()}
            if not all(math.isfinite(term) for term in terms.values()):
                raise FloatingPointError(
                    f"A loss term is not finite at step {progress.step} of stage {progress.stage} ({terms}); lower "
                    "learning_rate or set mixed_precision to no, and --resume from the last state."
                )
            for name, term in {**terms, "loss": float(outputs.loss.detach())}.items():
                sums[name] = sums.get(name, 0.0) + term
            seen += 1
            ended = time.perf_counter()
            for part, seconds in zip(spent, (loaded - clock, answered - loaded, ended - answered), strict=True):
                spent[part] += seconds
            progress.seconds += ended - clock
            images_per_second = seen * config.batch_size * accelerator.num_processes / sum(spent.values())
            bar.set_postfix(
                loss=f"{sums['loss'] / seen:.3f}",
                **{part: f"{seconds / seen:.2f}s" for part, seconds in spent.items()},
                images=f"{images_per_second:.1f}/s",
            )
            due = config.save_steps and accelerator.sync_gradients and progress.step % config.save_steps == 0
            if due and progress.batch < self.batches.batches:  # the end of the epoch is saved after its validation
                self._save_state(average)
            clock = time.perf_counter()
        means = {f"train/{name}": total / max(seen, 1) for name, total in sums.items()}
        self._log(
            {
                **means,
                "train/learning_rate": scheduler.get_last_lr()[0],
                **{f"time/{part}": seconds / max(seen, 1) for part, seconds in spent.items()},
                "time/images_per_second": images_per_second,
                "time/total": progress.seconds,
            }
        )

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
        """Tells how the epoch did on the held-out images, draws some, and keeps the best model."""
        accelerator, progress, start = self.accelerator, self.progress, time.perf_counter()
        outcomes = self.validation.outcomes(model, self.processor, accelerator, progress.stage)
        found = scores(outcomes)
        self._log({f"validation/{name}": value for name, value in found.items()})
        accelerator.print(
            f"stage {progress.stage} epoch {progress.epoch + 1}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        )
        quality = self.validation.quality(found)
        progress.waited += 1
        if quality > progress.best:
            progress.best, progress.waited = quality, 0
            self._save_best(model)
        if accelerator.is_main_process and self.config.overlays:
            folder = self.output / "overlays"
            folder.mkdir(exist_ok=True)
            name = f"stage{progress.stage}-epoch{progress.epoch + 1:03d}.png"
            self.validation.sheet(outcomes).save(folder / name)
        progress.seconds += time.perf_counter() - start

    def _start_from_best(self) -> None:
        """Loads stage 1's best weights, and sets the thresholds on the validation images unless a state has them."""
        self.accelerator.wait_for_everyone()
        best = SFRecSamModel.from_pretrained(self.output / "best")
        self.model.load_state_dict(best.state_dict())
        if self.resumed is not None:
            for name in THRESHOLDS:
                setattr(self.model.config, name, getattr(best.config, name))
            return
        start = time.perf_counter()
        thresholds = calibrate(self.model.eval(), self.processor, *self.validation.parts)
        self.progress.seconds += time.perf_counter() - start
        self._save_calibrated(self.model, thresholds)

    def _let_correctors_in(self) -> None:
        """Chooses on the validation images how far the best correctors are let in."""
        self.accelerator.wait_for_everyone()
        start = time.perf_counter()
        best = SFRecSamModel.from_pretrained(self.output / "best").to(self.accelerator.device).eval()
        clicked = self.config.click_share > 0
        thresholds = calibrate_correction(best, self.processor, self.validation.images, clicked)
        self.progress.seconds += time.perf_counter() - start
        self._save_calibrated(best, thresholds)

    def _save_calibrated(self, model: SFRecSamModel, thresholds: dict[str, float]) -> None:
        for name, value in thresholds.items():
            setattr(model.config, name, value)
        self.accelerator.print("calibrated on validation: " + ", ".join(f"{k} {v:.3f}" for k, v in thresholds.items()))
        self._save_best(model)

    def _save_best(self, model: SFRecSamModel) -> None:
        """Puts a whole folder in place, and later replaces its files one by one, so that it loads at any moment."""
        if not self.accelerator.is_main_process:
            return
        fresh, best = self.output / "best.new", self.output / "best"
        shutil.rmtree(fresh, ignore_errors=True)
        model.save_pretrained(fresh)
        self.processor.save_pretrained(fresh)
        if not best.exists():
            fresh.replace(best)
            return
        for path in fresh.iterdir():
            path.replace(best / path.name)
        fresh.rmdir()

    def _save_state(self, average: AveragedModel | None) -> None:
        """Writes a state beside the last one, then points to it."""
        name = f"state-{self.progress.stage}-{self.progress.step:06d}"
        fresh = self.output / "state.new"
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        if average is not None:
            save_model(average.module, str(fresh / "average.safetensors"))
        (fresh / "progress.json").write_text(json.dumps(asdict(self.progress)))
        shutil.rmtree(self.output / name, ignore_errors=True)
        fresh.replace(self.output / name)
        pointer = self.output / "latest.new"
        pointer.write_text(name)
        pointer.replace(self.output / "latest")
        for old in self.output.glob("state-*"):
            if old.name != name:
                shutil.rmtree(old)

    def _summarise(self) -> None:
        """Writes what the run was and has cost so far beside its best checkpoint."""
        if not self.accelerator.is_main_process:
            return
        write_summary(
            self.output / "best",
            self.config,
            self.output / "history.jsonl",
            self.groups,
            [part["group"][:] for part in self.validation.parts],
            self.accelerator.device,
            seconds=self.progress.seconds,
            processes=self.accelerator.num_processes,
            image_size=self.model.config.vision_config.image_size,
            parameters=self.model.num_parameters(),
        )

    def _out_of_patience(self) -> bool:
        return bool(self.config.patience) and self.progress.waited >= self.config.patience

    def _cut_history(self) -> None:
        """Drops the rows of epochs that did not reach a state, since they are trained, and written, again."""
        history = self.output / "history.jsonl"
        if history.is_file():
            rows = [json.loads(line) for line in history.read_text().splitlines()]
            reached = (self.progress.stage, self.progress.epoch)
            kept = [json.dumps(row) + "\n" for row in rows if (row["stage"], row["epoch"]) <= reached]
            history.write_text("".join(kept))

    def _log(self, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        row = {"stage": self.progress.stage, "epoch": self.progress.epoch + 1, "step": self.progress.step, **values}
        with (self.output / "history.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.accelerator.log(values, step=self.progress.step + (self.progress.stage - 1) * 1_000_000)

    def _header(self, trainable: int, epochs: int, steps_per_epoch: int) -> None:
        config, accelerator = self.config, self.accelerator
        effective = config.batch_size * config.accumulation * accelerator.num_processes
        accelerator.print(
            f"***** stage {self.progress.stage}: {epochs} epochs of {steps_per_epoch} steps of {effective} images "
            f"({config.batch_size} x {config.accumulation} accumulated x {accelerator.num_processes} processes)\n"
            f"***** {len(self.images)} training and {sum(map(len, self.validation.parts))} validation images\n"
            f"***** {trainable:,} of {self.model.num_parameters():,} parameters train; {accelerator.device}, "
            f"{config.mixed_precision} precision, seed {config.seed}"
        )

    def close(self) -> None:
        """Tells what the run was and cost in the end, and ends the trackers."""
        self._summarise()
        if self.config.tracker is not None:
            self.accelerator.end_training()


def decayed_adamw(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what trains, with weight decay on matrices and kernels only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [x for x in trained if x.ndim > 1], "weight_decay": weight_decay},
        {"params": [x for x in trained if x.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99))


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """
    Exponential average whose memory grows from ten steps to that of `decay`.

    With a constant decay of 0.998 the average still held half of its first weights after five epochs.
    """

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, float((1 + count) / (10 + count))))

    return update


def _as_it_is(batch: dict) -> dict:
    return batch


__all__ = ["TrainingConfig", "train"]
