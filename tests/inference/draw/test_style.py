"""What all pictures have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slowfast_zoo.inference.draw import style


def test_drawing_is_imported_only_when_something_is_drawn() -> None:
    code = "import sys; import slowfast_zoo.inference, slowfast_zoo.inference.draw.heat as _; "
    code += "print([name for name in ('matplotlib', 'PIL', 'av', 'torchvision') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(KeyError), style.drawn_picture(tmp_path / "a.png"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with style.drawn_picture(tmp_path / "a.png") as figure:
        figure.set_size_inches(4, 4)
        place = style.add_panel(figure, 1, 0.5, 2, 3).get_position()
    assert (place.x0, place.width) == (0.25, 0.5)
    assert (place.y0, place.height) == pytest.approx((0.125, 0.75))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_frames_at_another_height() -> None:
    frame = torch.full((3, 30, 41), 7, dtype=torch.uint8)
    small = style.at_height(frame, 10)
    assert small.shape == (3, 10, 14) and small.dtype == torch.uint8 and bool((small == 7).all())
    assert style.at_height(frame.float(), 10).dtype == torch.float32


def test_a_class_has_one_colour() -> None:
    labels = [f"class {index}" for index in range(14)]
    colours = style.colours_of([*labels, *labels])
    assert list(colours) == labels
    assert len(set(colours.values())) == 13, "the last two are gray"
