"""pages/sheets.py: where each picture lies on a sheet, and what is written on it."""

import numpy as np
import pytest
from PIL import Image

from pages.sheets import TITLE_PX, draw_sheet


def plain(colour: str, size: tuple[int, int] = (10, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_pictures_lie_row_by_row_in_square_cells():
    sheet = draw_sheet([[plain("red"), plain("blue", (5, 40))], [plain("white")]], cell_px=20)
    assert sheet.size == (40, 40)
    corners = [sheet.getpixel(place) for place in ((0, 0), (39, 0), (19, 39), (39, 39))]
    assert corners == [(255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    assert draw_sheet([[plain("red")]], cell_px=20, columns=3).size == (60, 20)


def test_with_a_margin_pictures_keep_their_proportions():
    sheet = np.asarray(draw_sheet([[plain("black", (10, 20))]], cell_px=44, background="white", margin_px=2))
    dark = np.argwhere(sheet.sum(axis=2) == 0)
    assert dark.min(axis=0).tolist() == [2, 12] and dark.max(axis=0).tolist() == [41, 31]


@pytest.mark.parametrize(("settings", "top"), [({"title": "SIMULATED faces"}, TITLE_PX), ({"labels": ["AAR.1"]}, 0)])
def test_title_and_labels_are_written(settings, top):
    rows = [[plain("white", (100, 100))]]
    sheet, bare = (draw_sheet(rows, 100, background="white", **each) for each in (settings, {}))
    assert sheet.size == (100, 100 + top)
    assert (np.asarray(bare) == 255).all() and (np.asarray(sheet) < 100).any()
