"""Writing a video file with PyAV (H.264 in MP4, Matroska or QuickTime)."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .decode import require_av

SUFFIXES = (".mp4", ".mkv", ".mov")


def write_video(
    path: str | os.PathLike[str],
    frames: ArrayLike,
    fps: float | Fraction,
    *,
    crf: float = 23,
    preset: str = "veryfast",
    keyframe_interval: int | None = None,
    threads: int = 1,
) -> None:
    """Compress frames with H.264 (yuv420p) into a file that is written whole or not at all.

    Args:
        path: file to write; ``.mp4``, ``.mkv`` or ``.mov``. An existing file is replaced.
        frames: uint8 RGB frames (T, H, W, 3), H and W even.
        fps: frames per second; fractions such as ``30000 / 1001`` are kept.
        crf: constant rate factor, 0 (lossless) to 51 (worst).
        preset: x264's speed preset, "ultrafast" to "veryslow".
        keyframe_interval: most frames between key frames; None is x264's own choice.
        threads: encoder threads; 1 makes the file's bytes repeatable.

    Raises:
        ValueError: for frames, a rate, a quality, a preset or a suffix that cannot be encoded.
        FileNotFoundError: when the folder of ``path`` does not exist.
    """
    target = Path(path)
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or len(array) == 0:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, not {array.dtype} {array.shape}")
    height, width = array.shape[1:3]
    if height % 2 or width % 2 or min(height, width) < 16:
        even = f"{max(16, height - height % 2)} x {max(16, width - width % 2)}"
        raise ValueError(f"H.264 needs even sides of 16 or more, not {height} x {width}; crop or pad to {even}")
    if not 0 < float(fps) <= 1000:
        raise ValueError(f"fps must lie between 0 and 1000, not {fps}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must lie between 0 and 51, not {crf}")
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {target.name!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")

    av: Any = require_av()
    options = {"crf": str(crf), "preset": preset, "threads": str(threads)}
    if keyframe_interval is not None:
        options["g"] = str(keyframe_interval)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        with av.open(temporary, "w") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in array:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except av.FFmpegError as error:
        raise ValueError(f"cannot encode {target} (preset {preset!r}): {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
