"""A headless Chromium, a server for a folder, and LiteRT.js' files: what tests of a page need.

`python -m nox -s deep` installs Playwright and the runtime. Where one is missing, the tests are
skipped, but fail if the variable CI is set.
"""

import contextlib
import importlib.util
import os
from pathlib import Path

import pytest

from benchmarks import page
from helpers.processes import ROOT
from keras_smlp.deploy.export.web.runtime import VERSION

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
    return page.chromium() or missing(f"there is no browser: none of {', '.join(page.BROWSERS)}")


def runtime():
    """The path of the folder node_modules with LiteRT.js."""
    if not (RUNTIME / "@litertjs").is_dir():
        missing(f"LiteRT.js is not in {RUNTIME}: `python -m nox -s deep` puts it there")
    return RUNTIME


class Recording(page.Quiet):
    """Keeps what was asked for in `server.asked`."""

    def send_response(self, code, message=None):
        self.server.asked.append((self.command, self.path, code))
        super().send_response(code, message)


@contextlib.contextmanager
def serving(folder):
    """Serves a folder; yields the server, which has an `address` and `asked`."""
    with page.serving(folder, Recording) as server:
        server.asked = []
        yield server


@contextlib.contextmanager
def browser(*options):
    """A headless Chromium, of Playwright's API."""
    path = chromium()
    if not importlib.util.find_spec("playwright"):
        missing("Playwright is not installed: `python -m nox -s deep` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = page.launch(playwright, path, options)
        yield opened
        opened.close()
