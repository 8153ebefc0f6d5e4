"""The command line, as a real process where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli import main


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "two seconds.mp4", 60)


def run(*words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slowfast_zoo", *map(str, words)]
    settings = {"capture_output": True, "encoding": "utf-8", "timeout": 300, **settings}
    return subprocess.run(command, **settings)


def test_predict(video: Path, tmp_path: Path) -> None:
    picture = tmp_path / "result.png"
    done = run("predict", video, "--clips", 3, "--crops", 1, "--top-k", 4, "--plot", picture)
    assert done.returncode == 0
    assert done.stderr == f"wrote {picture}\n"
    lines = done.stdout.splitlines()
    assert lines[:3] == [str(video), "2.00 s, slowfast_tiny_4x8.motion, 3 clips x 1 crop", ""]
    classes, clips = lines[3:7], lines[8:]
    assert all(line.count("\u2588") + line.count("\u2591") == 30 and line.endswith(" %") for line in classes)
    assert [line.split("s")[0].strip() for line in clips] == ["0.00 to 1.07", "0.47 to 1.53", "0.93 to 2.00"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_predict_json_goes_on_after_bad_files(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    words = (tmp_path / "text.mp4", video, tmp_path / "nowhere.mp4")
    done = run("predict", *words, "--clips", 2, "--crops", 1, "--json")
    assert done.returncode == 2
    [result] = json.loads(done.stdout)
    assert result["video"] == str(video)
    assert len(result["predictions"]) == 5
    assert [round(clip["start"], 2) for clip in result["clips"]] == [0.0, 0.93]
    bad = done.stderr.splitlines()
    assert len(bad) == 2
    assert bad[0].startswith("slowfast-zoo: error: cannot decode video")
    assert "text.mp4" in bad[0]
    assert bad[1] == f"slowfast-zoo: error: no such video file: {tmp_path / 'nowhere.mp4'}"


def test_predict_the_sample_where_only_ascii_can_be_printed() -> None:
    done = run("predict", "--sample", "--clips", 1, "--crops", 1, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "camera_moves.mp4" in done.stdout
    assert "#" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict"], "give a video file, or --sample"),
        (["predict", "VIDEO", "--model", "slowfast_r50_4x17"], "did you mean slowfast_r50_4x16"),
        (["predict", "VIDEO", "--model", "fast_r50_4x16"], "no pretrained weights"),
        (["predict", "VIDEO", "b.mp4", "--plot", "a.png"], "--plot a.png names one file, but 2 videos were given"),
        (["predict", "VIDEO", "--plot", "a.txt"], "the suffix must be one of"),
        (["predict", "VIDEO", "--plot", "nowhere/a.png"], "no folder to draw into: nowhere"),
        (["predict", "VIDEO", "--clips", "0"], "clips must be an integer of at least 1"),
        (["predict", "VIDEO", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["predict", "VIDEO", "--crops", "2"], "invalid choice: 2"),
        (["list", "nonsense"], "no model matches 'nonsense'"),
        (["info", "slowfast_r50_4x17"], "did you mean slowfast_r50_4x16"),
        (["info"], "the following arguments are required: MODEL"),
        ([], "the following arguments are required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main([str(video) if word == "VIDEO" else word for word in words])
    except SystemExit as stopped:
        code = stopped.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("slowfast-zoo")
    assert message in output.err


def test_a_damaged_video_is_a_one_line_warning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 150, options={"g": "12"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    done = run("predict", path, "--clips", 1, "--crops", 1)
    assert done.returncode == 0
    assert done.stderr.startswith(f"slowfast-zoo: warning: video {str(path)!r} is damaged")
    assert done.stderr.count("\n") == 1


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sfz.list_models()
    assert "32 frames, 2.13 s  256 x 256" in next(line for line in lines if "slowfast_r50_8x8" in line)
    assert main(["list", "r101*16x8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == sfz.list_models("r101*16x8")
    assert main(["list", "--pretrained"]) == 0
    assert "slowfast_tiny_4x8.motion" in capsys.readouterr().out


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "slowfast_r50_4x16"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "32 frames" in text
    assert "36.1" in text  # Table 2: 36.1 GFLOPs
    assert main(["info", "slowfast_tiny_4x8.motion", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model: Any = sfz.create_model("slowfast_tiny_4x8.motion")
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["labels"][0] == "static"
    assert facts["weights"]["sha256"]
    assert main(["info", "slowfast_tiny_4x8.motion"]) == 0
    assert facts["weights"]["sha256"] in capsys.readouterr().out


def test_version_and_help() -> None:
    assert run("--version").stdout == f"slowfast-zoo {sfz.__version__}\n"
    code = """
import sys
from slowfast_zoo.cli.main import main
try:
    main(["predict", "--help"])
finally:
    heavy = {"av", "matplotlib", "timm", "torchvision", "huggingface_hub", "safetensors"} & set(sys.modules)
    print("heavy:", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--top-k" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = run("list", capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    assert done.stderr == ""
    assert done.returncode == 141
