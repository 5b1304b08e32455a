"""The runtime of the page: LiteRT.js of one version, whose files are known by their hashes."""

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from keras_smlp.checks import check_path, received, shown

VERSION = "2.5.3"
# serves the files of npm's packages as they are
CDN = "https://cdn.jsdelivr.net/npm"
FOLDER = "runtime"  # beside the page


@dataclass(frozen=True)
class File:
    """A file of the runtime.

    Attributes:
        package: The npm package that it is in.
        path: Its path there.
        integrity: Its hash, as browsers take it.
    """

    package: str
    path: str
    integrity: str


CORE, UTILITIES = "@litertjs/core", "@litertjs/wasm-utils"
# by the names that page/network.js gives them
FILES = {
    "core": File(
        CORE,
        "dist/index.js",
        "sha384-MapSVJ/DPwvaWpp7q+Bid9O3uY1oB0KOU1QRMP+Mm5zdz5oMme/BUyX6dVAMWnPg",
    ),
    "utilities": File(
        UTILITIES,
        "dist/index.js",
        "sha384-HIPwlWsctS5BRqrnvJKDVJ8SvqKB0QmiImdr6+hpP7+8UqeMJX/qrBkdfKQV2WZ/",
    ),
    "simdScript": File(
        CORE,
        "wasm/litert_wasm_internal.js",
        "sha384-NB/Wc4iozynQO5jzJ2VFoMKbqMvwwFGWxJL/o63IJT6W2JfZbsSLxA2cF6H/mLpQ",
    ),
    "simdWasm": File(
        CORE,
        "wasm/litert_wasm_internal.wasm",
        "sha384-AZ/Ak4CbDpjqpSr8WsnoL3Dcx6bDFA/k9b/jahok1TGHZ2OqIRjLBMiEmiNedhlC",
    ),
    "compatibleScript": File(
        CORE,
        "wasm/litert_wasm_compat_internal.js",
        "sha384-oh4nb8zDq6eVOpGeZE5gwDOJ16QujHLL8k/HEXt3XiPxr+8zn3YnkXP8P3BlJET1",
    ),
    "compatibleWasm": File(
        CORE,
        "wasm/litert_wasm_compat_internal.wasm",
        "sha384-glAZ6WjS7tLRt89pbTPXvLC1c7DCaVSfL2ngn5gZJiUuPs76fWYJy7ZeFaD0PJXx",
    ),
}
# what the core imports, by a name that only bundlers and import maps resolve
IMPORT = f'"{UTILITIES}"'
# both by their versions: of its second package the first one takes any later version, too
INSTALL = f"npm install {CORE}@{VERSION} {UTILITIES}@{VERSION}"


def integrity(data):
    """The hash of some bytes, as browsers take it."""
    return f"sha384-{base64.b64encode(hashlib.sha384(data).digest()).decode()}"


def check(folder):
    """Refuses a folder that does not have the files of this version.

    Args:
        folder: Path of the folder `node_modules` that npm made.

    Returns:
        The path as a `pathlib.Path`.
    """
    folder = check_path("runtime", folder)
    if fault := find_fault(folder):
        raise ValueError(
            f"`runtime` must be the folder node_modules that `{INSTALL}` makes. "
            f"Received: {received('runtime', str(folder))}, {fault}"
        )
    return folder


def find_fault(folder):
    """What is wrong with a folder, in words; `None` if it has the files."""
    for package in (CORE, UTILITIES):
        try:
            found = json.loads((folder / package / "package.json").read_text("utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"without a {package}/package.json that names its version"
        if found != VERSION:
            return f"with {package} of version {shown(found)}"
    for file in FILES.values():
        path = folder / file.package / file.path
        if not path.is_file():
            return f"without {file.package}/{file.path}"
        if integrity(path.read_bytes()) != file.integrity:
            return f"where {file.package}/{file.path} is not the published file"
    return None


def copy(folder, site):
    """Copies the files to a site; the core imports its utilities from there."""
    target = site / FOLDER
    target.mkdir()
    for name, file in FILES.items():
        path = target / local_name(name)
        shutil.copyfile(folder / file.package / file.path, path)
        if name == "core":
            code = path.read_text("utf-8")
            assert IMPORT in code
            said = f"// Changed by keras_smlp: imports {UTILITIES} from the file beside it.\n"
            here = f'"./{local_name("utilities")}"'
            path.write_text(said + code.replace(IMPORT, here), "utf-8")


def local_name(name):
    """What a file is called in a site."""
    return {"core": "core.js", "utilities": "wasm-utils.js"}.get(name, Path(FILES[name].path).name)


def described(is_here):
    """What the page is told: whether the files are in the site, their addresses and hashes.

    Where they are not, the page itself replaces the core's import.
    """
    files = {}
    for name, file in FILES.items():
        if is_here:
            files[name] = {"address": f"{FOLDER}/{local_name(name)}"}
        else:
            address = f"{CDN}/{file.package}@{VERSION}/{file.path}"
            files[name] = {"address": address, "integrity": file.integrity}
    return {"isHere": is_here, "import": IMPORT, "files": files}
