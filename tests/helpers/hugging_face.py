"""A server on loopback that plays the Hugging Face hub, as far as huggingface_hub asks it.

It has repositories with commits. Files of some endings are large (LFS): they are uploaded by
themselves, and a request for one is redirected to another host, as the hub's is to its CDN.
"""

import base64
import hashlib
import http.server
import json
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from helpers import loopback

LARGE = (".keras", ".safetensors", ".onnx", ".tflite", ".npz")
TOKEN = "hf_good"


@dataclass
class Repository:
    """A repository: its commits, the newest last, each a dict from a file's name to its contents.

    Attributes:
        commits: Dict from the hash of a commit to its files.
        branches: Dict from a branch to the hash of a commit.
        private: Whether it is to be seen with the token alone.
        gated: Whether its files are refused.
    """

    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files, branch="main"):
        """Makes a commit of all these files; returns its hash."""
        text = repr((len(self.commits), sorted(files.items()))).encode()
        sha = hashlib.sha1(text).hexdigest()
        self.commits[sha], self.branches[branch] = dict(files), sha
        return sha

    def find(self, revision):
        """The hash of a revision, `None` if there is none."""
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    @property
    def files(self):
        return self.commits[self.branches["main"]]


class Hub(loopback.Server):
    """The hub.

    Attributes:
        repositories: Dict from `ACCOUNT/NAME` to a `Repository`.
        log: The requests: method and path.
        changed: Dict from a file's name to what is sent in its place, under its own ETag.
        cut: Dict from a file's name to the number of times that only a part of it comes.
        cut_to: How many bytes that are. `None`: half of them.
        status: If it is not `None`, the status of every answer.
    """

    def __init__(self):
        super().__init__(Handler)
        self.repositories, self.large, self.log = {}, {}, []
        self.changed, self.cut, self.cut_to, self.status = {}, {}, None, None
        self.cdn = f"http://localhost:{self.server_port}"

    def add(self, name, files, **how):
        """Adds a repository with one commit; returns its hash."""
        repository = self.repositories[name] = Repository(**how)
        return repository.commit(files)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.path_only = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.log.append((self.command, self.path_only))
        if self.server.status:
            self.say({"error": "out of order"}, self.server.status)
            return
        for pattern, answer in ROUTES.items():
            method, path = pattern.split()
            found = re.fullmatch(path, self.path_only)
            if found and self.command in method.split("|"):
                answer(self, *found.groups())
                return
        self.say({"error": "no such page"}, 404)

    do_HEAD = do_POST = do_PUT = do_GET

    # ---- answers --------------------------------------------------------------------------------
    def say(self, what, status=200, **headers):
        self.send(json.dumps(what).encode(), status, **headers)

    def refuse(self, status, code):
        self.say({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def send(self, data, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repository(self, name, needs_token=False):
        """The repository of a name, if it may be seen; else it answers and returns `None`."""
        found = self.server.repositories.get(name)
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if needs_token and not has_token:
            self.refuse(401, "Unauthorized")
        elif found is None or (found.private and not has_token):
            self.refuse(404 if has_token else 401, "RepoNotFound")
        else:
            return found
        return None

    # ---- reading --------------------------------------------------------------------------------
    def info(self, name, _=None, revision="main"):
        if (repository := self.repository(name)) is None:
            return
        sha = repository.find(revision or "main")
        if repository.commits and sha is None:
            self.refuse(404, "RevisionNotFound")
            return
        files = [{"rfilename": file} for file in repository.commits.get(sha, ())]
        self.say({"id": name, "sha": sha, "private": repository.private, "siblings": files})

    def resolve(self, name, revision, file):
        if (repository := self.repository(name)) is None:
            return
        sha = repository.find(revision)
        if repository.gated:
            self.refuse(403, "GatedRepo")
        elif sha is None:
            self.refuse(404, "RevisionNotFound")
        elif file not in repository.commits[sha]:
            self.send(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        elif file.endswith(LARGE):
            data = repository.commits[sha][file]
            etag = hashlib.sha256(data).hexdigest()
            self.server.large[etag] = data
            self.send(
                b"",
                302,
                Location=f"{self.server.cdn}/large/{etag}/{file}",
                X_Repo_Commit=sha,
                X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=str(len(data)),
            )
        else:
            data = repository.commits[sha][file]
            etag = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            self.contents(file, data, X_Repo_Commit=sha, ETag=f'"{etag}"')

    def download(self, etag, file):
        self.contents(file, self.server.large[etag])

    def contents(self, file, data, **headers):
        data = self.server.changed.get(file, data)
        if self.command == "GET" and self.server.cut.get(file):
            self.server.cut[file] -= 1
            self.close_connection = True
            part = len(data) // 2 if self.server.cut_to is None else self.server.cut_to
            self.send(data[:part], length=len(data), **headers)
        else:
            self.send(data, **headers)

    # ---- writing --------------------------------------------------------------------------------
    def create(self):
        said = json.loads(self.body)
        name = f"{said['organization']}/{said['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
        elif name in self.server.repositories:
            self.say({"error": "it is there already", "url": f"{self.server.base}/{name}"}, 409)
        else:
            private = said.get("private") or said.get("visibility") == "private"
            repository = self.server.repositories[name] = Repository(private=bool(private))
            repository.commit({".gitattributes": b"*.keras filter=lfs\n"})
            self.say({"url": f"{self.server.base}/{name}", "name": name, "id": "1"})

    def validate(self):
        text = json.loads(self.body)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no metadata"}]
        self.say({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name, revision):
        if self.repository(name, needs_token=True) is not None:
            files = json.loads(self.body)["files"]
            modes = {x["path"]: "lfs" if x["path"].endswith(LARGE) else "regular" for x in files}
            answer = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False}
                for path, mode in modes.items()
            ]
            self.say({"files": answer})

    def batch(self, name):
        objects = [
            {**x, "actions": {"upload": {"href": f"{self.server.base}/upload/{x['oid']}"}}}
            for x in json.loads(self.body)["objects"]
        ]
        self.say({"transfer": "basic", "objects": objects})

    def upload(self, etag):
        is_good = hashlib.sha256(self.body).hexdigest() == etag
        self.server.large[etag] = self.body
        self.say({}, 200 if is_good else 400)

    def commit(self, name, revision):
        if (repository := self.repository(name, needs_token=True)) is None:
            return
        files = dict(repository.files)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        url = f"{self.server.base}/{name}/commit/{sha}"
        self.say({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def log_message(self, *args):
        pass


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    rf"GET /api/models/{NAME}(/revision/(.+))?": Handler.info,
    rf"GET|HEAD /{NAME}/resolve/([^/]+)/(.+)": Handler.resolve,
    r"GET|HEAD /large/(\w+)/(.+)": Handler.download,
    r"POST /api/repos/create": Handler.create,
    r"POST /api/validate-yaml": Handler.validate,
    rf"POST /api/models/{NAME}/preupload/([^/]+)": Handler.preupload,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /upload/(\w+)": Handler.upload,
    rf"POST /api/models/{NAME}/commit/([^/]+)": Handler.commit,
}
