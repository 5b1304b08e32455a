"""How long the exported page takes to answer, in a browser that has not seen it.

python -m benchmarks.page SITE [SITE ...] --photo photo.jpg --browsers 5

Each SITE is a folder of `keras-smlp export --format web --runtime ...`. In turns a new headless
Chromium opens each of them, served on 127.0.0.1, gets the photo as soon as the page has loaded, and
then so many times again. The seconds are those that the page shows: the first answer's are from
the photo to the names, with what was left of loading the network. Needs the package playwright and
an installed Chromium or Chrome.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import statistics
import sys
import threading
from pathlib import Path

from benchmarks import tables
from keras_smlp_cli.arguments import Parser, positive

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")  # as in .ci/run
SHOWN = re.compile(r"Answered in ([\d.]+) s: .*?([\d.]+) s in the network, on (.+)\.")


def main():
    parser = Parser(__doc__)
    parser.add_argument("sites", metavar="SITE", nargs="+", type=Path, help="an exported folder")
    parser.add_argument("--photo", type=Path, required=True, help="a photo's file")
    parser.add_argument("--browsers", type=positive, default=5, help="of each (default: 5)")
    parser.add_argument("--later", type=positive, default=4, help="more answers (default: 4)")
    parser.add_argument("--device", choices=("webgpu", "wasm"), help="what the page is asked for")
    parser.add_argument("--options", default="", help="Chromium's, separated by spaces")
    options = parser.parse_args()
    for site in options.sites:
        if not (site / "about.json").is_file():
            parser.error(f"SITE must have an about.json in it; {site} has none")
    if not options.photo.is_file():
        parser.error(f"--photo must be a file. Received: {options.photo}")
    found = {site: [] for site in options.sites}
    for _ in range(options.browsers):
        for site in options.sites:
            found[site].append(answers(site, options))
    print(tables.head("page", "model, MB", "on", "first answer, s", "in the network", "later, s"))
    for site, rounds in found.items():
        size = json.loads((site / "about.json").read_text("utf-8"))["model"]["bytes"]
        firsts = [one[0] for one in rounds]
        devices = " / ".join(dict.fromkeys(x[2] for one in rounds for x in one))
        later = [x[0] for one in rounds for x in one[1:]]
        cells = (both(x[0] for x in firsts), both(x[1] for x in firsts), both(later))
        print(tables.line(site.name, f"{size / 1e6:.1f}", devices, *cells))
    return 0


def both(seconds):
    """The minimum and the median, in words."""
    seconds = list(seconds)
    return f"{min(seconds):.2f}, {statistics.median(seconds):.2f}"


def answers(site, options):
    """Opens a page in a new browser.

    Returns:
        A list with a triple for each answer: its seconds, those in the network, and the device.
    """
    from playwright.sync_api import sync_playwright

    with serving(site) as server, sync_playwright() as playwright:
        browser = launch(playwright, chromium(), options.options.split())
        page = browser.new_page()
        page.goto(server.address + (f"?device={options.device}" if options.device else ""))
        found = [one(page, options.photo) for _ in range(1 + options.later)]
        browser.close()
    return found


def chromium():
    """The path of an installed Chromium or Chrome; `None` if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def launch(playwright, path, options):
    """Starts a headless browser with these options, of Playwright's API."""
    if os.geteuid() == 0:  # root has no sandbox
        options = ["--no-sandbox", *options]
    return playwright.chromium.launch(executable_path=path, args=[*options])


def one(page, photo):
    """Gives the page a photo; returns what it shows of the answer."""
    page.set_input_files("#file", photo)
    page.wait_for_selector("#names li, #error:not([hidden])", timeout=300_000)
    shown = SHOWN.fullmatch(page.locator("#time").text_content())
    if not shown:
        raise RuntimeError(f"the page did not answer: {page.locator('#error').text_content()}")
    return float(shown[1]), float(shown[2]), shown[3]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """As `python -m http.server`, without a line for each request."""

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(folder, handler=Quiet):
    """Serves a folder on 127.0.0.1; yields the server, which has an `address`."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.address = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
