"""Where the file with a set of weights comes from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.models.record import WeightsRecord
from slowfast_zoo.storage.cache import ContentError, DiskError, cache_folder, has_sha256, mark_verified, writing
from slowfast_zoo.storage.download import Checksum, downloaded, refuse_offline
from slowfast_zoo.storage.hub import cached_hub_file, hub_file, hub_problem
from slowfast_zoo.storage.tensors import save_state_dict
from slowfast_zoo.utils.files import file_hash, write_whole
from slowfast_zoo.utils.version import __version__

_log = logging.getLogger(__name__)
_BUNDLE = Path(__file__).resolve().parent / "bundled"
_NAMESPACE = "SLOWFAST_ZOO_HUB_NAMESPACE"
_LONGEST_NOTE = 10_000  # bytes of what is noted beside a converted file
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
        return _bundled(record)
    failures = []
    sidecar = _sidecar(record, cache_dir)
    if sidecar is not None:
        if _converted_problem(record, sidecar, cache_dir) is None:
            return _converted_path(record, cache_dir)
        failures.append(f"the cached file {str(_converted_path(record, cache_dir))!r} is damaged")
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
            return _from_upstream(record, cache_dir, progress)
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
    return [CachedFile(path, _problem(record, path, cache_dir)) for path in _local_files(record, cache_dir)]


def source_sha256(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None = None) -> str | None:
    """The hash of the publisher's file that the cached weights were converted from; None if there are none."""
    sidecar = _sidecar(record, cache_dir)
    return sidecar["source_sha256"] if sidecar else None


def check_source(record: WeightsRecord, path: Path) -> None:
    """Compares a file with the hash that the publisher of the weights gives for his, if he does.

    Raises:
        WeightsError: it is another file.
    """
    checksum = record.source["hash"] if record.source else None
    if checksum and not (actual := file_hash(path, checksum["algorithm"])).startswith(checksum["prefix"]):
        raise ContentError(
            f"{str(path)!r} is not the file of {record.name!r}: its {checksum['algorithm']} is {actual}, the "
            f"publisher's {checksum['prefix']}"
        )


def _local_files(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    if record.file is not None and (_BUNDLE / record.file).is_file():
        yield _BUNDLE / record.file
    if _sidecar(record, cache_dir) is not None:
        yield _converted_path(record, cache_dir)
    place = _hub_place(record)
    if place is not None:
        path = cached_hub_file(place.repo, place.file, revision=place.revision, cache_dir=cache_dir)
        if path is not None:
            yield path


def _problem(record: WeightsRecord, path: Path, cache_dir: str | os.PathLike[str] | None) -> str | None:
    try:
        if path.parent == _BUNDLE:
            return None if file_hash(path) == record.sha256 else f"its SHA-256 is not the manifest's {record.sha256}"
        if path == _converted_path(record, cache_dir):
            return _converted_problem(record, _sidecar(record, cache_dir) or {}, cache_dir, fresh=True)
        place = _hub_place(record)
        return hub_problem(path, place.sha256 if place else None, cache_dir)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _bundled(record: WeightsRecord) -> Path:
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


def _sidecar(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What is noted about the converted file, if that is there and made from the manifest's source."""
    path = _converted_path(record, cache_dir)
    try:
        with path.with_suffix(".json").open("rb") as file:
            sidecar = json.loads(file.read(_LONGEST_NOTE))
        current = sidecar["conversion"] == _CONVERSION and sidecar["source_url"] == (record.source or {}).get("url")
        hashes = [sidecar[name] for name in ("sha256", "source_sha256")]
        is_whole = type(sidecar["bytes"]) is int and all(re.fullmatch("[0-9a-f]{64}", text) for text in hashes)
        return sidecar if current and is_whole and path.is_file() else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _converted_problem(
    record: WeightsRecord,
    sidecar: dict[str, Any],
    cache_dir: str | os.PathLike[str] | None,
    *,
    fresh: bool = False,
) -> str | None:
    path = _converted_path(record, cache_dir)
    try:
        size = path.stat().st_size
        if size != sidecar["bytes"]:
            return f"{size} bytes instead of {sidecar['bytes']}"
        if not has_sha256(path, sidecar["sha256"], cache_dir, fresh=fresh):
            return f"its SHA-256 is not {sidecar['sha256']}, with which it was written"
    except OSError as error:
        return f"it cannot be read: {error}"
    return None


def _from_upstream(record: WeightsRecord, cache_dir: str | os.PathLike[str] | None, progress: bool) -> Path:
    """Downloads the original and converts it, unless another process has done so meanwhile."""
    from .checkpoint import convert_file

    assert record.source is not None
    url, checksum = record.source["url"], record.source["hash"]
    folder, path = cache_folder(cache_dir), _converted_path(record, cache_dir)
    refuse_offline(url, record.name)
    with _alone(record, folder):
        sidecar = _sidecar(record, cache_dir)
        if sidecar is not None and _converted_problem(record, sidecar, cache_dir) is None:
            return path
        with downloaded(
            url,
            folder,
            what=record.name,
            size=record.source["bytes"],
            most=_most_bytes(record),
            checksum=Checksum(checksum["algorithm"], checksum["prefix"]) if checksum else None,
            progress=progress,
        ) as original:
            source_bytes = original.path.stat().st_size
            state = convert_file(original.path, record)
            # Written beside the original, where the next call finds or removes it should this process be killed.
            with writing(record.name, folder):
                converted, noted = original.path.with_name(".converted"), original.path.with_name(".noted")
                # No metadata: safetensors writes it in an order that changes, and the file should always be the same.
                save_state_dict(state, converted)
                sidecar = {
                    "name": record.name,
                    "source_url": url,
                    "source_sha256": original.sha256,
                    "source_bytes": source_bytes,
                    "sha256": file_hash(converted),
                    "bytes": converted.stat().st_size,
                    "slowfast_zoo": __version__,
                    "conversion": _CONVERSION,
                }
                write_whole(noted, (json.dumps(sidecar, indent=1) + "\n").encode())
                converted.replace(path)
                noted.replace(path.with_suffix(".json"))
        mark_verified(path, sidecar["sha256"], cache_dir)
    return path


def _most_bytes(record: WeightsRecord) -> int:
    """More than the publisher's file can have: its network's numbers, their momentum, an average, and some more."""
    import torch

    from slowfast_zoo.models import build

    with torch.device("meta"):
        tensors = build(record.config).state_dict().values()
    return int(8 * sum(tensor.nbytes for tensor in tensors)) + (64 << 20)


@contextlib.contextmanager
def _alone(record: WeightsRecord, folder: Path) -> Iterator[None]:
    """Lets other processes wait, so that eight of them do not each download the same file.

    Nothing depends on it: some network file systems grant the lock to everyone, and then each process downloads.
    """
    from huggingface_hub import utils

    lock = getattr(utils, "WeakFileLock", contextlib.nullcontext)  # in all versions so far, but undocumented
    with contextlib.ExitStack() as stack:
        with writing(record.name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder / f".{record.name}.lock"))
        yield
