"""A Hugging Face hub on loopback, as far as its client asks one of models."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.weights.servers import Answer, Server, as_hub

TOKEN = "hf_loopback"
#: Larger files go by the protocol for large files, as on the hub.
SMALL = 1 << 14
_FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/(refs/pr/\w+|[^/]+)/(.+)")
_API = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/(\w+)(?:/(refs/pr/\w+|[^/]+))?")


class Hub(Server):
    """Repositories with branches and commits.

    Attributes:
        branches: of a repository, by name, the commits they point to.
        commits: what each commit holds, path to content.
        private: whether only requests with `TOKEN` are answered.
        messages: of the commits, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private = False
        self.messages: list[str] = []
        self._large: dict[str, bytes] = {}

    def put(self, repository: str, files: dict[str, bytes], branch: str = "main"):
        """A commit that holds these files, and nothing else."""
        name = hashlib.sha1(
            repr((repository, len(self.commits), sorted(files))).encode()
        ).hexdigest()
        self.commits[name] = files
        self.branches.setdefault(repository, {})[branch] = name
        for revision in (branch, name):
            prefix = f"/{repository}/resolve/{revision}/"
            for path in [path for path in self.files if path.startswith(prefix)]:
                del self.files[path]
            self.files.update({prefix + path: body for path, body in files.items()})
        return name

    def holds(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[repository][branch]]

    def commit_of(self, path: str) -> str:
        match = _FILE.fullmatch(path)
        assert match is not None
        return self.branches[match[1]].get(match[2], match[2])

    def refusal(self, path: str, headers: dict[str, str]) -> Answer | None:
        if path.startswith(("/content/", "/large/")):
            return None  # of another host, with addresses that are keys themselves
        token = headers.get("authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            message = "Invalid credentials in Authorization header"
            return Answer(401, (("X-Error-Message", message),))
        match = _FILE.fullmatch(path) or _API.match(path)
        if match and (
            match[1] not in self.branches or (self.private and token is None)
        ):
            return Answer(401, (("X-Error-Code", "RepoNotFound"),))
        return None

    def receive(self, method: str, path: str, body: bytes) -> Answer:
        path = urlsplit(path).path
        if method == "PUT" and path.startswith("/large/"):
            digest = path.removeprefix("/large/")
            assert hashlib.sha256(body).hexdigest() == digest
            self._large[digest] = body
            return Answer(200)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('organization', 'me')}/{asked['name']}"
            if repository in self.branches:
                known = {"url": self.url(f"/{repository}"), "error": "You have it"}
                return _json(known, 409)
            self.put(repository, {".gitattributes": b"*.h5 filter=lfs"})
            self.private = asked.get("visibility") == "private"
            return _json({"url": self.url(f"/{repository}")})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                link = {"href": self.url(f"/large/{each['oid']}")}
                each["actions"] = {"upload": link}
            return _json({"transfer": "basic", "objects": objects})
        match = _API.fullmatch(path)
        if match is None:
            return Answer(404)
        repository, what, revision = match[1], match[2], match[3] or "main"
        if what == "branch":
            if revision not in self.branches[repository]:
                self.put(repository, self.holds(repository), revision)
            return _json({})
        if revision not in self.branches[repository]:
            return Answer(404, (("X-Error-Code", "RevisionNotFound"),))
        held = self.holds(repository, revision)
        if what == "tree":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in held.items()
            ]
            return _json(listed)
        if what == "preupload":
            return _json({"files": [_mode(file) for file in json.loads(body)["files"]]})
        assert what == "commit", path
        files = dict(held)
        for line in body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "header":
                self.messages.append(value["summary"])
            elif step["key"] == "deletedFile":
                del files[value["path"]]
            elif step["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        name = self.put(repository, files, revision)
        link = self.url(f"/{repository}/commit/{name}")
        return _json({"commitUrl": link, "commitOid": name})


def _mode(file: dict) -> dict:
    mode = "regular" if file["size"] < SMALL else "lfs"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _json(content: object, status: int = 200) -> Answer:
    kind = (("Content-Type", "application/json"),)
    return Answer(status, kind, json.dumps(content).encode())


@contextmanager
def loopback_hub(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub, its client, and a token that it knows; `cache` is the client's folder."""
    patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Hub().running() as hub, as_hub(hub, patch, cache, TOKEN):
        yield hub
