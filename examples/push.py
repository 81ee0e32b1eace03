"""Publishes a checkpoint on the Hub, and uses it from there.

    hf auth login
    python examples/push.py org/my-sf-recsam
    python examples/push.py org/mine --run runs/mine --private

--run is the output of `sfrecsam train` or of examples/fine_tune.py, measured by `sfrecsam evaluate --data my_scans
--model runs/mine/best --output runs/mine/evaluation`; its card is written from these results. The same as a command:
`sfrecsam push runs/mine org/mine`.
"""

import argparse

import numpy as np
from transformers import pipeline

from sfrecsam_hf.inference.bundled import bundled_checkpoint, bundled_space
from sfrecsam_hf.publishing.push import push


def main() -> None:
    """Pushes weights, processor, code, card and results in one commit, and segments an image with what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="Hub name, such as org/my-sf-recsam")
    parser.add_argument("--run", default=bundled_checkpoint(), help="the bundled checkpoint if left out")
    parser.add_argument("--private", action="store_true", help="only you and your organisation may see it")
    options = parser.parse_args()

    print(push(options.run, options.name, private=options.private, pictures=False))

    # Whoever has not installed this package adds trust_remote_code=True, and needs nothing else.
    segmenter = pipeline("lesion-segmentation", model=options.name)
    found = segmenter(str(bundled_space() / "samples" / "bus_0180-l.png"))
    area = np.count_nonzero(found["mask"])
    print(f"{options.name} finds a lesion of {area} pixels, presence {found['presence']:.2f}")


if __name__ == "__main__":
    main()
