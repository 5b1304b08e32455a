"""How many photos a second a server answers, how long each takes, and whether its memory grows.

    python -m benchmarks.serving served PHOTOS
    python -m benchmarks.serving served PHOTOS --with litserve --clients 8 --minutes 10

Starts `keras-smlp serve FOLDER` on 127.0.0.1, sends the JPEG files of PHOTOS (all below 20 MB) from
so many clients at a time, each of which sends the next photo once it has its answer, and ends the
server. Clients and server share the cores of this machine. With --minutes every tenth photo is cut
in half, and has to be refused; the resident memory of the server's processes is printed too.
"""

import argparse
import http.client
import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks import tables
from keras_smlp_cli.arguments import Parser, positive
from keras_smlp_cli.serve import SERVERS

HEADERS = {"content-type": "multipart/form-data; boundary=photo"}


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a SavedModel")
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="folder of JPEG files")
    parser.add_argument("--with", dest="server", choices=SERVERS, default=SERVERS[0])
    parser.add_argument("--clients", nargs="*", type=positive, default=[1, 8, 32])
    parser.add_argument("--seconds", type=positive, default=30, help="for each (default: 30)")
    parser.add_argument(
        "--minutes", type=minutes, help="1 to 60: watch the memory so long, instead of --seconds"
    )
    parser.add_argument("--port", type=positive, default=8000)
    options = parser.parse_args()
    files = sorted(x for x in options.photos.iterdir() if x.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        parser.error(f"PHOTOS must have JPEG files in it; {options.photos} has none")
    photos = [file.read_bytes() for file in files]
    print(f"{len(photos)} photos, {statistics.mean(map(len, photos)) / 1000:.0f} kB on average")
    command = [sys.executable, "-m", "keras_smlp_cli", "serve", options.folder]
    command += ["--with", options.server, "--port", str(options.port)]
    server = subprocess.Popen(command)
    try:
        wait(options.port, server)
        send(options.port, form(photos[0]))  # LitServe's first answer
        if options.minutes:
            watch(options, photos, server.pid)
        else:
            names = ("clients", "answers", "answers/s", "median, ms", "95%, ms", "99%, ms")
            print(tables.head("server", *names))
            for clients in options.clients:
                begin = time.perf_counter()
                found, _ = load(options.port, photos, clients, options.seconds)
                count, seconds = len(found), time.perf_counter() - begin
                cells = [str(clients), str(count), f"{count / seconds:.1f}"]
                cells += [f"{1000 * x:.0f}" for x in percentiles(found)]
                print(tables.line(options.server, *cells), flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    return status


def minutes(text):
    """The minutes to watch."""
    if positive(text) > 60:
        raise argparse.ArgumentTypeError(f"must be 1 to 60. Received: {text}")
    return int(text)


def wait(port, server, seconds=120):
    """Waits until the server is ready."""
    until = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the server did not begin")


def form(photo):
    """The body of a request with this photo."""
    head = 'content-disposition: form-data; name="photo"; filename="photo.jpg"'
    begin = f"--photo\r\n{head}\r\ncontent-type: image/jpeg\r\n\r\n"
    return begin.encode() + photo + b"\r\n--photo--\r\n"


def send(port, body, connection=None):
    """The status of one request, and its connection."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", body, HEADERS)
    response = connection.getresponse()
    response.read()
    return response.status, connection


def load(port, photos, clients, seconds, is_damaged=lambda number: False):
    """Sends photos from several clients for so many seconds.

    Returns:
        The seconds that each answer took, and the number of refusals, which are those expected.
    """
    bodies, halves = [[form(x[: len(x) // n]) for x in photos] for n in (1, 2)]
    numbers, found, refused, wrong = itertools.count(), [], [], []
    until = time.monotonic() + seconds

    def client():
        connection = None
        while time.monotonic() < until and not wrong:
            number = next(numbers)
            is_half = is_damaged(number)
            body = (halves if is_half else bodies)[number % len(bodies)]
            begin = time.perf_counter()
            try:
                status, connection = send(port, body, connection)
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
            (refused if is_half else found).append(time.perf_counter() - begin)
            if status != (400 if is_half else 200):
                wrong.append(status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"the server answered with {wrong}")
    return found, len(refused)


def percentiles(seconds):
    """The median, the 95th and the 99th percentile."""
    parts = statistics.quantiles(seconds, n=100)
    return parts[49], parts[94], parts[98]


def watch(options, photos, pid):
    """Prints the memory after each minute of requests."""
    print(tables.head("server", "minutes", "answers", "refusals", "resident memory, MB"))
    for minute in range(options.minutes + 1):
        found, refused = [], 0
        if minute:
            found, refused = load(
                options.port, photos, options.clients[0], 60, lambda n: n % 10 == 9
            )
        cells = minute, len(found), refused, round(megabytes(pid))
        print(tables.line(options.server, *map(str, cells)), flush=True)


def megabytes(pid):
    """Resident memory of a process and those that it began, in 10^6 bytes."""
    process = Path("/proc", str(pid))
    pages = int((process / "statm").read_text().split()[1])
    children = [x for file in process.glob("task/*/children") for x in file.read_text().split()]
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(map(megabytes, children))


if __name__ == "__main__":
    sys.exit(main())
