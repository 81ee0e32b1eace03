"""Publishes a training run as a model repository on the Hub, all of it in one commit; and data sets."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from ..data.training_record import FILE as TRAINING_IMAGES
from ..inference.checkpoints import load_checkpoint
from ..modeling.adapters_only import additions
from ..training.summary import FILE as SUMMARY
from .card_tables import Evaluation
from .data_card import write_data_card
from .model_card import write_card

SHARD_SIZE = "5GB"
STAGE = ".push"
MEASURED = ("results.json", "per_image.csv", "*.png", "LICENSE*")
STALE = ["*.safetensors", "*.safetensors.index.json"]


def push(
    run: str | Path,
    name: str,
    *,
    private: bool = False,
    adapters_only: bool = False,
    pictures: bool = True,
    license: str = "apache-2.0",
    shard_size: str = SHARD_SIZE,
) -> str:
    """
    Uploads weights, processor, code, card, results and figures, and returns the repository's address.

    The repository is laid out in the run's own folder first. What a killed push leaves there, the next one removes.

    Args:
        run (`str`): As for [`stage`].
        name (`str`): Hub name, such as `"org/sf-recsam"`; made if need be, updated if it exists.
        private (`bool`): Only you and your organisation may see it.
        adapters_only, pictures, license, shard_size: As for [`stage`].

    Raises:
        FileNotFoundError: The run has no checkpoint or no results.
        ValueError: The name is no Hub name, the repository is public though `private` is asked for, or the Hub
            refuses.
    """
    checked_name(name)
    _places(Path(run))
    with _stage_folder(Path(run)) as folder:
        stage(
            run, folder, name, adapters_only=adapters_only, pictures=pictures, license=license, shard_size=shard_size
        )
        with _one_sentence(name):
            repository = _repository(name, "model", private)
            HfApi().upload_folder(
                repo_id=repository.repo_id,
                folder_path=folder,
                commit_message="Checkpoint, code, card and results",
                delete_patterns=STALE,  # or weights in other shards would lie beside the new ones
            )
    return str(repository)


def push_data(
    dataset: Dataset | DatasetDict,
    name: str,
    *,
    split: str | None = None,
    private: bool = False,
    license: str | None = None,
) -> str:
    """
    Uploads a data set with its images as Parquet files, writes its card, and returns its address.

    Args:
        dataset (`datasets.Dataset` or `datasets.DatasetDict`):
            With the columns of [`~sfrecsam_hf.data.loading.load_busi`], or several by the name of their split.
        name (`str`): Hub name.
        split (`str`, *optional*): Name of a single split there; `"train"` if not given.
        private (`bool`): Only you and your organisation may see it.
        license (`str`, *optional*): Identifier of the data's licence, as the Hub knows it.

    Raises:
        ValueError: As for [`push`].
    """
    checked_name(name)
    with _one_sentence(name):
        repository = _repository(name, "dataset", private)
        for part, rows in dataset.items() if isinstance(dataset, DatasetDict) else [(split or "train", dataset)]:
            rows.push_to_hub(repository.repo_id, split=part)
        write_data_card(repository.repo_id, license)
    return str(repository)


@contextmanager
def _stage_folder(run: Path) -> Iterator[Path]:
    """An empty folder inside the run, gone afterwards."""
    folder = run / STAGE
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise ValueError(f"{run} cannot be written to ({error.strerror}); push from a copy of it.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage(
    run: str | Path,
    folder: Path,
    name: str,
    *,
    adapters_only: bool = False,
    pictures: bool = True,
    license: str = "apache-2.0",
    shard_size: str = SHARD_SIZE,
) -> None:
    """
    Lays out a model repository in an empty folder.

    Args:
        run (`str`): Folder of a training run, with its evaluation in `evaluation/`; or a model repository.
        folder (`Path`): Where to write.
        name (`str`): Hub name for the quick start in the card.
        adapters_only (`bool`): Keep only what was trained, and refer to the SAM on the Hub below it.
        pictures (`bool`): Include `worst.png`, which shows images of the data that were evaluated.
        license (`str`): Of the weights, for the card.
        shard_size (`str`): Largest weight file.

    Raises:
        FileNotFoundError: There is no checkpoint, or no `results.json`.
        ValueError: The checkpoint is damaged, or has no adapters that could stand alone.
    """
    checkpoint, evaluation = _places(Path(run))
    evaluations = list(Evaluation.all_below(evaluation))
    model, processor = load_checkpoint(checkpoint, "cpu", dtype="auto")
    weights = additions(model) if adapters_only else None
    model.config.adapters_only = adapters_only
    model.save_pretrained(folder, state_dict=weights, max_shard_size=shard_size)
    processor.save_pretrained(folder)
    for found in evaluations:
        target = folder / found.prefix
        target.mkdir(exist_ok=True)
        for pattern in MEASURED:
            for path in found.folder.glob(pattern):
                if pictures or path.name != "worst.png":
                    shutil.copy(path, target)
    for record in (SUMMARY, TRAINING_IMAGES):
        if (checkpoint / record).is_file():
            shutil.copy(checkpoint / record, folder)
    write_card(folder, name, license)


def _places(run: Path) -> tuple[Path, Path]:
    """The folders of checkpoint and evaluation of a training run, or of a model repository."""
    checkpoint, evaluation = (run / "best", run / "evaluation") if (run / "best").is_dir() else (run, run)
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"{run} has no checkpoint in best/; give the --output of `sfrecsam train`.")
    return checkpoint, evaluation


def checked_name(name: str) -> None:
    """Raises a `ValueError` if no Hub repository can have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no name of a Hub repository; write it as org/name.") from error


def _repository(name: str, kind: str, private: bool) -> RepoUrl:
    """The repository, made if need be, and never a public one if `private`."""
    api = HfApi()
    repository = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
    if private and not api.repo_info(repository.repo_id, repo_type=kind).private:
        raise ValueError(f"{name} exists and is public; make it private first, or choose another name.")
    return repository


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OfflineModeIsEnabled) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{name} could not be pushed: {reason}; check the network, and log in with `hf auth login`."
        ) from error
