"""`sfrecsam data`: what a data set holds, what is not used, and what is wrong with it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..modeling.image_reading import read_rgb
from .duplicates import near_duplicate_groups
from .layouts import Found, Sample
from .loading import find, read_sample
from .split_tables import apply_splits, check_own_splits

LARGEST_SHARE = 0.9  # a mask that covers more is drawn the wrong way round


@dataclass
class DataReport:
    """What was found in a data set; `print` it."""

    layout: str
    counts: dict[str, int]
    splits: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    multi_mask: list[str] = field(default_factory=list)
    drawn_in: list[str] = field(default_factory=list)
    objections: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.counts.values())
        lines = [f"layout: {self.layout}", f"images: {total}"]
        lines += [f"  {label}: {count}" for label, count in sorted(self.counts.items())]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{split} {count}" for split, count in sorted(self.splits.items())))
        if 0 < self.groups < total:
            lines.append(f"patients or groups: {self.groups}")
        lines += self.drawn_in
        for kind, names in sorted(self.objections.items()):
            lines.append(f"objection {kind}: {len(names)} images; leave them out with --exclude")
            lines += [f"  {name}" for name in names]
        for title, entries in (
            ("with more than one mask", self.multi_mask),
            ("groups of near-duplicates", [", ".join(names) for names in self.duplicates]),
            ("not used", self.unused),
            ("problems", self.problems),
        ):
            lines.append(f"{title}: {len(entries)}")
            lines += [f"  {entry}" for entry in entries]
        return "\n".join(lines)


def inspect(source: str | Path, find_duplicates: bool = True, splits: str | Path | None = None) -> DataReport:
    """
    Reads every image and mask and reports what there is, what is not used, and what is wrong.

    Args:
        source (`str`): Folder, zip or Hub name.
        find_duplicates (`bool`): Also look for near-duplicates.
        splits (`str`, *optional*): CSV with the columns image, group and split, to be checked too.

    Raises:
        FileNotFoundError, ValueError: As for [`~sfrecsam_hf.load_folder`].
    """
    found = find(source, quiet=True)
    if splits is not None:
        apply_splits([found], splits)
    samples = found.samples
    report = DataReport(
        layout=found.layout,
        counts=dict(Counter(sample.label for sample in samples)),
        splits=dict(Counter(sample.split or "none" for sample in samples)) if _split(found) else {},
        groups=len({sample.group for sample in samples}),
        multi_mask=[sample.name for sample in samples if len(sample.masks) > 1],
        drawn_in=_drawn_in(samples),
        unused=found.unused,
    )
    for sample in samples:
        if sample.objection:
            report.objections.setdefault(sample.objection, []).append(sample.name)
    try:
        check_own_splits(found)
    except ValueError as error:
        report.problems.append(str(error))
    readable, images = [], []
    for sample in samples:
        try:
            image, mask = read_sample(sample)
        except (OSError, ValueError) as error:
            report.problems.append(str(error))
            continue
        if mask.mean() > LARGEST_SHARE:
            report.problems.append(f"The mask of {sample.name} covers {mask.mean():.0%} of the image; is it inverted?")
        if mask.any() and sample.label == "normal":
            report.problems.append(f"{sample.name} is called normal but has a lesion in its mask.")
        readable.append(sample.name)
        images.append(read_rgb(image).convert("L"))
    if find_duplicates:
        members: dict[int, list[str]] = {}
        for name, group in zip(readable, near_duplicate_groups(images), strict=True):
            members.setdefault(group, []).append(name)
        report.duplicates = [names for names in members.values() if len(names) > 1]
    return report


def _split(found: Found) -> bool:
    return any(sample.split for sample in found.samples)


def _drawn_in(samples: list[Sample]) -> list[str]:
    """How many images of each class have calipers or Doppler colour, where a table says so."""
    lines = []
    for kind in ("calipers", "doppler"):
        known = [sample for sample in samples if getattr(sample, kind) is not None]
        if known:
            totals = Counter(sample.label for sample in known)
            drawn = Counter(sample.label for sample in known if getattr(sample, kind))
            counts = ", ".join(f"{label} {drawn[label]} of {totals[label]}" for label in sorted(totals))
            lines.append(f"with {kind}: {sum(drawn.values())} of {len(known)} ({counts})")
    return lines
