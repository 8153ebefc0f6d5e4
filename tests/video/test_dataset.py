"""Lists and folders of videos as spreadsheets, pandas and people make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slowfast_zoo.cli.videos import find_videos
from slowfast_zoo.finetuning.data import read_data, warn_of
from slowfast_zoo.video.dataset import labels_in_list, read_class_folders, read_dataset

CLASSES = ("run", "swim", "walk")
RIGHT = [("a.mp4", (0,)), ("b c.mp4", (2,))]


def read(folder: Path, text: str | bytes) -> list[tuple[str, tuple[int, ...]]]:
    for name in ("a.mp4", "b c.mp4"):
        (folder / name).touch()
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(entry.name, entry.targets) for entry in read_dataset(path, CLASSES)]


@pytest.mark.parametrize(
    "text",
    [
        "Video Path;Class Name\na.mp4;run\nb c.mp4;walk\n",
        "a.mp4;0\nb c.mp4;2\n",
        "sep=;\na.mp4;0\nb c.mp4;2\n",
        "filename\tcategory\na.mp4\trun\nb c.mp4\twalk\n",
        ",path,label\n0,a.mp4,0\n1,b c.mp4,2\n",
        "0,a.mp4,run\n1,b c.mp4,walk\n",
        "0,1\na.mp4,0\nb c.mp4,2\n",
        ",0,1\n0,a.mp4,0\n1,b c.mp4,2\n",
        "path,label\na.mp4,0.0\nb c.mp4,2.0\n",
        "a.mp4,0.0\nb c.mp4,2.0\n",
        "# made by hand\na.mp4,run\n  # the second\nb c.mp4,walk\n",
        "clip,target,split\na.mp4,run,val\nb c.mp4,walk,val\n",
        "id,path,label\n17,a.mp4,0\n18,b c.mp4,2\n",
        "path,start,end,label\na.mp4,,,0\nb c.mp4,,,2\n",
        '"path","label"\r\n"a.mp4","run"\r\n"b c.mp4","walk"\r\n',
        "path,label\na.mp4,run\nb c.mp4,walk\n".encode("utf-16"),
        "path,label\na.mp4,run\nb c.mp4,walk\n".encode("utf-8-sig"),
    ],
)
def test_lists_are_read_however_they_were_written(text: str | bytes, tmp_path: Path) -> None:
    assert read(tmp_path, text) == RIGHT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label,start_frame,end_frame\na.mp4,run,0,30\n",
            "line 1: the column 'start_frame' does not count seconds",
        ),
        ("path,start_ms,end_ms,label\na.mp4,0,30,run\n", "line 1: the column 'start_ms' does not count seconds"),
        ("a.mp4,0.0,2.5,1\na.mp4,2.5,5.0,1\n", "line 1: this seems to name a part of a video"),
        ("path,start,end,label\na.mp4,soon,2,run\n", "line 2: 'soon' is no time: expected seconds"),
        ("path,start,end,label\na.mp4,1,2,run\na.mp4,4,2,run\n", "line 3: a segment begins .* not from 4 s to 2 s"),
        ("path,start,end,label\na.mp4,-1,2,run\n", "line 2: a segment begins at 0 s or later"),
        ("path,label\nb, c.mp4,walk\n", "line 2: there are 3 cells, and 2 in the header"),
        ("footage,what\na.mp4,run\n", "line 1: 'footage, what' is no path and label"),
        ("footage,label\na.mp4,run\n", "line 1: no column path"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_class_names_are_found_behind_any_header(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("filename;action\na.mp4;walk\nb.mp4;run\n")
    assert labels_in_list(path) == ("run", "walk")
    path.write_text("a.mp4;walk\nb.mp4;run\n")
    assert labels_in_list(path) == ("run", "walk")
    path.write_text("path,label\na.mp4,0.0\nb.mp4,1.0\n")
    assert labels_in_list(path) is None


def videos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("val", ["validation", "valid", "val", "dev", "Val"])
def test_parts_of_a_data_folder_are_no_classes(val: str, tmp_path: Path) -> None:
    names = [f"{part}/{label}/{i}.mp4" for part in ("Train", val, "TEST") for label in ("run", "walk") for i in "12"]
    videos(tmp_path, *names, ".ipynb_checkpoints/a.mp4", "__MACOSX/Train/run/1.mp4", "Train/.gitkeep")
    videos(tmp_path, "Train/.ipynb_checkpoints/x.mp4", "Train/run/.DS_Store", "Train/run/Thumbs.db")
    data = read_data(tmp_path)
    assert data.labels == ("run", "walk")
    assert {Path(entry.video).relative_to(tmp_path).parts[0] for entry in data.val} == {val}
    assert (len(data.train), len(data.val)) == (4, 4)


def test_two_parts_to_validate_on_are_not_guessed_at(tmp_path: Path) -> None:
    videos(tmp_path, *(f"{part}/{label}/1.mp4" for part in ("train", "val", "valid") for label in ("run", "walk")))
    with pytest.raises(ValueError, match="val and valid"):
        read_data(tmp_path)


def test_paths_and_pairs_from_python() -> None:
    paths = [Path(f"clips/{label}/{i}.mp4") for label in ("run", "walk") for i in range(5)]
    data = read_data(paths)
    assert data.labels == ("run", "walk")
    assert {(entry.video, entry.targets) for entry in (*data.train, *data.val)} == {
        (str(path), (int(path.parent.name == "walk"),)) for path in paths
    }
    named = read_data([(path, path.parent.name) for path in paths], labels=["walk", "run"])
    assert all(named.labels[entry.targets[0]] in entry.video for entry in named.train)
    numbered = read_data([(str(path), i % 2) for i, path in enumerate(paths)])
    assert (numbered.labels, numbered.named) == (("class 0", "class 1"), False)
    with pytest.raises(TypeError, match="expected a path, a pair"):
        read_data([("a.mp4", 1.5), ("b.mp4", 0)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names or indices, not both"):
        read_data([("a.mp4", 1), ("b.mp4", "run")])  # type: ignore[arg-type]


def test_a_class_that_validation_never_sees_is_mentioned() -> None:
    train = [(f"{i}.mp4", label) for i, label in enumerate(("run", "walk", "run", "walk"))]
    data = read_data(train, [("9.mp4", "run")], labels=["run", "walk"])
    with pytest.warns(UserWarning, match="1 of the 2 classes have no video to validate on: walk"):
        warn_of(data, flip=False)


def test_links_to_folders_are_followed_and_loops_visited_once(tmp_path: Path) -> None:
    elsewhere = videos(tmp_path / "elsewhere", "x.mp4", "deep/y.gif", "z.h264")
    folder = videos(tmp_path / "clips", "run/a.mp4")
    (folder / "run" / "linked").symlink_to(elsewhere)
    (folder / "run" / "back").symlink_to(folder)
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    expected = sorted(f"run/{name}" for name in ("a.mp4", "linked/x.mp4", "linked/z.h264", "linked/deep/y.gif"))
    assert sorted(os.path.relpath(video, folder) for video in find_videos([str(folder)])) == expected
    found = [entry.name for entry in read_class_folders(folder / "run" / "back")[0]]
    assert sorted(found) == expected


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = videos(tmp_path, "run/a.mp4", "run/closed/b.mp4")
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)  # permissions do not stop the administrator
    with pytest.raises(PermissionError, match="closed"):
        read_class_folders(folder)
    with pytest.raises(PermissionError, match="closed"):
        find_videos([str(folder)])
