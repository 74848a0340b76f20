"""Fetches one checkpoint file: Hugging Face's client for its hub, HTTPS elsewhere.

Environment: `HF_ENDPOINT` names a mirror of the hub, `HF_HUB_OFFLINE=1` or
`KERAS_METAFORMER_OFFLINE=1` forbids every request, the usual `HTTPS_PROXY` and
`NO_PROXY` choose proxies, and the hub's token is found where its client looks.
"""

import email.utils
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keras_metaformer_lite.weights.disk import read_json, write_json

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5
ATTEMPTS_TO_REACH = 2  # a host that never answers
BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = 30  # without a byte
SLOW_SECONDS, SLOW_BYTES_PER_SECOND = 60, 1024  # slower for so long: given up
LONGEST_WAIT_SECONDS = 60  # that a busy server may ask for
MOST_BYTES = 4 << 30  # the largest published file has less than 1 GiB
_CHUNK_BYTES = 1 << 16  # what a broken connection loses at most
_HUB_URL = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
#: The hub's name of a commit, whose files stay as they are.
COMMIT = re.compile(r"[0-9a-f]{40}")

# Failures of the disk, not of the file's content.
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file exceeds the size limit of this process or disk",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "the folder may not be written to",
    errno.EPERM: "the folder may not be written to",
}


class DownloadError(OSError):
    """A checkpoint could not be fetched, or is not what it should be."""


class NotThereError(DownloadError):
    """There is no such file, or no such revision, of a repository that is there."""


class UnreachableError(DownloadError):
    """Nobody answers."""


class _TransientError(Exception):
    """Worth another attempt, from where the last one stopped."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def is_offline() -> bool:
    """Whether the environment forbids requests."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("KERAS_METAFORMER_OFFLINE", "HF_HUB_OFFLINE")
    )


def failure(
    url: str,
    what: str,
    hand_placed: Path | None,
    kind: type[DownloadError] = DownloadError,
) -> DownloadError:
    """The error that says what happened to `url` and what can be done.

    Args:
        url: address asked for.
        what: what happened.
        hand_placed: path at which a file fetched by other means is found, or None.
        kind: class of the error.
    """
    instead = (
        f"A file fetched by other means may be put at {hand_placed} and is then used "
        "instead. "
        if hand_placed
        else ""
    )
    return kind(
        f"Could not fetch {url}: {what}. {instead}HF_ENDPOINT names a mirror of the "
        "Hugging Face hub; HF_HUB_OFFLINE=1 (or KERAS_METAFORMER_OFFLINE=1) forbids "
        f"all requests and must be unset to download. Received: url={url!r}"
    )


def fetch(url: str, folder: Path, hand_placed: Path) -> Path:
    """The local path of the file behind `url`, downloading it if need be.

    Files of the Hugging Face hub land in the hub's own cache, all others in `folder`.

    Args:
        url: address of the file.
        folder: where a file from outside the hub is written. Only one process at a
            time may do so.
        hand_placed: path that errors name for a file fetched by other means.

    Raises:
        DownloadError: if the whole file cannot be had.
    """
    if match := _HUB_URL.fullmatch(url):
        repository, revision, file = match.groups()
        return fetch_from_hub(repository, revision, file, hand_placed)
    target = folder / url.rsplit("/", 1)[-1]
    if target.is_file() and not target.is_symlink():
        return target
    if is_offline():
        raise failure(url, "offline mode is on", hand_placed)
    return _fetch_over_https(url, target, hand_placed)


def cached_by_hub(url: str) -> Path | None:
    """The hub's file in its client's cache, without a request.

    Args:
        url: address of the file; any other than the hub's is in no such cache.
    """
    match = _HUB_URL.fullmatch(url)
    return None if match is None else in_cache_of_hub(*match.groups())


def in_cache_of_hub(repository: str, revision: str, file: str) -> Path | None:
    """As `cached_by_hub`, of a file that is given as in `fetch_from_hub`."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, file, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def fetch_from_hub(
    repository: str, revision: str, file: str, hand_placed: Path | None = None
) -> Path:
    """The path of a file of the hub in its client's cache, downloaded if need be.

    Args:
        repository: `"owner/name"`.
        revision: a branch, which is asked for anew each time, a tag, or a commit, whose
            cached files are taken without a request.
        file: its path in the repository.
        hand_placed: path that errors name for a file fetched by other means, or None.

    Raises:
        DownloadError: if the whole file cannot be had: a `NotThereError` or an
            `UnreachableError` where it is that.
    """
    from urllib.parse import quote

    from huggingface_hub import (
        constants,
        errors,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
    )

    url = (
        f"https://huggingface.co/{repository}/resolve/{quote(revision, safe='')}/{file}"
    )
    # The client's own offline download is not silent: it may ask the hub which programs
    # are AI agents, to name the caller in its User-Agent.
    stays = is_offline() or COMMIT.fullmatch(revision)
    if stays and (cached := in_cache_of_hub(repository, revision, file)):
        return cached
    if is_offline():
        what = "offline mode is on and the hub's cache does not have it"
        raise failure(url, what, hand_placed, UnreachableError)
    wait = 0.0
    reached = False
    for attempt in range(ATTEMPTS):
        time.sleep(max(_delay(attempt), wait))
        kind = DownloadError
        try:
            # Asked first, since the client's download tries six times in a minute
            # before it says that nobody answers.
            metadata = get_hf_file_metadata(
                hf_hub_url(repository, file, revision=revision),
                timeout=TIMEOUT_SECONDS,
            )
            reached = True
            _require_size(metadata.size, url, hand_placed)
            return Path(hf_hub_download(repository, file, revision=revision))
        except DownloadError:
            raise
        except errors.RepositoryNotFoundError as error:  # includes gated ones
            what = (
                "no such repository, or it needs a token (401, 403 or 404): run "
                f"`hf auth login` or set HF_TOKEN. {_first_line(error)}"
            )
            cause = error
        except errors.LocalEntryNotFoundError as error:
            cause = error.__cause__ or error
            if isinstance(cause, errors.HfHubHTTPError):
                what = _status(cause.response.status_code)
            else:
                what = f"{constants.ENDPOINT} cannot be reached ({cause})"
                kind = UnreachableError
        except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
            what, cause = f"not there (404). {_first_line(error)}", error
            kind = NotThereError
        except errors.HfHubHTTPError as error:
            status, headers = error.response.status_code, error.response.headers
            what, cause = _status(status), error
            if _is_transient(status) and attempt + 1 < ATTEMPTS:
                wait = _retry_after(headers.get("Retry-After"), url, hand_placed)
                continue
        except OSError as error:
            what, cause = _disk_failure(error, constants.HF_HUB_CACHE), error
        except Exception as error:
            # The transport's own exceptions (httpx or httpx2, by the hub's version).
            # The hub's client resumes after a closed connection but not after a
            # reset one, so that is repeated here.
            attempts = ATTEMPTS if reached else ATTEMPTS_TO_REACH
            if attempt + 1 < attempts:
                continue
            if reached:
                what = f"the connection broke {ATTEMPTS} times ({error})"
            else:
                what = f"{constants.ENDPOINT} cannot be reached ({error})"
                kind = UnreachableError
            cause = error
        raise failure(url, what, hand_placed, kind) from cause
    raise AssertionError("unreachable: the last attempt returns or raises")


def _fetch_over_https(url: str, target: Path, hand_placed: Path) -> Path:
    """Downloads to `target.part`, resuming, and renames it once it is whole."""
    import requests
    import urllib3

    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _session(url, hand_placed) as session:
            _transfer_in_attempts(session, url, part, hand_placed)
        os.replace(part, target)
        _validator_file(part).unlink(missing_ok=True)
    except DownloadError:
        raise
    except requests.RequestException as error:
        raise failure(url, str(error), hand_placed) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            part.unlink(missing_ok=True)
        raise failure(url, _disk_failure(error, target.parent), hand_placed) from error
    except (ValueError, urllib3.exceptions.HTTPError) as error:
        # Of addresses that a redirection made up, for one.
        what = f"the server's answer is not understood ({error})"
        raise failure(url, what, hand_placed) from error
    return target


def _session(url: str, hand_placed: Path) -> "requests.Session":
    """A session that no redirection leads from HTTPS to an insecure address."""
    from urllib.parse import urljoin

    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: "requests.Response") -> str | None:
            target = super().get_redirect_target(resp)
            if target is not None and resp.url.lower().startswith("https:"):
                address = urljoin(resp.url, target)
                if not address.lower().startswith("https:"):
                    what = f"refused to be redirected to the insecure {address}"
                    raise failure(url, what, hand_placed)
            return target

    return Session()


def _transfer_in_attempts(
    session: "requests.Session", url: str, part: Path, hand_placed: Path
) -> None:
    import requests
    import urllib3

    cause: Exception | None = None
    for attempt in range(ATTEMPTS):
        time.sleep(_delay(attempt))
        try:
            return _transfer(session, url, part, hand_placed)
        except _TransientError as error:
            cause = error
            if attempt + 1 < ATTEMPTS:
                time.sleep(_retry_after(error.retry_after, url, hand_placed))
        except requests.ConnectionError as error:
            cause = error
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            unreachable = isinstance(
                reason,
                urllib3.exceptions.NewConnectionError
                | urllib3.exceptions.ConnectTimeoutError,
            )
            if unreachable and attempt + 1 >= ATTEMPTS_TO_REACH:
                what = f"the server cannot be reached ({reason})"
                raise failure(url, what, hand_placed) from error
        except (
            requests.Timeout,
            urllib3.exceptions.ProtocolError,
            urllib3.exceptions.TimeoutError,
        ) as error:
            cause = error
    what = f"failed {ATTEMPTS} times, at last with: {cause}"
    raise failure(url, what, hand_placed) from cause


def _transfer(
    session: "requests.Session", url: str, part: Path, hand_placed: Path
) -> None:
    """Make one request, which continues `part` where the server's file is the same."""
    from tqdm import tqdm

    headers = {"Accept-Encoding": "identity"}
    validator = _read_validator(part, url)
    start = _size_of_own(part) if validator else 0
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with session.get(
        url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS
    ) as response:
        total = _check_response(response, url, start, validator, part, hand_placed)
        if response.status_code != 206:
            start = 0
            # The old bytes go before the new validator comes, so that a process
            # killed in between never leaves the one with the other.
            part.unlink(missing_ok=True)
            write_json(
                _validator_file(part), {"url": url, "validator": _validator(response)}
            )
        with (
            _append(part, new=start == 0) as file,
            tqdm(
                desc=part.stem,
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                disable=None,  # off unless standard error is a terminal
            ) as bar,
        ):
            size = start
            for chunk in _chunks(response):
                size += len(chunk)
                if size > MOST_BYTES:
                    part.unlink()
                _require_size(size, url, hand_placed)
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _TransientError(f"truncated: {size} of {total} bytes came")


def _chunks(response: "requests.Response") -> Iterator[bytes]:
    """The body as it comes, while it comes fast enough."""
    start, received = time.monotonic(), 0
    # Whatever has come, where `iter_content` would wait for a whole chunk of bytes
    # that may come one by one.
    while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
        yield chunk
        received += len(chunk)
        seconds = time.monotonic() - start
        if seconds > SLOW_SECONDS:
            if received < SLOW_BYTES_PER_SECOND * seconds:
                raise _TransientError(f"{received} bytes came in {seconds:.0f} seconds")
            start, received = time.monotonic(), 0


def _size_of_own(part: Path) -> int:
    """The size of a file that this user began; anything else there is removed."""
    try:
        status = part.lstat()
    except FileNotFoundError:
        return 0
    ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and ours:
        return status.st_size
    part.unlink()
    return 0


def _append(part: Path, new: bool) -> IO[bytes]:
    """Opens `part` to write at its end, never through a link that is in its place."""
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    flags |= os.O_CREAT | os.O_EXCL if new else getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(part, flags, 0o666), "ab")


def _check_response(
    response: "requests.Response",
    url: str,
    start: int,
    validator: str | None,
    part: Path,
    hand_placed: Path,
) -> int | None:
    """The size of the whole file in bytes, if the server tells it."""
    status = response.status_code
    if status == 416:  # `part` is no beginning of the file
        part.unlink(missing_ok=True)
        raise _TransientError(_status(status))
    if _is_transient(status):
        raise _TransientError(_status(status), response.headers.get("Retry-After"))
    if status not in (200, 206):
        raise failure(url, _status(status), hand_placed)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        # A login page of a hotel's network, for one, comes with status 200.
        raise failure(url, "a web page came instead of a file", hand_placed)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise failure(url, "the server sent it compressed, unasked", hand_placed)
    if status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", content_range
        )
        if match is None or int(match[1]) != start or start == 0:
            part.unlink(missing_ok=True)
            raise _TransientError(f"wrong part came: Content-Range {content_range!r}")
        if _validator(response) not in (validator, None):
            part.unlink(missing_ok=True)
            raise _TransientError("a part of another file came")
        total = None if match[2] == "*" else int(match[2])
    else:
        length = response.headers.get("Content-Length")
        if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
            what = f"the server states no size in bytes: Content-Length {length!r}"
            raise failure(url, what, hand_placed)
        total = None if length is None else int(length)
    _require_size(total, url, hand_placed)
    return total


def _require_size(size: int | None, url: str, hand_placed: Path | None) -> None:
    if size is not None and size > MOST_BYTES:
        what = f"of {size} bytes or more; expected at most {MOST_BYTES}"
        raise failure(url, what, hand_placed)


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path, url: str) -> str | None:
    """What tells whether the server's file is still the one in `part`."""
    state = read_json(_validator_file(part))
    validator = state.get("validator") if state.get("url") == url else None
    return validator if isinstance(validator, str) else None


def _validator(response: "requests.Response") -> str | None:
    etag = response.headers.get("ETag")
    if etag is None or etag.startswith("W/"):  # If-Range takes strong ones only
        return response.headers.get("Last-Modified")
    return etag


def _is_transient(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _retry_after(value: str | None, url: str, hand_placed: Path | None) -> float:
    """Seconds that a busy server asks for; an error if they are too many."""
    if value is None:
        return 0.0
    if re.fullmatch(r"[0-9]{1,9}", value):
        seconds = float(value)
    else:
        try:
            then = email.utils.parsedate_to_datetime(value)
            seconds = then.timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    if seconds > LONGEST_WAIT_SECONDS:
        what = f"the server is busy and asks to come back in {seconds:.0f} seconds"
        raise failure(url, what, hand_placed)
    return max(seconds, 0.0)


def _delay(attempt: int) -> float:
    return BACKOFF_SECONDS * 2 ** (attempt - 1) if attempt else 0.0


def _status(status: int) -> str:
    meaning = {401: "a valid token is needed", 403: "access refused", 404: "not there"}
    return f"{meaning.get(status, 'the server answered')} (HTTP status {status})"


def _disk_failure(error: OSError, folder: Path | str) -> str:
    if error.errno in DISK_ERRORS:
        return f"cannot write to {folder}: {DISK_ERRORS[error.errno]} ({error})"
    return str(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
