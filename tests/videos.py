"""Small video files for the tests, each frame carrying its own index as a bar code that survives compression."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

BITS = 8


def coded_image(index: int, width: int = 128, height: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB (H, W, 3): the index in eight black or white bars over the upper half, red left and blue right below."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[: height // 2, left:right] = 235 if index >> bit & 1 else 20
    image[height // 2 :, : width // 2, 0] = 220
    image[height // 2 :, width // 2 :, 2] = 220
    return image


def read_code(pixels: Any) -> int:
    """The index in a frame (3, H, W) made by :func:`coded_image`."""
    _, height, width = pixels.shape
    index = 0
    for bit in range(BITS):
        centre = (2 * bit + 1) * width // (2 * BITS)
        patch = pixels[:, height // 8 : 3 * height // 8, centre - 2 : centre + 2]
        index |= int(float(patch.float().mean()) > 128) << bit
    return index


def write_video(
    path: Path,
    frames: int = 60,
    *,
    fps: int | Fraction = 30,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    width: int = 128,
    height: int = 96,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    audio_seconds: float = 0.0,
    bt709: bool = False,
    full_range: bool = False,
) -> Path:
    """Write a video of coded frames.

    Args:
        path: where; its suffix chooses the container.
        stamps: presentation time stamps in units of ``time_base``; evenly spaced at ``fps`` unless given.
        rotation: degrees counter-clockwise that a player should turn the picture.
        audio_seconds: length of a silent audio track beside it.
        bt709: convert by the matrix of high definition, and say so, instead of by that of standard definition.
        full_range: use all values for brightness, and say so, instead of 16 to 235.
    """
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = options or {}
        if time_base is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        if bt709:
            stream.codec_context.colorspace = 1
        if full_range:
            stream.codec_context.color_range = 2
        if rotation:
            stream.set_display_rotation(rotation)
        if audio_seconds:
            add_silence(container, audio_seconds)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(coded_image(index, width, height), format="rgb24")
            if bt709 or full_range:
                matrix, span = "ITU709" if bt709 else "ITU601", "JPEG" if full_range else "MPEG"
                frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=span)
            frame.time_base = time_base or 1 / Fraction(fps)
            frame.pts = index if stamps is None else stamps[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_silence(container: Any, seconds: float) -> None:
    """Mux a silent mono AAC track of some length."""
    stream = container.add_stream("aac", rate=16000, layout="mono")
    for number in range(int(seconds * 16000) // 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, number * 1024, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_audio_only(path: Path) -> Path:
    """Write a file with an audio track and nothing else."""
    with av.open(str(path), "w") as container:
        add_silence(container, 1.0)
    return path


def trim(path: Path, first: int, last: int) -> Path:
    """Let the edit list of a video that :func:`write_video` wrote as MP4 at 30 fps show some of its frames only."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 4
    start = struct.unpack_from(">4xIIi", content, place)[2]
    struct.pack_into(">Ii", content, place + 8, (last - first + 1) * 1000 // 30, start + 512 * first)
    path.write_bytes(bytes(content))
    return path


def set_matrix(path: Path, matrix: Sequence[int]) -> Path:
    """Let an MP4 file say, by a matrix (a, b, c, d), that a player should take a point (x, y) to (ax + cy, bx + dy)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        struct.pack_into(">i", content, place + offset, value << 16)
    path.write_bytes(bytes(content))
    return path


def decoded(path: Path, fps: float | None = None) -> list[tuple[float, Tensor]]:
    """Every frame of a full sequential decode: (seconds from the first frame, uint8 RGB (3, H, W)).

    Args:
        fps: counts frames at this rate, for a file without stamps.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [
            (
                index / fps if fps else float(frame.pts * stream.time_base),
                torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1),
            )
            for index, frame in enumerate(container.decode(stream))
        ]
    return [(time - shown[0][0], pixels) for time, pixels in shown]
