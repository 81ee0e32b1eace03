"""`sfrecsam`: one subcommand a job. Heavy imports wait until a job is chosen, so that `--help` is instant."""

import argparse
import dataclasses
import sys
import types
import typing


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code: 2, with one sentence, for input that cannot be used."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    job = options.pop("job")
    try:
        return job(**options) or 0
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"sfrecsam: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sfrecsam: interrupted; `sfrecsam train --resume` goes on from the last state.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sfrecsam", description="Breast-ultrasound lesion segmentation.")
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")

    job = jobs.add_parser("train", help="train on your own images")
    job.set_defaults(job=_train)
    job.add_argument("config", nargs="?", help="YAML file with any of the settings below")
    job.add_argument("--resume", action="store_true", help="go on from the last state in --output")
    _add_settings(job)
    return parser


def _add_settings(job: argparse.ArgumentParser) -> None:
    """One flag per field of the training configuration."""
    from .training_config import TrainingConfig

    for setting in dataclasses.fields(TrainingConfig):
        kind = setting.type
        options: dict[str, typing.Any] = {"default": argparse.SUPPRESS}
        members = [member for member in typing.get_args(kind) if member is not types.NoneType]
        plain = members[0] if isinstance(kind, types.UnionType) else kind
        if typing.get_origin(plain) is list:
            options |= {"nargs": "+", "type": typing.get_args(plain)[0]}
        elif typing.get_origin(plain) is dict:
            options |= {"type": _mapping, "metavar": "YAML"}
        elif plain is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": plain}
        job.add_argument(f"--{setting.name.replace('_', '-')}", **options)


def _mapping(text: str) -> dict:
    import yaml

    value = yaml.safe_load(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a mapping such as '{fusion: spatial}'")
    return value


def _train(config: str | None, resume: bool, **settings: typing.Any) -> None:
    from .training import train
    from .training_config import TrainingConfig

    print(f"best checkpoint: {train(TrainingConfig.from_yaml(config, **settings), resume)}")


if __name__ == "__main__":
    sys.exit(main())
