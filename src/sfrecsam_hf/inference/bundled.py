"""Where the checkpoint and the Space that come with the package lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def bundled_checkpoint() -> Path:
    """
    Folder of the bundled checkpoint: in an installed package inside it, in a checkout at the top level.

    Raises:
        FileNotFoundError: The package was built without it.
    """
    for folder in (PACKAGE / "hub_card", PACKAGE.parents[1] / "hub_card"):
        if (folder / "model.safetensors").is_file():
            return folder
    raise FileNotFoundError(
        "This copy of sfrecsam-hf has no bundled checkpoint; name one with --model, or SFRECSAM_MODEL on a Space."
    )


def bundled_card_template() -> Path:
    """The template of model cards, in the checkpoint's folder."""
    return bundled_checkpoint() / "card_template.md"


def bundled_space() -> Path:
    """
    Folder of the Space, beside the checkpoint's.

    Raises:
        FileNotFoundError: The package was built without it.
    """
    for folder in (PACKAGE / "space", PACKAGE.parents[1] / "space"):
        if (folder / "app.py").is_file():
            return folder
    raise FileNotFoundError("This copy of sfrecsam-hf has no demo; install it with pip or run it from a checkout.")
