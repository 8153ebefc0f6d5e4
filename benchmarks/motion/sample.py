"""Write the bundled sample clip: six camera moves, one after another, each through a scene of its own.

python benchmarks/motion/sample.py slowfast_zoo/video/samples/camera_moves.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.synthetic.motion import generate_motion_video
from slowfast_zoo.video.encode import write_video

MOVES = (
    ("static", 107),
    ("pan_right", 103),
    ("zoom_in", 108),
    ("roll_clockwise", 103),
    ("whip_pan", 108),
    ("shake", 104),
)
SECONDS, FPS, SIZE = 1.5, 30.0, (240, 320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    moves = [generate_motion_video(label, seed, seconds=SECONDS, fps=FPS, size=SIZE)[0] for label, seed in MOVES]
    write_video(target, np.concatenate(moves), FPS, crf=28, preset="veryslow")
    print(f"{target.name}: {len(moves) * SECONDS:g} s, {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
