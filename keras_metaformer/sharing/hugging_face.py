"""Whole models on the Hugging Face hub, both ways.

A repository has Keras' own layout, which `keras.saving.load_model("hf://owner/name")`
reads too, or timm's, which `timm.create_model("hf-hub:owner/name")` reads; besides them
`README.md`, the model card, and `picture.png`. What is saved goes there in one commit.

The hub's token is found where its client looks: `HF_TOKEN`, or what `hf auth login`
has written. `HF_ENDPOINT` names another hub.
"""

import dataclasses
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_metaformer.sharing import folders, timm_folder
from keras_metaformer.sharing.config_file import CONFIG, read_config
from keras_metaformer.sharing.model_card import CARD, CardFacts, write_card
from keras_metaformer_lite.weights import download

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
#: Of a hub's owner, repository and branch, as far as they matter to an address.
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/\w+|[^/@\s]+))?"
    r"(?:/(?P<file>[^\s]+))?"
)


class UploadError(OSError):
    """A model could not be saved to the hub."""


@dataclasses.dataclass(frozen=True)
class Address:
    """`hf://owner/name`, `hf://owner/name@revision` or `hf://owner/name/file.keras`.

    Attributes:
        repository: `"owner/name"`.
        revision: a branch, tag or commit.
        file: path of one file in the repository, or None for all of it.
    """

    repository: str
    revision: str = "main"
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that a text is.

        Raises:
            ValueError: if it is none.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text:
            raise ValueError(
                "Expected an address of the Hugging Face hub, such as "
                "'hf://owner/name' or 'hf://owner/name@revision'. "
                f"Received: {text!r}"
            )
        found = {name: value for name, value in match.groupdict().items() if value}
        return cls(**found)

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        file = "" if self.file is None else f"/{self.file}"
        return f"{SCHEME}{self.repository}{revision}{file}"


def fetch(address: Address) -> Path:
    """The local path of a model of the hub, downloaded if need be.

    All its files are those of one commit. Where the hub cannot be reached, the files
    that its cache has of the branch are taken, with a warning.

    Args:
        address: of a repository, or of a `.keras` file in one.

    Returns:
        A `.keras` file, or a folder in Keras' or timm's layout.

    Raises:
        DownloadError: if the model cannot be had.
        ValueError: if there is none.
    """
    if address.file is not None:
        return _file(address, address.file)
    try:
        config = _file(address, CONFIG)
    except download.NotThereError as error:
        error.add_note(
            f"A model is a repository with {CONFIG}, as `km.save` writes it; "
            f"a file in another is asked for by its name: {address}/model.keras"
        )
        raise
    # The hub's cache has a folder for each commit, named by it.
    of_commit = dataclasses.replace(address, revision=config.parent.name)
    names = folders.weight_files(read_config(config.parent))
    for name in names:
        try:
            _file(of_commit, name)
        except download.NotThereError:
            continue
        return config.parent
    raise FileNotFoundError(
        f"Expected a repository with one of {', '.join(names)}. Received: {address}"
    )


def _file(address: Address, name: str) -> Path:
    try:
        return download.fetch_from_hub(address.repository, address.revision, name)
    except download.UnreachableError:
        cached = download.in_cache_of_hub(address.repository, address.revision, name)
        if cached is None:
            raise
        warnings.warn(
            f"The Hugging Face hub cannot be reached: {name} of {address} is what its "
            "cache has.",
            stacklevel=2,
        )
        return cached


def upload(
    model: keras.Model,
    address: Address,
    *,
    architecture: str | None,
    facts: CardFacts,
    private: bool | None,
) -> Address:
    """Save a model to the hub, in one commit.

    Args:
        model: any Keras model; for timm's layout one that timm has too.
        address: of the repository, which is made where it is not there, and its branch.
        architecture: constructor's name for timm's layout, or None for Keras'.
        facts: what the card says that the model does not know.
        private: whether a new repository is private; None as the account has it.

    Returns:
        The address of the commit.

    Raises:
        UploadError: if it cannot be saved; the repository holds what it held.
        ValueError: if the address or a fact is not one, or timm has no such model.
    """
    _check_target(address)
    api = _api(address)
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-hub-") as name:
        folder = Path(name)
        if architecture is None:
            folders.save_keras_folder(model, folder)
        else:
            timm_folder.save_timm_folder(model, folder, architecture)
        layout = {path.name for path in folder.iterdir()}
        # The address in the card stays true, as that of a branch.
        write_card(model, folder, str(address), facts, timm=architecture is not None)
        try:
            commit = _commit(api, address, folder, layout, private)
        # The client raises its own errors, those of its transport (httpx or httpx2, by
        # its version) and of hf_xet, and ValueErrors and RuntimeErrors around them.
        except Exception as error:
            raise UploadError(
                f"Could not save the model to {address}: {_reason(error)}. What is "
                "there comes in whole commits: the model is all of it there or not at "
                f"all. Received: target={str(address)!r}"
            ) from error
    return dataclasses.replace(address, revision=commit)


def _check_target(address: Address) -> None:
    received = f"Received: target={str(address)!r}"
    if address.file is not None:
        raise ValueError(
            "A model is saved to a repository of the hub, 'hf://owner/name', or to a "
            f"branch of it, 'hf://owner/name@branch'. {received}"
        )
    if download.COMMIT.fullmatch(address.revision):
        raise ValueError(f"A commit stays as it is: expected a branch. {received}")


def _api(address: Address) -> "HfApi":
    """The hub's client, once it is sure that it may write there."""
    from huggingface_hub import HfApi, get_token

    import keras_metaformer

    received = f"Received: target={str(address)!r}"
    if download.is_offline():
        raise UploadError(
            f"Offline mode is on: unset HF_HUB_OFFLINE and KERAS_METAFORMER_OFFLINE. "
            f"{received}"
        )
    if get_token() is None:
        raise UploadError(
            "The hub takes models from those it knows: run `hf auth login`, or set "
            f"HF_TOKEN to a token that may write. {received}"
        )
    return HfApi(
        library_name="keras-metaformer", library_version=keras_metaformer.__version__
    )


def _commit(
    api: "HfApi", address: Address, folder: Path, layout: set[str], private: bool | None
) -> str:
    """Commit a folder; the commit's name.

    Args:
        api: the hub's client.
        address: of the repository and its branch.
        folder: its files.
        layout: names of those that make the model.
        private: of a new repository.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository, branch = address.repository, address.revision
    api.create_repo(repository, private=private, exist_ok=True)
    if branch != "main":
        api.create_branch(repository, branch=branch, exist_ok=True)
    there = set(api.list_repo_files(repository, revision=branch))
    files = {path.name: path for path in folder.iterdir()}
    if CARD in there and not _is_ours(address):
        warnings.warn(
            f"{address} has a {CARD} that somebody wrote: it is left as it is. Without "
            "it one is made of the model.",
            stacklevel=4,
        )
        del files[CARD]
    # What an earlier model in another layout had would be loaded with this one.
    stale = (there & folders.ALL_FILES) - layout
    operations: list[Any] = [CommitOperationDelete(name) for name in sorted(stale)]
    for name, path in sorted(files.items()):
        operations.append(CommitOperationAdd(name, path))
    # In one commit, which `upload_folder` does not promise.
    done = api.create_commit(
        repository,
        operations,
        commit_message="Save a model with keras-metaformer",
        revision=branch,
    )
    return done.oid


def _is_ours(address: Address) -> bool:
    """Whether the card that is there was made by `write_card`."""
    path = download.fetch_from_hub(address.repository, address.revision, CARD)
    return CardFacts.MARK in path.read_text(encoding="utf-8", errors="replace")


def _reason(error: BaseException) -> str:
    """What the hub, or else its client, says went wrong."""
    while error.__cause__ is not None and isinstance(error, RuntimeError):
        error = error.__cause__
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = getattr(error, "server_message", None) or " ".join(str(error).split())
    said = said or type(error).__name__
    if status is None:
        return said
    why = {401: "needs a valid token", 403: "needs a token that may write there"}
    return f"the hub {why.get(status, 'refused it')} (HTTP status {status}): {said}"
