"""One flag of the command line per field of a dataclass of settings."""

import argparse
import dataclasses
import types
from typing import Any, get_args, get_origin

import yaml


def add_flags(job: argparse.ArgumentParser, settings: type) -> None:
    """
    Adds a flag for each field; its help is the field's `metadata["help"]`.

    Not by transformers' `HfArgumentParser`: it knows no flag that is left out, so that a YAML file could not speak.

    Args:
        job (`argparse.ArgumentParser`): Of the subcommand.
        settings (`type`): The dataclass.
    """
    for setting in dataclasses.fields(settings):
        text = setting.metadata["help"].replace("%", "%%")
        if isinstance(setting.default, (int, float, str)):
            text += f" Default: {setting.default}."
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        kind: Any = setting.type
        if isinstance(kind, types.UnionType):
            kind = get_args(kind)[0]  # the other is None
        if get_origin(kind) is list:
            options |= {"nargs": "+", "type": get_args(kind)[0]}
        elif get_origin(kind) is dict:
            options |= {"type": _mapping, "metavar": "YAML"}
        elif kind is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": kind}
        job.add_argument(f"--{setting.name.replace('_', '-')}", **options)


def _mapping(text: str) -> dict:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a mapping such as '{fusion: spatial}'")
    return value
