"""The figures of an evaluation, computed from rows whose answers can be counted by hand."""

import pytest

from sfrecsam_hf.evaluation.measured import METRICS, Measured
from sfrecsam_hf.evaluation.pixel_quality import PixelCounts
from sfrecsam_hf.evaluation.summary import summarised


def row(index: int, lesion: bool = True, **values) -> dict:
    """An image of its own group whose masks are alike, with the given values changed."""
    plain = {f"{mask}_{metric}": 0.8 for mask in ("initial", "final") for metric in METRICS}
    return {
        "name": f"image {index}",
        "label": "benign" if lesion else "normal",
        "group": index,
        "column": "auto",
        "lesion": lesion,
        "presence": 0.9,
        "lesion_area": 0.001 * index * lesion,
        "initial_area": 0.1,
        "final_area": 0.1,
        "uncertainty_auroc": 0.9,
        "uncertainty_top5": 0.5,
        **plain,
        **values,
    }


def figures(rows: list[dict]) -> dict:
    return summarised(Measured(rows, {"auto": PixelCounts.none()}, {"auto": 10.0}))["columns"]["auto"]


def test_lesions_found_are_counted_at_half_an_overlap_and_at_any():
    ious = (0.0, 0.2, 0.49, 0.5, 0.51, 0.9)
    found = figures([row(index, final_iou=iou) for index, iou in enumerate(ious)])["found"]
    assert (found["final"]["iou_50"]["count"], found["final"]["any"]["count"]) == (3, 5)
    assert found["initial"]["iou_50"]["share"] == 1


def test_gain_and_harm_of_correction_are_paired():
    finals = (0.9, 0.805, 0.795, 0.785, 0.7)
    correction = figures([row(index, final_dice=dice) for index, dice in enumerate(finals)])["correction"]
    assert correction["dice"]["mean"] == pytest.approx(sum(finals) / 5 - 0.8)
    assert correction["dice"]["low"] < correction["dice"]["mean"] < correction["dice"]["high"]
    assert (correction["helped"]["count"], correction["harmed"]["count"]) == (1, 2)
    assert correction["precision"]["mean"] == correction["recall"]["mean"] == 0


def test_a_steady_gain_has_a_narrow_interval_however_much_the_images_differ():
    rows = [row(i, initial_dice=0.05 * i, final_dice=0.05 * i + 0.01) for i in range(19)]
    assert figures(rows)["correction"]["dice"]["low"] == pytest.approx(0.01)


def test_normal_scans_above_the_presence_of_95_percent_of_the_lesions():
    """Of 20 lesions, 19 reach 0.5 or more, one has 0.1."""
    lesions = [row(index, presence=0.5 + 0.02 * index) for index in range(19)] + [row(19, presence=0.1)]
    normals = [row(20 + index, lesion=False, presence=score) for index, score in enumerate((0.05, 0.3, 0.49, 0.51))]
    presence = figures(lesions + normals)["presence"]
    assert (presence["normals_above_95"]["count"], presence["normals_above_95"]["images"]) == (1, 4)
    assert presence["auroc"] == pytest.approx((19 * 4 - 1 + 1) / 80)


def test_distances_are_given_with_and_without_empty_masks():
    rows = [row(index, final_hd95=10.0) for index in range(9)]
    rows.append(row(9, final_hd95=500.0, final_area=0.0, final_dice=0.0))
    final = figures(rows)["final"]
    assert final["lesion"]["hd95"]["mean"] == pytest.approx(59)
    assert final["not empty"]["hd95"]["mean"] == pytest.approx(10)
    assert final["not empty"]["images"] == 9


def test_images_of_one_group_are_one_to_the_interval():
    def spread(group) -> float:
        dice = figures([row(i, final_dice=0.1 * (i % 10), group=group(i)) for i in range(100)])["final"]["lesion"][
            "dice"
        ]
        return dice["high"] - dice["low"]

    assert spread(lambda index: index % 10) > 2.5 * spread(lambda index: index)


def test_sizes_are_thirds_by_the_share_of_the_image():
    final = figures([row(index, final_dice=index / 10) for index in range(10)])["final"]
    assert [final[size]["images"] for size in ("small", "medium", "large")] == [4, 3, 3]
    assert final["small"]["dice"]["mean"] == pytest.approx(0.15)


def test_uncertainty_is_judged_where_there_is_an_error():
    rows = [row(0, uncertainty_auroc=0.8), row(1), row(2, uncertainty_auroc=None, uncertainty_top5=None)]
    per_image = figures(rows)["uncertainty"]["per_image"]
    assert per_image["images"] == 2
    assert per_image["auroc"]["mean"] == pytest.approx(0.85)
    assert figures(rows[2:])["uncertainty"]["per_image"] is None


def test_normal_scans_alone_can_be_evaluated():
    found = figures([row(index, lesion=False, final_area=0.1 * (index == 0)) for index in range(4)])
    assert found["normal"]["with_mask"]["share"] == 0.25
    assert found["final"] == {}
    assert found["correction"] is None
    assert found["presence"]["normals_above_95"] is None
