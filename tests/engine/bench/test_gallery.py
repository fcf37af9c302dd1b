"""The Miniature's sheets: rows and columns as announced, files small enough for a README."""

from pathlib import Path

from likeness_portraits.engine.bench import gallery
from likeness_portraits.engine.bench.claims.bench import Bench
from likeness_portraits.engine.miniature import world

SHEETS = Path(gallery.__file__).parents[1] / "miniature" / "sheets"


def test_every_style_has_a_row_and_a_second_time_nothing_is_drawn(tmp_path: Path):
    bench = Bench(tmp_path, sampling_steps=1)
    first = gallery.styles_sheet(bench)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npy")}
    assert len(files) == len(world.STYLE_WORDS)
    assert gallery.styles_sheet(bench).tobytes() == first.tobytes()
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npy")}
    assert (
        first.width > gallery.COLUMNS * gallery.TILE and first.height > len(world.STYLE_WORDS) * gallery.TILE
    )


def test_nobody_on_the_sheets_was_seen_in_training_or_is_reported_on():
    assert set(gallery.GALLERY_PEOPLE) <= set(world.TUNING_SEEDS)


def test_the_shipped_sheets_are_small():
    second = list(SHEETS.glob("second-*.jpg"))
    for sheets in (second, set(SHEETS.glob("*.jpg")) - {*second}):
        assert 0 < sum(file.stat().st_size for file in sheets) < 400_000
