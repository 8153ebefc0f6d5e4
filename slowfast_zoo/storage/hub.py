"""Files of the Hugging Face Hub.

The Hub's own client gets them, so that its cache, tokens, mirrors and offline mode hold here too. What it leaves out is
done here: it compares sizes but no content, needs 23 seconds to notice that there is no network, and its errors do not
say which weights they are about.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.utils.files import file_hash
from slowfast_zoo.utils.version import __version__

from .cache import ContentError, disk_error, has_sha256, known_sha256
from .download import find_connection_problem

_DISK_ERRORS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EFBIG", "ENOTDIR", "EEXIST", "EISDIR", "EACCES", "EPERM")
    if hasattr(errno, name)
}
_LOGIN = "set HF_TOKEN, or log in with the Hub's client (`hf auth login`)"


def hub_file(
    repo: str,
    filename: str,
    *,
    what: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
) -> Path:
    """A file of a repository on the Hub, from the cache or downloaded, with its content verified.

    Args:
        repo: ``owner/name``.
        filename: the file in the repository.
        what: the weights it holds, for messages.
        revision: a commit, which costs no request once the file is cached, or a branch or tag; ``main`` by default.
        cache_dir: the Hub client's cache; by default where ``HF_HOME`` and ``HF_HUB_CACHE`` say.
        sha256: the file's hash. Without it, a large file is compared with the hash that the Hub has for it.

    Returns:
        The file in the cache.

    Raises:
        ContentError: the content is wrong, after a second download too.
        DiskError: the cache cannot be written.
        WeightsError: the file cannot be had. The message says why and what helps.
    """
    from huggingface_hub import constants

    got = expected = None
    for again in (False, True):
        path, is_new = _fetch(repo, filename, what, revision, cache_dir, again)
        expected = sha256 or known_sha256(path, cache_dir)
        if expected is None and is_new:
            expected = _sha256_of_hub(repo, filename, revision)
        try:
            if expected is None or has_sha256(path, expected, cache_dir):
                return path
            got = file_hash(path)
        except OSError as error:
            raise WeightsError(f"cannot read {what} from the cache: {error}") from error
        if constants.HF_HUB_OFFLINE:
            break
        _remove(path)
    raise ContentError(
        f"the file of {what} from {_place(repo, filename, revision)} is wrong: SHA-256 {got} instead of {expected}. "
        + (
            f"The cached file {str(path)!r} is damaged; it is downloaded anew where HF_HUB_OFFLINE is not set."
            if constants.HF_HUB_OFFLINE
            else "It was downloaded twice: either the file there has been replaced, or something on the way changes it."
        )
    )


def cached_hub_file(
    repo: str, filename: str, *, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Path | None:
    """The file in the Hub client's cache, unverified, or None. No request is made.

    Args:
        repo: ``owner/name``.
        filename: the file in the repository.
        revision: a commit, branch or tag.
        cache_dir: the Hub client's cache.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, filename, cache_dir=_expand_user(cache_dir), revision=revision)
    return Path(path) if isinstance(path, str) else None  # there is a third answer: known not to exist


def _fetch(
    repo: str,
    filename: str,
    what: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    anew: bool,
) -> tuple[Path, bool]:
    """The file in the cache, and whether it was not there before."""
    from huggingface_hub import constants, hf_hub_download

    place = _place(repo, filename, revision)
    try:
        cached = None if anew else cached_hub_file(repo, filename, revision=revision, cache_dir=cache_dir)
        if cached and re.fullmatch("[0-9a-f]{40}", revision or ""):
            return cached, False
        if not constants.HF_HUB_OFFLINE and (problem := find_connection_problem(constants.ENDPOINT)):
            if cached:
                return cached, False  # what the branch was when it was last asked for
            raise WeightsError(f"cannot download {what} from {place}: {problem}")
        path = hf_hub_download(
            repo,
            filename,
            revision=revision,
            cache_dir=_expand_user(cache_dir),
            force_download=anew,
            library_name="slowfast_zoo",
            library_version=__version__,
        )
        return Path(path), Path(path) != cached
    except WeightsError:
        raise
    # The client's versions raise the exceptions of three HTTP libraries, hf_xet's and their own, with no common base.
    except Exception as error:
        raise _explain(error, f"cannot download {what} from {place}: ", what, revision, repo, cache_dir) from error


def _explain(
    error: Exception,
    intro: str,
    what: str,
    revision: str | None,
    repo: str,
    cache_dir: str | os.PathLike[str] | None,
) -> WeightsError:
    """The client's error in words that help; subclasses come before their bases."""
    from huggingface_hub import constants, errors

    folder = Path(_expand_user(cache_dir) or constants.HF_HUB_CACHE)
    # LocalEntryNotFoundError stands for whatever kept the client from asking the server.
    reason = (error.__cause__ or error) if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(reason, "response", None), "status_code", None)
    if isinstance(reason, errors.GatedRepoError):
        return WeightsError(
            f"{intro}access has to be asked for. Do that on {constants.ENDPOINT}/{repo}, then {_LOGIN}."
        )
    if isinstance(reason, errors.RepositoryNotFoundError) or status == 401:
        return WeightsError(f"{intro}there is no such repository, or it is private. If you have access, {_LOGIN}.")
    if isinstance(reason, errors.RevisionNotFoundError):
        return WeightsError(f"{intro}the repository has no revision {revision or 'main'!r}.")
    if constants.HF_HUB_OFFLINE:
        return WeightsError(f"{intro}it is not cached in {str(folder)!r}, and HF_HUB_OFFLINE is set. Unset it once.")
    if isinstance(reason, errors.EntryNotFoundError) and not isinstance(reason, errors.LocalEntryNotFoundError):
        return WeightsError(f"{intro}the repository has no such file.")
    if status is not None:
        return WeightsError(f"{intro}the server answers with HTTP {status}. Try again later.")
    if isinstance(reason, OSError) and reason.errno in _DISK_ERRORS:
        return disk_error(what, folder, reason)
    first_line = printable(next(iter(str(reason).strip().splitlines()), ""))
    return WeightsError(
        f"{intro}{first_line} ({type(reason).__name__}). Try again later, or set HF_ENDPOINT to a mirror."
    )


def _place(repo: str, filename: str, revision: str | None) -> str:
    return f"the Hugging Face Hub (repository {repo}, revision {revision or 'main'}, file {filename})"


def _expand_user(cache_dir: str | os.PathLike[str] | None) -> Path | None:
    return None if cache_dir is None else Path(cache_dir).expanduser()


def _sha256_of_hub(repo: str, filename: str, revision: str | None) -> str | None:
    """The hash that the Hub has for a large file; None for a small one, or where the Hub cannot be asked."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with contextlib.suppress(Exception):  # those of three HTTP libraries, as above
        etag = get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision)).etag or ""
        return etag if re.fullmatch("[0-9a-f]{64}", etag) else None
    return None


def _remove(path: Path) -> None:
    """Takes a file with wrong content out of the cache, for every program that uses it."""
    for file in (path.resolve(), path):  # what the cache has under a file's name may be a link
        with contextlib.suppress(OSError):  # a read-only cache: the second download will say so
            file.unlink()
