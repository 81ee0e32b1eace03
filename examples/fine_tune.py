"""Fine-tunes the bundled checkpoint on a folder of your own images and masks.

    python examples/fine_tune.py --data my_scans --output runs/mine
    accelerate launch --config_file examples/accelerate/multi_gpu.yaml examples/fine_tune.py --data my_scans \
        --output runs/mine-on-two

The folder holds `images/` beside `masks/`, or NAME.png beside NAME_mask.png; `sfrecsam data my_scans` says what is
wrong with it. A fifth of it is held out, and near-duplicates stay on one side. The result is a folder for --model of
the other examples and for `from_pretrained`.
"""

import argparse

from accelerate import PartialState

from sfrecsam_hf import TrainingConfig, train
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.evaluate import evaluate
from sfrecsam_hf.inference.bundled import bundled_checkpoint
from sfrecsam_hf.inference.checkpoints import load_checkpoint


def main() -> None:
    """Trains both stages, and prints the Dice of the held-out images before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with images and masks")
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--model", default=str(bundled_checkpoint()), help="checkpoint to start from")
    parser.add_argument("--image-size", type=int, help="side of the input; the checkpoint's own if left out")
    parser.add_argument("--epochs", type=int, default=10, help="of the base (%(default)s)")
    parser.add_argument("--correction-epochs", type=int, default=3, help="of the correctors (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=2, help="images for each process and step (%(default)s)")
    parser.add_argument("--ema-decay", type=float, default=0.998, help="0 under FSDP (%(default)s)")
    options = vars(parser.parse_args())

    data = options.pop("data")
    config = TrainingConfig(train=[data], validation=[data], learning_rate=2e-4, tracker=None, **options)
    best = train(config)  # every process of `accelerate launch` takes part, and one writes
    if PartialState().is_main_process:
        held_out = load_split(data, "val")
        for when, checkpoint in (("before", config.model), ("after", best)):
            results, _ = evaluate(*load_checkpoint(checkpoint), held_out, ["auto"], quiet=True)
            lesions = results["columns"]["auto"]["final"]["lesion"]
            print(f"{when}: Dice {lesions['dice']['mean']:.3f} on {lesions['images']} held-out lesions ({checkpoint})")


if __name__ == "__main__":
    main()
