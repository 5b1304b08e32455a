"""`hf://ACCOUNT/NAME@REVISION/FILE`: a file of the Hugging Face hub, pinned and verified.

huggingface_hub downloads files into its own cache, atomically, but compares nothing but their
sizes. Here the contents are compared with the ETag that the hub gave them: the SHA-256 of a large
file, git's SHA-1 of a small one. A branch or tag is resolved to its commit, which is printed.
"""

import contextlib
import functools
import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from keras_smlp.checks import refusal, shown
from keras_smlp.weights.download import sha256
from keras_smlp.weights.keras_files import CLASSES

SCHEME = "hf://"
FORM = "hf://ACCOUNT/NAME, hf://ACCOUNT/NAME@REVISION or hf://ACCOUNT/NAME@REVISION/FILE"
KERAS, SAFETENSORS = "model.keras", "model.safetensors"
# which file an address without one stands for, the first that the repository has
OF_MODELS = (KERAS,)
OF_WEIGHTS = (SAFETENSORS, KERAS)
OF_COMMANDS = (KERAS, SAFETENSORS)  # a `.keras` file also says classes, channels and activation
DEFAULT_REVISION = "main"
COMMIT = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


class Fetched(NamedTuple):
    """A file of the hub on this machine.

    Attributes:
        path: `pathlib.Path` in the cache of huggingface_hub.
        address: Its whole address, with the commit and the file.
    """

    path: Path
    address: str


def is_address(value):
    """Whether it is the address of something on the Hugging Face hub."""
    return isinstance(value, str) and value.startswith(SCHEME)


def fetch(address, argument, files, endings):
    """A file of the hub, downloaded unless it is in the cache, and verified.

    What is pinned to a commit and cached needs no network. A branch or a tag is asked for each
    time; if the hub cannot be reached, what it was at last is taken from the cache, and a line says
    so.

    Args:
        address: String: `hf://ACCOUNT/NAME[@REVISION][/FILE]`.
        argument: What the caller calls it, for messages.
        files: The names to look for if the address has none.
        endings: Tuple of strings. How the name of a file may end.

    Returns:
        A `Fetched`.

    Raises:
        ValueError: If it is no such address, or the contents are not what the hub announced.
        FileNotFoundError: If there is no such repository, revision or file.
        PermissionError: If it needs a login or the consent of its owner.
        ConnectionError: If the hub cannot be reached, or the download breaks off.
        ModuleNotFoundError: If huggingface_hub is not installed.
    """
    uri = parse(address, argument, endings)
    revision = uri.revision or DEFAULT_REVISION
    files = (uri.path_in_repo,) if uri.path_in_repo else files
    with in_words(address):
        found = cached(uri.id, revision, files) if COMMIT.fullmatch(revision) else None
        why = ""
        if found is None:
            names, why = listed(uri.id, revision)
            if names is not None:
                found = downloaded(uri.id, revision, chosen(address, files, names))
            else:
                found = cached(uri.id, revision, files, complete=False)
        if found is None:
            raise ConnectionError(
                f"{shown(address)} is not in the cache, and the hub cannot be reached ({why})"
            )
        file, path = found
        commit = path.parents[file.count("/")].name
        for name in (file, *beside(file)):
            if (own := path.with_name(Path(name).name)).exists():
                verify(address, own, uri.id, name, commit)
    whole = f"{SCHEME}{uri.id}@{commit}/{file}"
    if why or whole != address:
        reason = f" in the cache; the hub cannot be reached ({why})" if why else ""
        print(f"{shown(address)} is {whole}{reason}", flush=True)
    return Fetched(path, whole)


def parse(address, argument, endings):
    """The `huggingface_hub.HfUri` of an address."""
    hub = library()
    allowed = f"{FORM} with a FILE that ends in one of {endings}"
    try:
        uri = hub.parse_hf_uri(address)
    except ValueError as error:
        raise refusal(argument, address, allowed) from error
    file = uri.path_in_repo
    if uri.type != "model" or (file and not file.endswith(endings)) or ".." in file.split("/"):
        raise refusal(argument, address, allowed)
    return uri


def library():
    """The package huggingface_hub."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors  # by itself the package imports no module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{SCHEME} needs huggingface_hub, which is not installed: "
            'pip install "keras-smlp[hub]"',
            name="huggingface_hub",
        ) from error
    return huggingface_hub


def beside(file):
    """What belongs to a file of a repository: to a `.keras` file the names of its classes."""
    return (str(Path(file).with_name(CLASSES).as_posix()),) if file.endswith(".keras") else ()


def cached(repository, revision, files, complete=True):
    """The first of some files that is in the cache, with its path; `None` if there is none.

    Args:
        repository: String, `ACCOUNT/NAME`.
        revision: String.
        files: Names in the repository.
        complete: Boolean. Whether it must be known of what belongs to the file that it is there, or
            that the repository has none. Defaults to `True`.
    """
    hub = library()
    for file in files:
        path, *others = (
            hub.try_to_load_from_cache(repository, name, revision=revision)
            for name in (file, *beside(file))
        )
        if isinstance(path, str) and not (complete and None in others):
            return file, Path(path)
    return None


def listed(repository, revision):
    """The names of the files at a revision; `None` and the reason if the hub cannot be reached."""
    hub = library()
    try:
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        info = hub.HfApi().model_info(repository, revision=revision, timeout=timeout)
    except Exception as error:
        if not is_unreachable(error):
            raise
        return None, reason(error)
    return {file.rfilename for file in info.siblings or ()}, ""


def chosen(address, files, names):
    """The first of some files that the repository has."""
    for file in files:
        if file in names:
            return file
    has = ", ".join(sorted(names)) or "nothing"
    wanted = " or ".join(files)
    raise FileNotFoundError(f"{shown(address)} has no {shown(wanted)} (it has {shown(has)})")


def downloaded(repository, revision, file):
    """A file, downloaded with what belongs to it: its name and its path."""
    hub = library()
    # by the branch's name, not by the commit: so the cache keeps what it is
    path = Path(hub.hf_hub_download(repository, file, revision=revision))
    commit = path.parents[file.count("/")].name
    for name in beside(file):
        # asked for even if it is not listed: then the cache keeps that it is not there
        with contextlib.suppress(hub.errors.RemoteEntryNotFoundError):
            hub.hf_hub_download(repository, name, revision=commit)
    return file, path


# ---- contents -----------------------------------------------------------------------------------
def verify(address, path, repository, file, commit):
    """Refuses a file that is not what the hub announced, and removes it from the cache."""
    hub = library()
    if path.is_symlink():
        etag = Path(os.readlink(path)).name  # the cache names the contents so
    else:  # a file system without links
        url = hub.hf_hub_url(repository, file, revision=commit)
        said, why = None, "the hub does not say what it holds"
        try:
            said = hub.get_hf_file_metadata(url).etag
        except Exception as error:
            if not is_unreachable(error):
                raise
            why = "the hub cannot be reached"
        if said is None:
            print(f"{shown(path)} is not verified; {why}", flush=True)
            return
        etag = said
    status = path.stat()
    if digest(path, bool(SHA256.fullmatch(etag)), status.st_size, status.st_mtime_ns) == etag:
        return
    link: Path | None = path
    while link is not None:  # a link to the contents, perhaps to those that repositories share
        target = Path(os.path.join(link.parent, os.readlink(link))) if link.is_symlink() else None
        link.unlink()
        link = target
    raise ValueError(
        f"{shown(address)}: {shown(file)} is not what the hub announced ({etag}); it was removed "
        "from the cache, to be downloaded again"
    )


@functools.lru_cache
def digest(path, is_large, size, changed):
    """The SHA-256 of a file, or of a small one what git calls its contents.

    Args:
        path: Path of the file.
        is_large: Boolean. Which of the two.
        size: Integer, bytes.
        changed: Integer, when it was changed: so that a file is read once in a process.
    """
    if is_large:
        return sha256(path)
    return hashlib.sha1(f"blob {size}\0".encode() + path.read_bytes()).hexdigest()


# ---- errors -------------------------------------------------------------------------------------
def is_unreachable(error):
    """Whether an error says that the hub did not answer, or that it is out of order."""
    errors = library().errors
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    # httpx or httpx2, by the version of huggingface_hub
    own = type(error).__module__.startswith("httpx")
    return own or isinstance(error, (errors.OfflineModeIsEnabled, ConnectionError))


def reason(error):
    """The first line of an error's text."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])


@contextlib.contextmanager
def in_words(address):
    """Says of an error of huggingface_hub, in one sentence, what is wrong with an address."""
    errors, name = library().errors, shown(address)
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{name} is gated: accept its terms on its page, and {LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is in no repository that can be seen: there is none of this name, or it is "
            f"private ({LOG_IN})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{name} has no such revision") from error
    except errors.RemoteEntryNotFoundError as error:
        raise FileNotFoundError(f"{name} has no such file") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"{name} was refused (HTTP {status}): {LOG_IN}") from error
        raise ConnectionError(f"{name}: HTTP {status} ({reason(error)})") from error
    except errors.LocalEntryNotFoundError as error:  # the network went away on the way
        raise ConnectionError(f"{name} was not transferred ({reason(error)})") from error
    except ConnectionError:
        raise
    except RuntimeError as error:  # of one file of an upload
        why = f" ({reason(error.__cause__)})" if error.__cause__ else ""
        raise ConnectionError(f"{name}: {reason(error)}{why}") from error
    except Exception as error:
        # an error of the system has a number; huggingface_hub raises some without
        is_short = isinstance(error, OSError) and type(error) is OSError and error.errno is None
        if not (is_short or is_unreachable(error)):
            raise
        raise ConnectionError(f"{name} was not transferred ({reason(error)})") from error
