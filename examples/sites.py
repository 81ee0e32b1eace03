"""What does `sfrecsam adapt` gain at a hospital that the base has never seen, and which of its weights gain it?

    python examples/sites.py --base runs/without-uclm/best --site BUS-UCLM --output runs/sites

The base must not have trained on the site. Each draw takes some patients of the site, and of them as many images as
`--images` says, half of them normal scans where there are any; a fit on these is judged on the frames of all other
patients. Fits re-tune the frequency filters, the gates, the norms, the presence score, these four as `sfrecsam adapt`
does, everything, or LoRA matrices. `--ranked` compares images drawn at random with those that `sfrecsam rank` puts
first, out of half of the patients. Writes `sites.json` and `sites.md`; what is in `sites.json` is not done again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.metrics import roc_auc_score
from tables import as_table, write
from torch import nn

from sfrecsam_hf import SFRecSamModel, load_folder
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.rank import rank
from sfrecsam_hf.modeling.segmentation import segment
from sfrecsam_hf.modeling.site_adaptation import PARTS, site_weights
from sfrecsam_hf.training.adapt import Fit, fitted

LORA = LoraConfig(target_modules=r"vision_encoder\..*\.qkv|mask_decoder\..*\.(q_proj|v_proj)", r=4)
HEADS = ("images", "fit", "weights", "draws", "Dice", "gain", "normals above 95 % of lesions", "base")


def everything(model: SFRecSamModel) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def lora(model: SFRecSamModel) -> dict[str, nn.Parameter]:
    """Wraps the model in place: the matrices lie beside the layers that they change."""
    get_peft_model(model, LORA)
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


FITS = {part: Fit(parts=(part,)) for part in PARTS} | {"adapt": Fit()}
OTHERS = {"everything": (Fit(learning_rate=1e-4), everything), "LoRA": (Fit(learning_rate=1e-3), lora)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="checkpoint that has not seen the site")
    parser.add_argument("--site", required=True, help="folder with images and masks")
    parser.add_argument("--output", required=True, help="folder for sites.json and sites.md")
    parser.add_argument("--images", type=int, nargs="+", default=[20], help="images to adapt with (%(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="draws of these images (%(default)s)")
    parser.add_argument("--judged", type=int, default=150, help="most frames that judge a draw (%(default)s)")
    parser.add_argument("--fits", nargs="+", default=[*FITS, *OTHERS], choices=[*FITS, *OTHERS], help="what to fit")
    parser.add_argument("--ranked", action="store_true", help="images that rank puts first, beside random ones")
    options = parser.parse_args()
    model, processor = load_checkpoint(options.base)
    study = Study(model, processor, load_folder(options.site), Path(options.output), options.judged)
    for count in options.images:
        for draw in range(options.draws):
            if options.ranked:
                study.compare_choices(draw, count)
            else:
                for name in options.fits:
                    study.measure(draw, count, name)
    study.report()


class Study:
    """Every row that has been measured, kept in one file."""

    def __init__(self, model: SFRecSamModel, processor: object, site: Dataset, output: Path, judged: int):
        self.model, self.processor, self.site, self.output, self.judged = model, processor, site, output, judged
        self.lesion = np.array([np.asarray(mask).any() for mask in site["mask"]])
        self.groups = np.array(site["group"])
        found = output / "sites.json"
        self.rows = json.loads(found.read_text()) if found.is_file() else []

    def drawn(self, draw: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The images to adapt with, and those of other patients that judge."""
        rng = np.random.default_rng(draw)
        patients = rng.permutation(np.unique(self.groups))
        for taken in range(1, len(patients)):
            inside = np.isin(self.groups, patients[:taken])
            kinds = [rng.permutation(np.flatnonzero(inside & kind)) for kind in (self.lesion, ~self.lesion)]
            if min(len(kind) for kind in kinds) >= count // 2:
                break
        chosen = np.concatenate([kind[: count // 2] for kind in kinds])
        return np.sort(chosen), rng.permutation(np.flatnonzero(~inside))[: self.judged]

    def measure(self, draw: int, count: int, name: str) -> None:
        """One fit on one draw."""
        key = {"draw": draw, "images": count, "fit": name}
        if any(key.items() <= row.items() for row in self.rows):
            return
        fit, chosen = OTHERS[name] if name in OTHERS else (FITS[name], None)
        taught, judges = self.drawn(draw, count)
        tuned = fitted(self.model, self.processor, self.site.select(taught), fit, chosen)
        if chosen is None:
            changed = site_weights(tuned, fit.parts)
        else:
            changed = {n: w for n, w in tuned.named_parameters() if name == "everything" or "lora_" in n}
        weights = sum(weight.numel() for weight in changed.values())
        self.add(key | {"weights": weights}, tuned, judges)

    def compare_choices(self, draw: int, count: int) -> None:
        """Images that `rank` puts first against random ones, both out of half of the patients."""
        rng = np.random.default_rng(draw)
        patients = rng.permutation(np.unique(self.groups))
        pool = np.flatnonzero(np.isin(self.groups, patients[: len(patients) // 2]))
        judges = rng.permutation(np.setdiff1d(np.arange(len(self.groups)), pool))[: self.judged]
        scans = ((str(index), self.site[int(index)]["image"]) for index in pool)
        for name in ("ranked", "random"):
            key = {"draw": draw, "images": count, "fit": name}
            if any(key.items() <= row.items() for row in self.rows):
                continue
            if name == "ranked":
                first = [int(one.name) for one in rank(self.model, self.processor, scans, len(pool))[:count]]
            else:
                first = [int(index) for index in rng.permutation(pool)[:count]]
            tuned = fitted(self.model, self.processor, self.site.select(first), Fit())
            weights = sum(weight.numel() for weight in site_weights(tuned).values())
            self.add(key | {"weights": weights, "lesions": int(self.lesion[first].sum())}, tuned, judges)

    def add(self, row: dict, tuned: SFRecSamModel, judges: np.ndarray) -> None:
        """Judges base and fit on the same frames, and keeps the figures at once."""
        judged = sorted(int(index) for index in judges)
        known = (other["base"] for other in self.rows if other["judges"] == judged)
        base = next(known, None) or self.judge(self.model, judges)
        row |= {"base": base, "fitted": self.judge(tuned, judges), "judges": judged}
        self.rows.append(row)
        print({name: value for name, value in row.items() if name != "judges"}, flush=True)
        self.report()

    def judge(self, model: SFRecSamModel, index: np.ndarray) -> dict[str, float]:
        """Dice of the lesions with nothing refused, and how well presence tells lesions from normal scans."""
        rows, lesion = self.site.select(index), self.lesion[index]
        found = list(segment(model, self.processor, rows["image"], mc_samples=0, presence_threshold=0.0))
        presence = np.array([one.presence for one in found])
        dice = [overlap(one.mask, np.asarray(true) > 0)["dice"] for one, true in zip(found, rows["mask"], strict=True)]
        least = np.quantile(presence[lesion], 0.05, method="lower")
        return {
            "dice": float(np.mean(np.array(dice)[lesion])),
            "normals": float((presence[~lesion] >= least).mean()),
            "auroc": float(roc_auc_score(lesion, presence)),
        }

    def report(self) -> None:
        """A line for each number of images and fit: means over the draws."""
        lines = []
        for images, fit in sorted({(row["images"], row["fit"]) for row in self.rows}):
            rows = [row for row in self.rows if (row["images"], row["fit"]) == (images, fit)]
            dice = np.array([[row[kind]["dice"] for kind in ("base", "fitted")] for row in rows])
            normals = np.array([[row[kind]["normals"] for kind in ("base", "fitted")] for row in rows]).mean(axis=0)
            gains = dice[:, 1] - dice[:, 0]
            spread = f"{gains.mean():+.3f} ({gains.min():+.3f} to {gains.max():+.3f})"
            cells = (images, fit, rows[0]["weights"], len(rows), f"{dice[:, 1].mean():.3f}", spread)
            lines.append((*cells, f"{normals[1]:.0%}", f"{normals[0]:.0%}"))
        write(self.output, "sites", self.rows, as_table(HEADS, lines))


if __name__ == "__main__":
    main()
