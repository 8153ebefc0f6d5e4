"""``slowfast-zoo download``, ``convert``, ``publish`` and ``verify``: published weights, from their URL to the Hub."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast_zoo.weights import WeightsRecord


def add_commands(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    parser = commands.add_parser(
        "download",
        help="fetch weights into the cache",
        description="Fetch published weights, verify them, convert them, and keep them in the cache.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="NAME.TAG, NAME for its default weights, or a glob")
    _add_cache_dir(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object of names and files")
    parser.set_defaults(run=run_download)

    parser = commands.add_parser(
        "convert",
        help="write weights as a folder with safetensors, configuration and model card",
        description="Write weights as a folder that create_model('local-dir:FOLDER') reads and a Hub repository holds.",
    )
    _add_conversion(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder to write; it must not exist")
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser(
        "publish",
        help="upload converted weights to the Hugging Face Hub (without --push only tell what would be)",
        description="Convert weights and upload them to NAMESPACE/NAME.TAG on the Hugging Face Hub. Without --push "
        "nothing is uploaded.",
    )
    _add_conversion(parser)
    parser.add_argument(
        "--namespace",
        default=os.environ.get("SLOWFAST_ZOO_HUB_NAMESPACE"),
        help="user or organisation on the Hub (default: $SLOWFAST_ZOO_HUB_NAMESPACE)",
    )
    parser.add_argument("--push", action="store_true", help="really upload")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=run_publish)

    parser = commands.add_parser(
        "verify",
        help="compare the cache with the manifest",
        description="Read the weights on this machine, those in the package included, and compare their hashes.",
    )
    parser.add_argument("names", nargs="*", default=["*"], metavar="NAME", help="as for download (default: all)")
    _add_cache_dir(parser)
    parser.set_defaults(run=run_verify)


def run_download(args: argparse.Namespace) -> int:
    """Fetch and print the files; what fails among several is told of and skipped."""
    from slowfast_zoo.errors import WeightsError
    from slowfast_zoo.storage.cache import DiskError
    from slowfast_zoo.weights import find_weights

    from .text import in_one_line

    files, failed = {}, False
    for record in _select(args.names):
        try:
            files[record.name] = str(find_weights(record, args.cache_dir))
        except DiskError:
            raise  # the next one would not fit either
        except WeightsError as error:
            print(f"slowfast-zoo: error: {in_one_line(error)}", file=sys.stderr)
            failed = True
            continue
        if not args.json:
            print(f"{record.name}  {files[record.name]}", flush=True)
    if args.json:
        print(json.dumps(files, indent=2))
    return 2 if failed else 0


def run_convert(args: argparse.Namespace) -> int:
    """Write the folder and print what is in it."""
    target = Path(args.output)
    if target.exists():
        raise ValueError(f"{args.output!r} exists already: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / target.name
        _write_folder(args, folder, f"local-dir:{args.output}")
        folder.replace(target)
    _print_files(target)
    return 0


def run_publish(args: argparse.Namespace) -> int:
    """Convert, tell what the repository holds, upload if asked, and print what the manifest then says."""
    from slowfast_zoo.models.saved import WEIGHTS_FILE, upload
    from slowfast_zoo.weights.manifest import read_manifest

    if not args.namespace or "/" in args.namespace:
        raise ValueError(
            "give --namespace, or set SLOWFAST_ZOO_HUB_NAMESPACE: the Hub's user or organisation to publish under"
        )
    repo = f"{args.namespace}/{args.name}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_folder(args, folder, f"hf-hub:{repo}")
        _print_files(folder)
        size, sha256 = _size_and_hash(folder / WEIGHTS_FILE)
        if not args.push:
            print(f"not uploaded to {repo}: this was a dry run, --push uploads", file=sys.stderr)
            revision = "<the commit>"
        else:
            revision = upload(repo, folder, private=args.private or None, commit_message=f"Add {args.name}")
            print(f"uploaded to {repo}", file=sys.stderr)
    hub = {"repo": repo, "file": WEIGHTS_FILE, "revision": revision}
    entry = {**read_manifest()["weights"][args.name], "hub": hub, "sha256": sha256, "bytes": size}
    print("its entry in weights_manifest.json, then:")
    print(json.dumps({args.name: entry}, indent=2, ensure_ascii=False))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Print a line for each file, and fail if one is not what it should be."""
    from slowfast_zoo.weights.source import verify_cached

    found = bad = 0
    for record in _select(args.names):
        for file in verify_cached(record, args.cache_dir):
            found += 1
            bad += file.problem is not None
            print(
                f"{'ok' if file.problem is None else 'BAD':<4} {record.name}  {file.path}"
                + (f"  {file.problem}" if file.problem else "")
            )
    print(f"{found} file{'s' * (found != 1)}, {bad} bad", file=sys.stderr)
    return 2 if bad else 0


def _add_cache_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir", metavar="FOLDER", help="where weights are kept (default: the Hub client's cache, HF_HOME)"
    )


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a set of weights, NAME.TAG")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="the publisher's file (default: found as always, downloaded if need be)"
    )
    _add_cache_dir(parser)


def _select(names: list[str]) -> list[WeightsRecord]:
    """The records that names and patterns stand for, each once.

    Raises:
        ValueError: one of them stands for none.
    """
    from slowfast_zoo.factory import list_models, resolve
    from slowfast_zoo.weights import default_record, records

    chosen: dict[str, WeightsRecord] = {}
    for name in names:
        if any(c in name for c in "*?["):
            matches = list_models(name, pretrained=True)
            if not matches:
                raise ValueError(f"no set of weights matches {name!r}; slowfast-zoo list --pretrained shows all")
        else:
            architecture, record = resolve(name)
            record = record or default_record(architecture)
            if record is None:
                raise ValueError(f"{name} has no published weights; slowfast-zoo list --pretrained shows all")
            matches = [record.name]
        chosen.update({match: records()[match] for match in matches})
    return list(chosen.values())


def _write_folder(args: argparse.Namespace, folder: Path, name: str) -> None:
    """What a repository on the Hub holds: tensors, configuration and record, model card."""
    from slowfast_zoo.factory import create_model
    from slowfast_zoo.models.saved import WEIGHTS_FILE
    from slowfast_zoo.utils.files import file_hash
    from slowfast_zoo.weights import convert_file, find_weights, records, save_pretrained
    from slowfast_zoo.weights.source import check_source, source_sha256

    if args.name not in records():
        raise ValueError(f"{args.name!r} is no set of weights; slowfast-zoo list --pretrained shows all")
    record = records()[args.name]
    sha256: str | None = None
    if args.checkpoint:
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f"no checkpoint at {args.checkpoint!r}")
        check_source(record, Path(args.checkpoint))
        convert_file(args.checkpoint, record)  # which is strict about the layout too
        sha256 = file_hash(Path(args.checkpoint))
    weights: Any = args.checkpoint or find_weights(record, args.cache_dir, from_hub=False)
    model: Any = create_model(args.name, checkpoint_path=weights)
    if not args.checkpoint:
        sha256 = source_sha256(record, args.cache_dir)
    save_pretrained(model, folder, record=record, source_sha256=sha256, name=name)
    if not args.checkpoint:  # byte for byte what was verified
        shutil.copyfile(weights, folder / WEIGHTS_FILE)


def _print_files(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        size, sha256 = _size_and_hash(path)
        print(f"{path.name:<18} {size:>12,} bytes  SHA-256 {sha256}")


def _size_and_hash(path: Path) -> tuple[int, str]:
    from slowfast_zoo.utils.files import file_hash

    return path.stat().st_size, file_hash(path)
