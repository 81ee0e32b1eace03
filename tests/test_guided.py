"""Clicks, boxes and strokes, lesion by lesion, with a model that answers in disks."""

import numpy as np
import pytest

from sfrecsam_hf import Segmentation
from sfrecsam_hf.inference.guided import AUTOMATIC, BOX_MARGIN, Prompt, Stroke, guided, painted

SHAPE = (60, 100)
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
LEFT, MIDDLE, RIGHT = (20, 30), (50, 30), (80, 30)


def disk(x, y, radius):
    return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 < radius**2


def found(mask, score=0.5):
    probability = np.where(mask, 0.9, 0.1)
    maps = dict.fromkeys(("probability", "initial_probability", "final_probability"), probability)
    masks = {"mask": mask, "initial_mask": mask.copy()}
    return Segmentation(**masks, **maps, uncertainty=np.full(SHAPE, score), presence=0.8, score=score)


def model(prompt):
    """Marks LEFT and RIGHT by itself; to clicks it answers with one mask: a disk of 10 px around each."""
    if prompt == AUTOMATIC:
        return found(disk(*LEFT, 8) | disk(*RIGHT, 8))
    mask = np.zeros(SHAPE, bool)
    for point in prompt.of(1):
        mask |= disk(*point, 10)
    if prompt.box is not None:
        mask |= disk((prompt.box[0] + prompt.box[2]) / 2, (prompt.box[1] + prompt.box[3]) / 2, 25)
    return found(mask, 0.9)


def clicks(lesion=(), background=(), box=None):
    return Prompt((*lesion, *background), (1,) * len(lesion) + (0,) * len(background), box)


def test_without_a_prompt_it_is_the_models_answer():
    assert np.array_equal(guided(AUTOMATIC, model).mask, model(AUTOMATIC).mask)


def test_a_click_on_a_missed_lesion_adds_it_and_leaves_the_others():
    answer = guided(clicks([MIDDLE]), model)
    assert np.array_equal(answer.mask, disk(*LEFT, 8) | disk(*MIDDLE, 10) | disk(*RIGHT, 8))
    assert answer.uncertainty[30, 50] == pytest.approx(0.9, abs=0.01), (
        "near the click the map is that of the click's answer"
    )
    assert answer.uncertainty[30, 20] == pytest.approx(0.5, abs=0.01)
    assert 0.5 < answer.score < 0.9


def test_a_click_on_a_marked_lesion_outlines_that_one_anew():
    assert np.array_equal(guided(clicks([LEFT]), model).mask, disk(*LEFT, 10) | disk(*RIGHT, 8))


def test_clicks_on_two_lesions_are_two_questions():
    asked = []

    def noted(prompt):
        asked.append(prompt)
        return model(prompt)

    answer = guided(clicks([MIDDLE, RIGHT]), noted)
    assert np.array_equal(answer.mask, disk(*LEFT, 8) | disk(*MIDDLE, 10) | disk(*RIGHT, 10))
    assert [prompt.points for prompt in asked] == [(), (MIDDLE,), (RIGHT,)]


def test_a_second_click_on_the_same_lesion_belongs_to_it():
    asked = []

    def noted(prompt):
        asked.append(prompt)
        return model(prompt)

    beside = (MIDDLE[0] + 4, MIDDLE[1])
    guided(clicks([MIDDLE, beside]), noted)
    assert asked[-1].points == (MIDDLE, beside)


def test_a_click_on_background_takes_away_the_piece_it_stands_on():
    answer = guided(clicks(background=[RIGHT]), model)
    assert np.array_equal(answer.mask, disk(*LEFT, 8))
    assert np.array_equal(answer.initial_mask, disk(*LEFT, 8))
    assert np.array_equal(answer.final_probability > 0.5, answer.mask)


def test_a_click_on_background_beside_everything_changes_nothing():
    assert np.array_equal(guided(clicks(background=[(50, 55)]), model).mask, model(AUTOMATIC).mask)


def test_background_cuts_a_lesion_that_was_clicked_on():
    beside = (LEFT[0] + 6, LEFT[1])
    answer = guided(clicks([LEFT], [beside]), model)
    assert np.array_equal(answer.mask, (disk(*LEFT, 10) & (LEFT[0] + 3 >= COLUMNS)) | disk(*RIGHT, 8))


def test_a_box_keeps_its_answer_inside_itself_and_a_margin():
    box = (40, 20, 60, 40)
    answer = guided(clicks(box=box), model)
    margin = BOX_MARGIN * 20
    assert answer.mask.any()
    assert not answer.mask[(40 - margin > COLUMNS) | (60 + margin < COLUMNS)].any()
    assert not answer.mask[(20 - margin > ROWS) | (40 + margin < ROWS)].any()
    outside = guided(clicks([LEFT], box=box), model)
    assert np.array_equal(outside.mask, answer.mask | disk(*LEFT, 10)), "a click elsewhere adds a lesion"


@pytest.mark.parametrize("click", [LEFT, MIDDLE])
def test_a_model_that_sees_nothing_there_changes_nothing(click):
    def blind(prompt):
        return model(AUTOMATIC) if prompt == AUTOMATIC else found(np.zeros(SHAPE, bool))

    assert np.array_equal(guided(clicks([click]), blind).mask, model(AUTOMATIC).mask)


@pytest.mark.parametrize("point", [(0, 0), (SHAPE[1], SHAPE[0])])
def test_clicks_on_the_edge_are_inside(point):
    assert guided(clicks([point]), model).mask[min(int(point[1]), 59), min(int(point[0]), 99)]


def test_strokes_paint_and_erase_in_their_order():
    answer = painted(model(AUTOMATIC), (Stroke((MIDDLE, (55, 30)), 4), Stroke((LEFT,), 3, erase=True)))
    assert answer.mask[30, 50:56].all()
    assert answer.mask[27:33, 50].all()
    assert not answer.mask[24, 50]
    assert not answer.mask[28:32, 18:22].any()
    assert answer.mask[30, 26], "what the eraser did not touch"
    assert np.array_equal(answer.final_probability > 0.5, answer.mask)
    assert painted(model(AUTOMATIC), (Stroke((RIGHT,), 30, erase=True), Stroke((RIGHT,), 2))).mask[30, 80]


@pytest.mark.parametrize("radius", [0.5, 1, 3.5, 12])
def test_a_dab_is_a_disk(radius):
    empty = found(np.zeros(SHAPE, bool))
    area = painted(empty, (Stroke(((50.5, 30.5),), radius),)).mask.sum()
    assert area == pytest.approx(np.pi * radius**2, rel=0.25, abs=1)
