"""Lists and folders of videos as spreadsheets, pandas and people make them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slowfast_zoo.cli.videos import find_videos
from slowfast_zoo.finetuning.data import read_data, warn_about
from slowfast_zoo.video.dataset import labels_in_list, read_class_folders, read_dataset, read_videos

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
        "Datei;Klasse\na.mp4;run\nb c.mp4;walk\n",
        ";Datei;Klasse\n0;a.mp4;run\n1;b c.mp4;walk\n",
        "\u89c6\u9891,\u6807\u7b7e\na.mp4,run\nb c.mp4,walk\n",
        "path|label\na.mp4|run\nb c.mp4|walk\n",
        "run,a.mp4\nwalk,b c.mp4\n",
        "a.mp4 run\nb c.mp4 walk\n",
        "path,label\na.mp4,0.000e+00\nb c.mp4,2e0\n",
        "path;label\na.mp4;0,0\nb c.mp4;2,0\n",
        "path,label\na.mp4,['run']\nb c.mp4,['walk']\n",
        "path,label\na.mp4,run\npath,label\nb c.mp4,walk\n",
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
        ("footage,what,when\na.mp4,run,monday\n", "line 1: 'footage, what, when' is no path and label"),
        ("footage,what\na.mp4,3\n", "line 1: 'footage, what' is no path and label"),
        ("path,run,swim,walk\na.mp4,1,0,0\n", "line 1: no column label"),
        ("video,onset,offset,label\na.mp4,0,1,run\n", "line 1: the column 'offset' does not count seconds"),
        ("video,first_frame,last_frame,label\na.mp4,0,9,run\n", "line 1: the column 'first_frame'"),
        ("video,start,end_frame,label\na.mp4,0,9,run\n", "line 1: the column 'end_frame'"),
        ("path,label\na.mp4,nan\n", "line 2: expected one label for 'a.mp4', got none"),
        ("a.mp4 1\nb c.mp4 3\n", "line 2: there is no class 3, .*does the list count from 1"),
        ("run/a.mp4 1\nswim/b c.mp4 2\n", "labels seem to count from 1"),
        ("0,a.mp4\n1,b c.mp4\n", "line 1: a count of the lines and a path, but no label"),
        ('{"a.mp4": "run"}', "list.csv is JSON"),
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
    path.write_text("x/a b.mp4 riding a bike\nc.AVI run\n")
    assert labels_in_list(path) == ("riding a bike", "run")
    for text in ("path,label\na.mp4,1\nb.mp4,run\n", "path,label\na.mp4,1.5\nb.mp4,0\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="names or indices, not both|'1.5' is no whole number"):
            labels_in_list(path)


def test_paths_are_read_out_of_lists_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for name in ("a.mp4", "b c.mp4"):
        (tmp_path / name).touch()
    for text in ("a.mp4 0\nb c.mp4 2\n", "a.mp4\nb c.mp4\n", "0,a.mp4\n1,b c.mp4\n", "Datei;Was\na.mp4;x\nb c.mp4;y\n"):
        path.write_text(text)
        assert [entry.name for entry in read_videos(path)] == ["a.mp4", "b c.mp4"]


@pytest.mark.parametrize("names", ["begin,finish", "from,to", "video_start,video_end", "Start [s],End [s]"])
def test_names_of_times(names: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "list.csv"
    path.write_text(f"video,{names},label\na.mp4,0.5,1.5,run\n")
    assert [(entry.start, entry.end) for entry in read_dataset(path, CLASSES)] == [(0.5, 1.5)]


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


def test_parts_beside_other_folders(tmp_path: Path) -> None:
    videos(tmp_path, *(f"{part}/{label}/1.mp4" for part in ("training_set", "val-set", "raw") for label in ("a", "b")))
    with pytest.warns(UserWarning, match="what is in raw is left aside"):
        data = read_data(tmp_path)
    assert (data.labels, len(data.train), len(data.val)) == (("a", "b"), 2, 2)
    (tmp_path / "raw").rename(tmp_path / "test")
    (tmp_path / "training_set").rename(tmp_path / "valid")
    (tmp_path / "val-set").rename(tmp_path / ".val")
    with pytest.raises(ValueError, match="valid and test, but no folder train"):
        read_data(tmp_path)
    vehicles = videos(tmp_path / "vehicles", *(f"{label}/day/{i}.mp4" for label in ("bus", "train") for i in "12"))
    assert read_data(vehicles).labels == ("bus", "train")


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
    with_gaps = read_data((str(path), float(i % 2)) for i, path in enumerate(paths))
    assert with_gaps == numbered
    assert read_data(np.array([(str(path), path.parent.name) for path in paths])).labels == ("run", "walk")
    for wrong in ({str(paths[0]): "run", str(paths[1]): "walk"}, 5, None):
        with pytest.raises(TypeError, match="expected a list or folder of videos"):
            read_data(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no class -1"):
        read_data([("a.mp4", -1), ("b.mp4", 0)])
    with pytest.raises(ValueError, match="the list is empty"):
        read_data([])
    with pytest.raises(TypeError, match="expected a path, a pair"):
        read_data([("a.mp4", 1.5), ("b.mp4", 0)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names or indices, not both"):
        read_data([("a.mp4", 1), ("b.mp4", "run")])  # type: ignore[arg-type]


def test_a_class_that_validation_never_sees_is_mentioned() -> None:
    train = [(f"{i}.mp4", label) for i, label in enumerate(("run", "walk", "run", "walk"))]
    data = read_data(train, [("9.mp4", "run")], labels=["run", "walk"])
    with pytest.warns(UserWarning, match="1 of the 2 classes have no video to validate on: walk"):
        warn_about(data, flip=False)


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
    videos(folder, "walk/b.mp4")
    entries, labels = read_class_folders(folder)
    assert [entry.name for entry in entries if labels[entry.targets[0]] == "run"] == found


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
