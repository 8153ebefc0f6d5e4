"""slowfast-zoo features: a file for each video, and going on where it was stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from videos import write_video

from slowfast_zoo import VideoClassifier
from slowfast_zoo.cli import features


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    (folder / "day").mkdir()
    for name in ("a.mp4", "day/a.mp4"):
        write_video(folder / name, 45, width=64, height=48, fps=15)
    return folder


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    features.add_command(parser.add_subparsers())
    args = parser.parse_args(["features", *map(str, words)])
    code: int = args.run(args)
    return code


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_one_file_a_video(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "features"
    assert run(videos, "--output", out, "--window", 32, "--stride", 8) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out / 'a.npz'}  8 x 576", f"{out / 'day' / 'a.npz'}  8 x 576", "2 written, 0 there already, 0 failed"
    ]  # fmt: skip
    expected = VideoClassifier().extract_features(videos / "a.mp4", 32, 8)
    with np.load(out / "a.npz") as arrays:
        np.testing.assert_allclose(arrays["features"], expected.features, atol=1e-5)
        np.testing.assert_array_equal(arrays["times"], expected.times)
        settings = json.loads(str(arrays["settings"]))
    assert settings == {
        "model": "slowfast_tiny_4x8.motion", "window": 32, "stride": 8, "fps": 30.0, "crops": 1, "cover_end": False,
        "dtype": "float32",
    }  # fmt: skip
    assert set(contents(out)) == {"a.npz", "day/a.npz"}


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_it_goes_on_where_it_was_stopped(
    videos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [videos, "--output", tmp_path, "--format", kind, "--fps", "native", "--cover-end"]
    assert run(*words) == 0
    first = contents(tmp_path)
    (tmp_path / "day" / f"a.{kind}").unlink()
    capsys.readouterr()
    assert run(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["written"] == {str(videos / "day" / "a.mp4"): str(tmp_path / "day" / f"a.{kind}")}
    assert report["there"] == {str(videos / "a.mp4"): str(tmp_path / f"a.{kind}")}
    assert report["failed"] == []
    assert report["settings"]["fps"] is None
    assert set(contents(tmp_path)) == set(first)
    if kind == "npy":
        assert contents(tmp_path) == first
        beside = json.loads((tmp_path / "a.json").read_text())
        assert beside["settings"] == report["settings"]
        assert len(beside["times"]) == len(np.load(tmp_path / "a.npy"))


def test_other_settings_are_no_going_on(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [videos / "a.mp4", "--output", tmp_path]
    assert run(*words) == 0
    old = contents(tmp_path)
    with pytest.raises(ValueError, match=r"a\.npz is there already with other settings \(stride 16 instead of 32\)"):
        run(*words, "--stride", 32)
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "a.npz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not of this command: name another folder, or give --overwrite"):
        run(videos, "--output", tmp_path)
    assert contents(tmp_path) == {**old, "day/a.npz": b"something else"}
    assert run(videos, "--output", tmp_path, "--stride", 32, "--overwrite") == 0
    for name in ("a.npz", "day/a.npz"):
        with np.load(tmp_path / name) as arrays:
            assert json.loads(str(arrays["settings"]))["stride"] == 32


def test_bad_files_are_left_out(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    names = [tmp_path / "text.mp4", videos / "a.mp4", tmp_path / "gone.mp4"]
    assert run(*names, "--output", tmp_path / "out", "--json") == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["failed"] == [str(names[0]), str(names[2])]
    bad = output.err.splitlines()
    assert len(bad) == 2
    assert "cannot decode video" in bad[0]
    assert bad[1] == f"slowfast-zoo: error: no such video file: {names[2]}"
    assert list(contents(tmp_path / "out")) == ["a.npz"]


def test_a_short_video_is_told_of(videos: Path, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"a\.mp4 is shorter than a window, its last frame was repeated"):
        assert run(videos / "a.mp4", "--output", tmp_path, "--window", 200) == 0


def test_a_wrong_setting_is_the_whole_commands(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="window must be an integer of at least 1"):
        run(videos, "--output", tmp_path / "out", "--window", 0)
    assert not (tmp_path / "out").exists()
