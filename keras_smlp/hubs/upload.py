"""`push`: the upload of a published folder to the Hugging Face hub, in one commit."""

import os
from pathlib import Path

from keras_smlp.checks import check_path, received, shown
from keras_smlp.hubs import checker, names
from keras_smlp.weights import hub


def check_repository(repository):
    """Refuses what is no `ACCOUNT/NAME`; `ModuleNotFoundError` if huggingface_hub is missing."""
    library = hub.library()
    try:
        uri = library.parse_hf_uri(f"{hub.SCHEME}{repository}")
        is_name = (uri.type, uri.id) == ("model", repository)
    except ValueError:
        is_name = False
    if not is_name:
        raise ValueError(
            f"`repository` must be ACCOUNT/NAME. Received: {received('repository', repository)}"
        )


def check_push(repository):
    """Refuses, before anything is written, an upload that cannot be.

    Args:
        repository: String, `ACCOUNT/NAME`.

    Raises:
        ValueError: If it is no such name.
        PermissionError: If there is no token.
        ConnectionError: If huggingface_hub is told to stay offline.
        ModuleNotFoundError: If it is not installed.
    """
    check_repository(repository)
    library = hub.library()
    if library.is_offline_mode():
        raise ConnectionError("HF_HUB_OFFLINE is set, so that nothing can be uploaded")
    if library.get_token() is None:
        raise PermissionError(f"{hub.SCHEME}{repository} needs a token: {hub.LOG_IN}")


class IsPublic(PermissionError):
    """Says that a repository that must be private is public."""


def written_in(folder):
    """The files in a folder by their names; refuses one in which `publish` did not write all."""
    path = check_path("folder", folder)
    files = {file.name: file for file in sorted(path.iterdir())} if path.is_dir() else {}
    others = [name for name, file in files.items() if name not in names.ALL or not file.is_file()]
    if others or checker.LIST not in files:
        why = f"in which there is {shown(others[0])}" if others else f"without {checker.LIST}"
        raise ValueError(
            "`folder` must be one that publish wrote, with nothing else in it. "
            f"Received: {received('folder', str(path))}, {why}"
        )
    return files


def push(folder: str | os.PathLike, repository: str, private: bool = False) -> str:
    """Uploads a published folder to the Hugging Face hub, in one commit.

    The repository is made if there is none. Files of a former upload that the folder does not have
    are removed from it.

    Args:
        folder: Path of the folder that `publish` wrote.
        repository: String, `ACCOUNT/NAME`.
        private: Boolean. Whether the repository must be private; one that is made is public
            otherwise, as far as the account's settings say so. Defaults to `False`.

    Returns:
        The address of the commit: `hf://ACCOUNT/NAME@COMMIT`.

    Raises:
        ValueError: If `repository` is no such name, or something in the folder is none of the files
            that `publish` writes.
        PermissionError: If the token is missing or does not suffice; `IsPublic` if the repository
            must be private and is public.
        ConnectionError: If the hub cannot be reached or refuses the files.
    """
    check_push(repository)
    written = written_in(folder)
    library = hub.library()
    address = f"{hub.SCHEME}{repository}"
    with hub.in_words(address):
        hub_api = library.HfApi()
        hub_api.create_repo(repository, private=private or None, exist_ok=True)
        info = hub_api.model_info(repository)
        if private and not info.private:
            raise IsPublic(f"{address} is public already; nothing was uploaded")
        there = {file.rfilename for file in info.siblings or ()}
        operations = [
            library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file)
            for name, file in written.items()
        ]
        operations += [
            library.CommitOperationDelete(path_in_repo=name)
            for name in names.ALL
            if name in there and name not in written
        ]
        message = f"Publish {shown(Path(folder).name)}, written by keras_smlp"
        commit = hub_api.create_commit(repository, operations=operations, commit_message=message)
    return f"{address}@{commit.oid}"
