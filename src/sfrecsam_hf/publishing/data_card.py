"""The card of a data set that `push-data` published: what the columns hold, and how to load them."""

from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from huggingface_hub.constants import REPOCARD_NAME

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
HEADING = "# {name}: ultrasound images with lesion masks"
TEXT = (
    HEADING
    + """

Published with `sfrecsam push-data`. {license}

| split | images |
|---|---|
{splits}

| column | content |
|---|---|
| `image` | the scan |
| `mask` | PNG of the same size: 255 in a lesion, 0 elsewhere; all 0 on a normal scan |
| `label` | `benign`, `malignant`, `normal` or `unknown` |
| `name` | name of the image in its source |
| `group` | images of one patient, or duplicates of one frame: keep a group on one side of a split |

```python
from datasets import load_dataset

scans = load_dataset("{repository}", split="{first}")
```

`sfrecsam train`, `evaluate` and `predict` take the name `{repository}` in place of a folder.

**Research use only.** Check before you publish that the images hold no name, number or date of a patient.
"""
)


def write_data_card(repository: str, license: str | None = None) -> None:
    """
    Completes the card of a data set on the Hub. A text that somebody else wrote stays as it is.

    Args:
        repository (`str`): Hub name of the data set, whose Parquet files are there already.
        license (`str`, *optional*): Identifier of the data's licence; a licence that the card names stays.
    """
    card = DatasetCard.load(repository)
    info, name = card.data.to_dict()["dataset_info"], repository.split("/")[-1]
    info = info if isinstance(info, dict) else next(part for part in info if part["config_name"] == "default")
    splits = {split["name"]: split["num_examples"] for split in info["splits"]}
    total = sum(splits.values())
    metadata = DatasetCardData(
        pretty_name=name,
        license=license or card.data.license,
        task_categories=["image-segmentation"],
        tags=["medical", "ultrasound", "breast-ultrasound"],
        size_categories=[next((size for limit, size in SIZES if total < limit), "100K<n<1M")],
    )
    for key, value in metadata.to_dict().items():
        if key in ("license", "size_categories") or not card.data.get(key):
            setattr(card.data, key, value)
    heading = HEADING.format(name=name)
    if not card.text.strip() or card.text.strip().startswith(heading):
        card.text = TEXT.format(
            name=name,
            repository=repository,
            license=f"Licence: {card.data.license}." if card.data.license else "No licence was named.",
            splits="\n".join(f"| `{split}` | {images} |" for split, images in splits.items()),
            first=next(iter(splits)),
        )
    HfApi().upload_file(
        repo_id=repository,
        repo_type="dataset",
        path_in_repo=REPOCARD_NAME,
        path_or_fileobj=str(card).encode(),
        commit_message="Card of the data set",
    )
