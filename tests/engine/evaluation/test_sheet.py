"""The sheet shows every picture it was given, in its row and column."""

import numpy as np

from likeness_portraits.engine.evaluation.sheet import GAP, LABEL_WIDTH, MARGIN, SheetRow, draw_sheet


def plain(red: int, green: int = 0) -> np.ndarray:
    return np.full((16, 16, 3), (red, green, 0), np.uint8)


def test_every_picture_stands_in_its_row_and_column():
    rows = [
        SheetRow(label="learned from", pictures=[plain(10), plain(20)]),
        SheetRow(
            label="after",
            detail="same seeds",
            pictures=[plain(30), plain(40), plain(50)],
            notes=["0.1", "0.2", "0.3"],
        ),
    ]
    sheet = np.asarray(draw_sheet("Title", "subtitle", rows, ["a photo of <v0>"] * 3, tile=64))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert {(shade, 0, 0) for shade in (10, 20, 30, 40, 50)} <= colours
    centres = [
        [tuple(np.argwhere((sheet == (shade, 0, 0)).all(-1)).mean(0)) for shade in shades]
        for shades in ((10, 20), (30, 40, 50))
    ]
    first, second = centres
    assert first[0][0] == first[1][0] < second[0][0] == second[2][0]
    assert first[0][1] == second[0][1] == MARGIN + LABEL_WIDTH + 31.5
    assert second[1][1] - second[0][1] == 64 + GAP


def test_the_sheet_grows_with_its_columns_and_rows():
    one = draw_sheet("t", "s", [SheetRow(label="a", pictures=[plain(1)])], tile=50)
    more = draw_sheet("t", "s", [SheetRow(label="a", pictures=[plain(1)] * 4)] * 3, tile=50)
    assert more.width == one.width + 3 * (50 + GAP)
    assert more.height == one.height + 2 * (50 + GAP)
