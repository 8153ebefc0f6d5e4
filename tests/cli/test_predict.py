"""slowfast-zoo predict on many videos: which they are, what is printed, and the files that come out."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from videos import decoded, write_video

from slowfast_zoo.cli import main
from slowfast_zoo.cli.videos import find_videos, output_files

QUICK = ("--clips", "1", "--crops", "1")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos in a folder, two in one within, of which one is none."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "day").mkdir()
    for name in ("a.mp4", "b.mkv", "day/a.mp4"):
        write_video(folder / name, 36, width=64, height=48)
    (folder / "day" / "text.mp4").write_text("not a video")
    return folder


# Which videos


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files, in the working directory."""
    for name in (
        "clips/b.MP4", "clips/a.webm", "clips/notes.txt", "clips/.hidden.mp4", "clips/sub/a.avi", "clips/sub/t.png",
        "clips/.trash/a.mp4", "frames/1.png", "frames/2.png", "shots/one/1.jpg", "shots/two/1.jpg", "odd [1].mp4",
        "plain.bin", "none/readme.md", "x.png", "x.csv", "mp4/v.mp4",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["plain.bin", "gone.mp4"], ["plain.bin", "gone.mp4"]),  # readers tell what is wrong with a file
        (["clips"], ["clips/a.webm", "clips/b.MP4", "clips/sub/a.avi"]),
        (["clips/"], ["clips/a.webm", "clips/b.MP4", "clips/sub/a.avi"]),
        (["frames"], ["frames"]),
        (["shots"], ["shots/one", "shots/two"]),
        (["clips/*"], ["clips/a.webm", "clips/b.MP4", "clips/sub/a.avi"]),
        (["clips/*.txt"], ["clips/notes.txt"]),
        (["**/*.avi"], ["clips/sub/a.avi"]),
        (["s*s"], ["shots/one", "shots/two"]),
        (["odd [1].mp4"], ["odd [1].mp4"]),
        (["odd [[]*.mp4"], ["odd [1].mp4"]),
        (["http://host/a.mp4?x=[1]", "rtsp://host/b"], ["http://host/a.mp4?x=[1]", "rtsp://host/b"]),
        (["clips/b.MP4", "./clips/b.MP4", "clips"], ["clips/b.MP4", "clips/a.webm", "clips/sub/a.avi"]),
        ([], []),
    ],
)
def test_words_to_videos(tree: Path, words: list[str], found: list[str]) -> None:
    assert list(find_videos(words)) == found


def test_a_list_on_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("frames\n\nodd [1].mp4\r\na*.mp4\nhttp://host/a b.mp4"))
    assert list(find_videos(["plain.bin", "-"])) == [
        "plain.bin",
        "frames",
        "odd [1].mp4",
        "a*.mp4",
        "http://host/a b.mp4",
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [("x*.mp4", "no video matches the pattern"), ("none", "neither videos nor images in the folder")],
)
def test_words_without_videos(tree: Path, word: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        find_videos(["clips", word])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["clips"], ["a.npz", "b.npz", "sub/a.npz"]),
        (["clips/*"], ["a.npz", "b.npz", "sub/a.npz"]),
        (["clips/sub/a.avi"], ["a.npz"]),
        (["clips/sub/a.avi", "clips/b.MP4"], ["a.npz", "b.npz"]),
        (["clips/sub/a.avi", "clips/a.webm"], ["sub/a.npz", "a.npz"]),
        (["clips/b.MP4", "clips/b.mkv"], ["b.MP4.npz", "b.mkv.npz"]),
        (["frames"], ["frames.npz"]),
        (["shots"], ["one.npz", "two.npz"]),
        (["http://host:80/x/../../a.mp4?x=1", "plain.bin"], ["a.npz", "plain.bin.npz"]),
        (["http://host/x/a.mp4", "http://host/../y/a.mp4"], ["host/x/a.npz", "host/y/a.npz"]),
        (["http://host"], ["host.npz"]),
    ],
)
def test_names_of_outputs(tree: Path, words: list[str], names: list[str]) -> None:
    files = output_files(find_videos(words), "out", ".npz")
    assert [file.as_posix() for file in files.values()] == [f"out/{name}" for name in names]


def test_outputs_that_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match=r"a\.mp4\?x=1 and .*x=2 would both be written to host/a\.mp4\.npz"):
        output_files(find_videos(["http://host/a.mp4?x=1", "http://host/a.mp4?x=2"]), "out", ".npz")


# What is printed


def test_many_videos_get_a_line_each(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(videos), *QUICK]) == 2
    output = capsys.readouterr()
    head, *lines = output.out.splitlines()
    assert head == "slowfast_tiny_4x8.motion"
    assert [line.split()[-1] for line in lines] == [str(videos / name) for name in ("a.mp4", "b.mkv", "day/a.mp4")]
    assert all(line.index(" %") == 5 and line.count("\u2588") + line.count("\u2591") == 10 for line in lines)
    assert output.err.count("\n") == 1
    assert f"error: cannot decode video '{videos / 'day' / 'text.mp4'}'" in output.err


def test_csv_and_json_lines(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(videos / "a.mp4"), str(videos / "b.mkv")]
    assert main(["predict", *names, *QUICK, "--top-k", "2", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["video"], row["rank"]) for row in rows] == [(name, rank) for name in names for rank in ("1", "2")]
    assert main(["predict", *names, *QUICK, "--top-k", "2", "--jsonl"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["video"] for record in records] == names
    for row, best in zip(rows, [best for record in records for best in record["predictions"]], strict=True):
        assert row["label"] == best["label"]
        assert float(row["score"]) == pytest.approx(best["score"], abs=1e-6)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_with_videos_per_second_on_a_terminal(
    videos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["predict", str(videos / "day"), str(videos / "a.mp4"), *QUICK, "--csv"]) == 2
    shown = sys.stderr.getvalue()
    assert " of 3, " in shown
    assert " videos/s" in shown
    assert "\rslowfast-zoo: error: cannot decode video" in shown, "where the bar was wiped off"
    assert shown.endswith("\r"), "nothing of it is left"
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "--plot", "a.png"], "neither videos nor images in the folder: none"),
        (["clips", "--render", "a.mp4"], "--render a.mp4 names one file, but 3 videos were given: name a folder"),
        (["plain.bin", "--render", "a.gif"], "the suffix must be one of .mp4"),
        (["plain.bin", "--timeline", "a.txt"], "the suffix must be one of"),
        (["plain.bin", "--timeline", "nowhere/a.csv"], "no folder to write into: nowhere"),
        (["mp4", "--render", "mp4/"], "cannot write mp4/v.mp4: that would replace what is read"),
        (["mp4/v.mp4", "--render", "./mp4/v.mp4"], "cannot write mp4/v.mp4: that would replace what is read"),
        (["x.png", "--plot", "x.png"], "cannot write x.png: that would replace what is read"),
        (["x.png", "--timeline", "x.png"], "cannot write x.png: that would replace what is read"),
        (["plain.bin", "x.csv", "--timeline", "x.csv"], "cannot write x.csv: that would replace what is read"),
        (["plain.bin", "--timeline", f"{'x' * 252}.csv"], f"cannot write (File name too long): {'x' * 252}.csv"),
        (["plain.bin", "--window", "2"], "--window and --stride are for --timeline and --render"),
        (["plain.bin", "--timeline", "a.csv", "--stride", "0"], "'0' is not a number above 0"),
        (["plain.bin", "--json", "--csv"], "not allowed with argument"),
        (["-"], "give a video file"),
    ],
)
def test_mistakes(
    tree: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    before = sorted(tree.rglob("*"))
    try:
        code: Any = main(["predict", *words])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err
    assert sorted(tree.rglob("*")) == before


# Files


def test_files_of_one_video(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("times.png", "times.json", "times.csv"):
        words = ["--render", str(tmp_path / "seen.mp4")] if name == "times.png" else []
        words += ["--timeline", str(tmp_path / name), "--window", "0.5", "--stride", "0.4", "--top-k", "2"]
        assert main(["predict", str(videos / "a.mp4"), *QUICK, *words]) == 0
        assert f"wrote {tmp_path / name}\n" in capsys.readouterr().err
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    assert len(decoded(tmp_path / "seen.mp4")) == 36
    [record] = json.loads((tmp_path / "times.json").read_text())
    assert len(record["classes"]) == 2
    with (tmp_path / "times.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["end"]) for row in rows] == [("0.000", "0.500"), ("0.400", "0.900"), ("0.700", "1.200")]
    for row, window in zip(rows, record["windows"], strict=True):
        assert row["video"] == record["video"] == str(videos / "a.mp4")
        assert row["label"] == window["label"]
        assert float(row[row["label"]]) == float(row["score"]) == pytest.approx(window["score"], abs=1e-6)
        assert len(row) == 5 + 12


def test_files_of_several_videos(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(videos / name) for name in ("a.mp4", "b.mkv", "day/text.mp4", "day/a.mp4")]
    words = ["--plot", f"{tmp_path}/plots/", "--timeline", str(tmp_path / "times.csv")]
    assert main(["predict", *names, *QUICK, *words]) == 2
    err = capsys.readouterr().err
    assert f"wrote {tmp_path / 'times.csv'}\nwrote 3 files into {tmp_path}/plots/\n" in err
    plots = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert plots == ["plots/a.png", "plots/b.png", "plots/day/a.png", "times.csv"]
    with (tmp_path / "times.csv").open(newline="") as file:
        assert list(dict.fromkeys(row["video"] for row in csv.DictReader(file))) == [names[0], names[1], names[3]]


def test_nothing_to_write_leaves_what_was_there(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "times.csv"
    old.write_text("what was there before")
    assert main(["predict", str(videos / "day" / "text.mp4"), "--timeline", str(old)]) == 2
    assert "wrote" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [old] and old.read_text() == "what was there before"


def test_a_video_that_cannot_be_shown_fails_alone(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = write_video(tmp_path / "tiny.avi", 3, width=12, height=12, codec="mpeg4")
    assert main(["predict", str(tiny), str(videos / "a.mp4"), *QUICK, "--render", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out.count("slowfast_tiny_4x8.motion, 1 clip") == 2
    assert f"error: {tiny}: H.264 needs even sides of 16 or more, not 12 x 12" in output.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]
