"""Where the file with a set of weights comes from."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.models.record import WeightsRecord
from slowfast_zoo.storage.cache import (
    ContentError,
    DiskError,
    cache_folder,
    has_sha256,
    known_sha256,
    lock,
    note_sha256,
    writing,
)
from slowfast_zoo.storage.download import Checksum, download, refuse_offline
from slowfast_zoo.storage.hub import cached_hub_file, hub_file
from slowfast_zoo.storage.tensors import save_state_dict
from slowfast_zoo.utils.files import file_hash, write_whole
from slowfast_zoo.utils.version import __version__

_log = logging.getLogger(__name__)
_BUNDLE = Path(__file__).resolve().parent / "bundled"
_NAMESPACE = "SLOWFAST_ZOO_HUB_NAMESPACE"
_LONGEST_NOTE = 10_000  # bytes of what is noted next to a converted file
_CONVERSION = 1  # to be raised with a change in what convert_file makes: older cached files are then made anew


@dataclass(frozen=True)
class CachedFile:
    """A file of a set of weights on this machine.

    Attributes:
        path: the file.
        problem: what is wrong with it, or None.
    """

    path: Path
    problem: str | None


def find_weights(
    record: WeightsRecord,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    from_hub: bool = True,
) -> Path:
    """The verified file of a set of weights.

    It comes from the package itself, or the cache of converted weights, or the Hugging Face Hub, or from those who
    trained it: their file is downloaded, converted once, and kept in the cache. The environment variable
    ``SLOWFAST_ZOO_HUB_NAMESPACE`` names a user or organisation on the Hub whose repositories to use.

    Args:
        record: the weights.
        cache_dir: where downloaded weights are kept. By default, and in this order, what ``HF_HUB_CACHE`` and
            ``HF_ASSETS_CACHE``, ``HF_HOME``, ``XDG_CACHE_HOME`` say.
        progress: show the progress of a download, on a terminal. Whether the Hub's client does is decided by the
            environment variable ``HF_HUB_DISABLE_PROGRESS_BARS`` alone.
        from_hub: False leaves out the Hub: what is to be published there must not come from there.

    Returns:
        A safetensors file with this library's names.

    Raises:
        WeightsError: the file cannot be had, or is not what the manifest describes.
    """
    if record.file is not None:
        return _find_bundled(record)
    failures = []
    if note := _converted_note(record, cache_dir):
        converted = _converted_path(record, cache_dir)
        if _problem(converted, note["sha256"], cache_dir) is None:
            return converted
        failures.append(f"the cached file {str(converted)!r} is damaged")
    place = _hub_place(record) if from_hub else None
    if place is not None:
        try:
            return hub_file(
                place.repo,
                place.file,
                what=record.name,
                revision=place.revision,
                cache_dir=cache_dir,
                sha256=place.sha256,
            )
        except (ContentError, DiskError):
            raise  # wrong content should be heard of, and no other source helps a full disk
        except WeightsError as error:
            _log.info("%s", error)
            failures.append(str(error))
    if record.source is not None:
        try:
            return _convert_original(record, cache_dir, progress)
        except DiskError:
            raise
        except WeightsError as error:
            failures.append(str(error))
    else:
        failures.append("no address of their original is known")
    raise WeightsError(
        f"the weights {record.name!r} cannot be had:\n"
        + "".join(f"- {failure.rstrip('.?')}.\n" for failure in failures)
        + f"Where there is a network, `slowfast-zoo download {record.name}` fetches them, after which HF_HUB_OFFLINE=1 "
        "keeps to the cache. Or load a file of your own with checkpoint_path=..."
    )


def verify_cached(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None = None) -> list[CachedFile]:
    """Reads all files of a set of weights on this machine, and compares them with their hashes.

    Args:
        record: the weights.
        cache_dir: as for :func:`find_weights`.

    Returns:
        One entry for each file. Where it has a problem, the next :func:`find_weights` gets the file anew.
    """
    expected: dict[Path, str | None] = {}
    if record.file is not None and (_BUNDLE / record.file).is_file():
        expected[_BUNDLE / record.file] = record.sha256
    if note := _converted_note(record, cache_dir):
        expected[_converted_path(record, cache_dir)] = note["sha256"]
    if place := _hub_place(record):
        path = cached_hub_file(place.repo, place.file, revision=place.revision, cache_dir=cache_dir)
        if path is not None:
            expected[path] = place.sha256 or known_sha256(path, cache_dir)
    return [CachedFile(path, _problem(path, sha256, cache_dir, fresh=True)) for path, sha256 in expected.items()]


def _problem(
    path: Path, sha256: str | None, cache_dir: str | os.PathLike[str] | None, *, fresh: bool = False
) -> str | None:
    """What is wrong with a file that should have this hash, or None."""
    try:
        if sha256 is None or has_sha256(path, sha256, cache_dir, fresh=fresh):
            return None
        return f"SHA-256 {file_hash(path)} instead of {sha256}"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def source_sha256(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None = None) -> str | None:
    """The hash of the publisher's file that the cached weights were converted from; None if there are none."""
    note = _converted_note(record, cache_dir)
    return note["source_sha256"] if note else None


def check_source(record: WeightsRecord, path: Path) -> None:
    """Compares a file with the hash that the publisher of the weights gives for his, if he does.

    Raises:
        WeightsError: it is another file.
    """
    checksum = _published_hash(record)
    if checksum and (problem := checksum.mismatch(path)):
        raise ContentError(f"{str(path)!r} is not the file of {record.name!r}: {problem}")


def _published_hash(record: WeightsRecord) -> Checksum | None:
    published = record.source["hash"] if record.source else None
    return Checksum(published["algorithm"], published["prefix"]) if published else None


def _find_bundled(record: WeightsRecord) -> Path:
    path = _BUNDLE / (record.file or "")
    if not path.is_file():
        raise WeightsError(
            f"the weights {record.name!r} belong to the package but are missing from it: reinstall slowfast-zoo"
        )
    digest = file_hash(path)
    if digest != record.sha256:
        raise ContentError(
            f"{path} is not the file of {record.name!r}: its SHA-256 is {digest}, the manifest's {record.sha256}. "
            "Reinstall slowfast-zoo."
        )
    return path


class _HubPlace(NamedTuple):
    repo: str
    file: str
    revision: str
    sha256: str | None


def _hub_place(record: WeightsRecord) -> _HubPlace | None:
    """Where on the Hub the weights are, if anywhere."""
    namespace = os.environ.get(_NAMESPACE, "").strip(" /")
    if namespace and (record.hub is None or record.hub["repo"].partition("/")[0] != namespace):
        # A conversion of the user's own: the manifest's hash need not be that file's.
        return _HubPlace(f"{namespace}/{record.name}", "model.safetensors", "main", None)
    if record.hub is None:
        return None
    return _HubPlace(record.hub["repo"], record.hub["file"], record.hub["revision"], record.sha256)


def _converted_path(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None) -> Path:
    return cache_folder(cache_dir) / f"{record.name}.safetensors"


def _converted_note(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What is noted about the converted file, if that is there and made from the manifest's source."""
    path = _converted_path(record, cache_dir)
    try:
        with path.with_suffix(".json").open("rb") as file:
            note = json.loads(file.read(_LONGEST_NOTE))
        is_current = note["conversion"] == _CONVERSION and note["source_url"] == (record.source or {}).get("url")
        hashes = [note[name] for name in ("sha256", "source_sha256")]
        is_whole = type(note["bytes"]) is int and all(re.fullmatch("[0-9a-f]{64}", text) for text in hashes)
        return note if is_current and is_whole and path.is_file() else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _convert_original(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None, progress: bool) -> Path:
    """Downloads the original and converts it, unless another process has done so meanwhile."""
    from .checkpoint import convert_file

    assert record.source is not None
    url = record.source["url"]
    folder, path = cache_folder(cache_dir), _converted_path(record, cache_dir)
    refuse_offline(url, record.name)
    with lock(folder, record.name):
        note = _converted_note(record, cache_dir)
        if note is not None and _problem(path, note["sha256"], cache_dir) is None:
            return path
        with download(
            url,
            folder,
            what=record.name,
            size=record.source["bytes"],
            most=_most_bytes(record),
            checksum=_published_hash(record),
            progress=progress,
        ) as original:
            state = convert_file(original, record)
            # Written next to the original, where the next call removes it should this process be killed.
            with writing(record.name, folder):
                converted, noted = original.with_name(".converted"), original.with_name(".noted")
                save_state_dict(state, converted)
                note = {
                    "name": record.name,
                    "source_url": url,
                    "source_sha256": file_hash(original),
                    "source_bytes": original.stat().st_size,
                    "sha256": file_hash(converted),
                    "bytes": converted.stat().st_size,
                    "slowfast_zoo": __version__,
                    "conversion": _CONVERSION,
                }
                write_whole(noted, (json.dumps(note, indent=1) + "\n").encode())
                converted.replace(path)
                noted.replace(path.with_suffix(".json"))
                note_sha256(path, note["sha256"], cache_dir)
    return path


def _most_bytes(record: WeightsRecord) -> int:
    """More than the publisher's file can have: its network's numbers, their momentum, an average, and some more."""
    import torch

    from slowfast_zoo.models import build

    with torch.device("meta"):
        tensors = build(record.config).state_dict().values()
    return int(8 * sum(tensor.nbytes for tensor in tensors)) + (64 << 20)
