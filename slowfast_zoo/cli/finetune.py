"""``slowfast-zoo finetune``: a network learns to tell one's own classes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_zoo.finetuning.settings import Settings

from .options import add_model_option, parse_crops
from .text import print_json

if TYPE_CHECKING:
    from slowfast_zoo.finetuning import FinetuneResult

# What of the options the function that does the work is not given by their names.
_OWN = ("run", "data", "model", "output", "labels", "json")
_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "int | str": parse_crops}


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "finetune",
        help="train a model on your own classes",
        description="Train a pretrained model on videos of your own classes, by the paper's recipe scaled to small "
        "data. The networks that are best on the validation videos and last in training are written as folders, which "
        "every other command takes as --model local-dir:FOLDER. When the command is given again, an interrupted "
        "training goes on to the same result. Under torchrun, processes share each step. Videos that cannot be read "
        "are told of and left out; the exit code is then 2, but 0 under torchrun, which ends the other processes where "
        "one fails.",
        argument_default=argparse.SUPPRESS,  # what is not given is left to the function's own defaults
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder with a folder of videos for each class; a folder with the folders train and val, each of that "
        "kind; or a list, a CSV file with the columns path and label, or lines of a path and a label; several labels "
        "of a video are separated by ;",
    )
    add = parser.add_argument
    add(
        "--val",
        type=_parse_share_or_path,
        metavar="DATA",
        help="videos to validate on, or a share from 0 to 1 of DATA's to hold out of each class (default: DATA's "
        "folder val, else 0.2)",
    )
    add("--output", metavar="FOLDER", help="what is written (default: in the current folder, DATA.finetuned)")
    add_model_option(parser, "pretrained model to begin with")
    add("--labels", metavar="FILE", help="names of the classes, one a line, in the order of their indices")
    add("--root", metavar="DIR", help="folder that the paths in lists start from (default: each list's own)")
    add("--json", action="store_true", help="print a JSON object")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--multi-label", action="store_true", help="videos have sets of labels (default: if any has)")
    kind.add_argument("--single-label", action="store_false", dest="multi_label", help="each video has one label")
    add_settings(parser)
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting that belongs to a group."""
    groups: dict[str, Any] = {}
    for setting in fields(Settings):
        about = setting.metadata
        if not (title := about.get("group")):
            continue
        group = groups[title] = groups.get(title) or parser.add_argument_group(title)
        option, meaning = about["option"] or ("--" + setting.name.replace("_", "-"), about["meaning"])
        if isinstance(setting.default, bool):
            action = "store_false" if setting.default else "store_true"
            group.add_argument(option, action=action, dest=setting.name, help=meaning)
            continue
        group.add_argument(
            option,
            type=_TYPES.get(str(setting.type).removesuffix(" | None"), str),
            choices=(about["check"] and about["check"].choices) or None,
            metavar=about["metavar"],
            help=meaning,
        )


def run(args: argparse.Namespace) -> int:
    """Train and print; in several processes, only the first prints."""
    from slowfast_zoo.finetuning import finetune

    settings = {name: value for name, value in vars(args).items() if name not in _OWN}
    if "labels" in args:
        lines = Path(args.labels).read_text(encoding="utf-8-sig").splitlines()
        settings["labels"] = [line.strip() for line in lines if line.strip()]
    output = args.output if "output" in args else f"{Path(args.data).resolve().stem}.finetuned"
    result = finetune(args.model, args.data, output=output, **{"progress": True, **settings})
    among_others = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if os.environ.get("RANK", "0") == "0":
        if "json" in args:
            skipped = [{"video": video, "reason": reason} for video, reason in result.skipped]
            print_json({**vars(result), "best": str(result.best), "last": str(result.last), "skipped": skipped})
        else:
            print(format_result(result), flush=True)
        if result.skipped:
            note = "; the exit code is 0 all the same, for torchrun" if among_others else ""
            print(f"slowfast-zoo: {len(result.skipped)} videos could not be read, see above{note}", file=sys.stderr)
    # Where a process exits with another code than 0, torchrun ends those that are not done yet.
    return 2 if result.skipped and not among_others else 0


def format_result(result: FinetuneResult) -> str:
    """What came out, and where it is."""
    row = result.history[result.best_epoch - 1]
    names = {
        "val_top1": "top-1",
        "val_top5": "top-5",
        "val_mean_class_accuracy": "mean class accuracy",
        "val_mean_average_precision": "mean average precision",
    }
    numbers = [f"{words} {100 * row[name]:.2f} %" for name, words in names.items() if name in row]
    return (
        f"{result.best}: the best on the validation videos, after epoch {result.best_epoch} of {len(result.history)}: "
        f"{', '.join(numbers)}\n"
        f"{result.last}: after the last epoch\n"
        f"to use it: slowfast-zoo predict VIDEO --model local-dir:{result.best}"
    )


def _parse_share_or_path(text: str) -> float | str:
    """Value of --val."""
    try:
        return float(text)
    except ValueError:
        return text
