"""A headless Chromium, a server for a folder, and LiteRT.js' files: what tests of a page need.

`python -m nox -s deep` installs Playwright and the runtime. Where one is missing, the tests are
skipped, but fail if the variable CI is set.
"""

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import threading
from pathlib import Path

import pytest

from helpers.processes import ROOT
from keras_smlp.deploy.export.web.runtime import VERSION

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")  # as in .ci/run
# a graphics processor, computed by the CPU
WEBGPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
)
# where noxfile.py has npm install it
RUNTIME = Path(
    os.environ.get("KERAS_SMLP_LITERTJS") or ROOT / ".nox" / "web" / VERSION / "node_modules"
)


def missing(reason):
    """Skips a test, or fails it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def chromium():
    """The path of the browser."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    return path or missing(f"there is no browser: none of {', '.join(NAMES)}")


def runtime():
    """The path of the folder node_modules with LiteRT.js."""
    if not (RUNTIME / "@litertjs").is_dir():
        missing(f"LiteRT.js is not in {RUNTIME}: `python -m nox -s deep` puts it there")
    return RUNTIME


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and keeps what was asked for in `server.asked`."""

    def log_message(self, *arguments):
        pass

    def send_response(self, code, message=None):
        self.server.asked.append((self.command, self.path, code))
        super().send_response(code, message)


@contextlib.contextmanager
def serving(folder):
    """Serves a folder as `python -m http.server`; yields the server, which has an `address`."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.address = [], f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def browser(*options):
    """A headless Chromium, of Playwright's API."""
    path = chromium()
    if not importlib.util.find_spec("playwright"):
        missing("Playwright is not installed: `python -m nox -s deep` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # root has no sandbox
        options = ["--no-sandbox", *options] if os.geteuid() == 0 else [*options]
        opened = playwright.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()
