"""Fetches one checkpoint file: Hugging Face's client for its hub, HTTPS elsewhere.

Environment: `HF_ENDPOINT` names a mirror of the hub, `HF_HUB_OFFLINE=1` or
`KERAS_METAFORMER_OFFLINE=1` forbids every request, the usual `HTTPS_PROXY` and
`NO_PROXY` choose proxies, and the hub's token is found where its client looks.
"""

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5
BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16  # what a broken connection loses at most
_HUB_URL = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

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


class _TransientError(Exception):
    """Worth another attempt, from where the last one stopped."""


def is_offline() -> bool:
    """Returns whether the environment forbids requests."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("KERAS_METAFORMER_OFFLINE", "HF_HUB_OFFLINE")
    )


def failure(url: str, what: str, hand_placed: Path) -> DownloadError:
    """Returns the error that says what happened to `url` and what can be done.

    Args:
        url: Address asked for.
        what: What happened.
        hand_placed: Path at which a file fetched by other means is found.
    """
    return DownloadError(
        f"Could not fetch {url}: {what}. A file fetched by other means may be put at "
        f"{hand_placed} and is then used instead. HF_ENDPOINT names a mirror of the "
        "Hugging Face hub; HF_HUB_OFFLINE=1 (or KERAS_METAFORMER_OFFLINE=1) forbids "
        f"all requests and must be unset to download. Received: url={url!r}"
    )


def fetch(url: str, folder: Path, hand_placed: Path) -> Path:
    """Returns the local path of the file behind `url`, downloading it if need be.

    Files of the Hugging Face hub land in the hub's own cache, all others in `folder`.

    Args:
        url: Address of the file.
        folder: Where a file from outside the hub is written. Only one process at a
            time may do so.
        hand_placed: Path that errors name for a file fetched by other means.

    Raises:
        DownloadError: If the whole file cannot be had.
    """
    if match := _HUB_URL.fullmatch(url):
        return _fetch_from_hub(url, *match.groups(), hand_placed=hand_placed)
    target = folder / url.rsplit("/", 1)[-1]
    if target.is_file():
        return target
    if is_offline():
        raise failure(url, "offline mode is on", hand_placed)
    return _fetch_over_https(url, target, hand_placed)


def _fetch_from_hub(
    url: str, repository: str, revision: str, file: str, hand_placed: Path
) -> Path:
    from huggingface_hub import (
        constants,
        errors,
        hf_hub_download,
        try_to_load_from_cache,
    )

    if is_offline():
        # The client's own offline download is not silent: it may ask the hub which
        # programs are AI agents, to name the caller in its User-Agent.
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        what = "offline mode is on and the hub's cache does not have it"
        raise failure(url, what, hand_placed)
    for attempt in range(ATTEMPTS):
        time.sleep(_delay(attempt))
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
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
        except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
            what, cause = f"not there (404). {_first_line(error)}", error
        except errors.HfHubHTTPError as error:
            what, cause = _status(error.response.status_code), error
        except OSError as error:
            what, cause = _disk_failure(error, constants.HF_HUB_CACHE), error
        except Exception as error:
            # The transport's own exceptions (httpx or httpx2, by the hub's version).
            # The hub's client resumes after a closed connection but not after a
            # reset one, so that is repeated here.
            if attempt + 1 < ATTEMPTS:
                continue
            what, cause = f"the connection broke {ATTEMPTS} times ({error})", error
        raise failure(url, what, hand_placed) from cause
    raise AssertionError("unreachable: the last attempt returns or raises")


def _fetch_over_https(url: str, target: Path, hand_placed: Path) -> Path:
    """Downloads to `target.part`, resuming, and renames it once it is whole."""
    import requests

    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            for attempt in range(ATTEMPTS):
                time.sleep(_delay(attempt))
                try:
                    _transfer(session, url, part, hand_placed)
                    break
                except (
                    _TransientError,
                    requests.ConnectionError,
                    requests.Timeout,
                    requests.exceptions.ChunkedEncodingError,
                ) as error:
                    if attempt + 1 == ATTEMPTS:
                        what = f"failed {ATTEMPTS} times, at last with: {error}"
                        raise failure(url, what, hand_placed) from error
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
    return target


def _transfer(
    session: "requests.Session", url: str, part: Path, hand_placed: Path
) -> None:
    """Makes one request, which continues `part` where the server's file is the same."""
    from tqdm import tqdm

    headers = {"Accept-Encoding": "identity"}
    validator = _read_validator(part, url)
    start = part.stat().st_size if validator and part.is_file() else 0
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with session.get(
        url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS
    ) as response:
        total = _check_response(response, url, start, part, hand_placed)
        if response.status_code != 206:
            start = 0
            # The old bytes go before the new validator comes, so that a process
            # killed in between never leaves the one with the other.
            part.unlink(missing_ok=True)
            _write_validator(part, url, response)
        with (
            part.open("ab") as file,
            tqdm(
                desc=part.stem,
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                disable=None,  # off unless standard error is a terminal
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _TransientError(f"truncated: {size} of {total} bytes came")


def _check_response(
    response: "requests.Response", url: str, start: int, part: Path, hand_placed: Path
) -> int | None:
    """Returns the size of the whole file in bytes, if the server tells it."""
    status = response.status_code
    if status == 416:  # `part` is no beginning of the file
        part.unlink(missing_ok=True)
        raise _TransientError(_status(status))
    if status in (408, 429) or status >= 500:
        raise _TransientError(_status(status))
    if status not in (200, 206):
        raise failure(url, _status(status), hand_placed)
    if url.startswith("https:") and not response.url.startswith("https:"):
        what = f"refused to be redirected to the insecure {response.url}"
        raise failure(url, what, hand_placed)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        # A login page of a hotel's network, for one, comes with status 200.
        raise failure(url, "a web page came instead of a file", hand_placed)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise failure(url, "the server sent it compressed, unasked", hand_placed)
    if status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if match is None or int(match[1]) != start:
            part.unlink(missing_ok=True)
            raise _TransientError(f"wrong part came: Content-Range {content_range!r}")
        return None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path, url: str) -> str | None:
    """Returns what tells whether the server's file is still the one in `part`."""
    try:
        state = json.loads(_validator_file(part).read_text(encoding="utf-8"))
        return state["validator"] if state["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_validator(part: Path, url: str, response: "requests.Response") -> None:
    etag = response.headers.get("ETag")
    if etag is None or etag.startswith("W/"):  # If-Range takes strong ones only
        etag = response.headers.get("Last-Modified")
    state = json.dumps({"url": url, "validator": etag})
    _validator_file(part).write_text(state, encoding="utf-8")


def _delay(attempt: int) -> float:
    return BACKOFF_SECONDS * 2 ** (attempt - 1) if attempt else 0.0


def _status(status: int) -> str:
    meaning = {401: "a token is needed", 403: "access refused", 404: "not there"}
    return f"{meaning.get(status, 'the server answered')} (HTTP status {status})"


def _disk_failure(error: OSError, folder: Path | str) -> str:
    if error.errno in DISK_ERRORS:
        return f"cannot write to {folder}: {DISK_ERRORS[error.errno]} ({error})"
    return str(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
