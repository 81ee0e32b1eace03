"""Averages the weights of a checkpoint and of what further training made of it: often better than either.

    python examples/average_checkpoints.py runs/tiny-2/best runs/tiny-3/best --share 0.4 --output runs/tiny-3-averaged

Works between checkpoints of one lineage ("model soups", Wortsman et al., 2022). Modules that one of the two has not
trained yet, those that start at zero, are best taken from the other: `--whole prompt_fusion` takes that of the second,
`--whole coarse_mask_head.gates` its gates. `--keep prompt_fusion` leaves a module as it is in the first.
"""

import argparse
import shutil
from pathlib import Path

from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.training.summary import FILE


def main() -> None:
    """Writes the average as a checkpoint for `from_pretrained`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="checkpoint")
    parser.add_argument("second", help="checkpoint of the same architecture, trained further")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (%(default)s)")
    parser.add_argument("--whole", nargs="*", default=[], help="modules taken from the second as they are")
    parser.add_argument("--keep", nargs="*", default=[], help="modules taken from the first as they are")
    parser.add_argument("--output", required=True, help="folder of the average")
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"--share {arguments.share} must lie between 0 and 1.")
    first, _ = load_checkpoint(arguments.first, "cpu")
    model, processor = load_checkpoint(arguments.second, "cpu")
    weights, averaged = first.state_dict(), model.state_dict()
    if {name: value.shape for name, value in weights.items()} != {name: x.shape for name, x in averaged.items()}:
        parser.error(f"{arguments.first} and {arguments.second} are of different architectures or input sizes.")
    for name, value in averaged.items():
        share = 1.0 if _inside(name, arguments.whole) else 0.0 if _inside(name, arguments.keep) else arguments.share
        averaged[name] = weights[name].lerp(value, share)
    model.load_state_dict(averaged)
    model.save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)
    if (history := Path(arguments.second, FILE)).is_file():
        shutil.copy(history, arguments.output)
    print(f"{arguments.output}: {1 - arguments.share:.2f} of {arguments.first}, {arguments.share:.2f} of the other")


def _inside(name: str, modules: list[str]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))


if __name__ == "__main__":
    main()
