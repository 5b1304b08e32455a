"""The processes of the contenders, as their parent sees them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = ("-m", "benchmarks.contenders")
BUSY = 0.05  # of a processor, that a contender may use while it waits
MOMENT = 1.0  # seconds of waiting from which that is judged: threads fall asleep by and by


class Worker:
    """The process of one contender, warm.

    Attributes:
        about: What it said of itself.
        times: Seconds of all its calls.
        last: What else it said after its last turn.
        idle: The most of a processor that it used while it waited.
    """

    def __init__(self, job, options, scratch):
        self.job = job
        self.name = f"{job['contender']} on {job['backend']}, {job['precision']}"
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM, json.dumps(job)],
            env=environment(job, options, scratch),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.times, self.last, self.idle = [], {}, 0.0
        try:
            self.about = self.answer()
        except BaseException:
            self.close()
            raise

    def answer(self):
        """What the process says next."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise RuntimeError(f"{self.name}: {last_line(self.errors.read())}")

    def turn(self, seconds):
        """Lets it compute, and makes sure that it did not while it waited."""
        print(seconds, file=self.process.stdin, flush=True)
        self.last = self.answer()
        self.times += self.last.pop("times")
        waited, used = self.last.pop("waited"), self.last.pop("used")
        if waited > MOMENT:
            self.idle = max(self.idle, used / waited)
        if self.idle > BUSY:
            raise RuntimeError(
                f"{self.name} used {100 * self.idle:.0f}% of a processor while it waited: its "
                "threads spin, and the others' times are wrong"
            )

    def close(self):
        """Ends the process, or kills it where it does not end with its input."""
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def write_files(jobs, options, scratch):
    """Writes the weights and the exported models, in a process that is gone afterwards."""
    files = [Path(job["file"]) for job in jobs if job.get("own")]
    # ONNX's 8 bits are made of the plain file
    plain = [file.with_name(file.name.replace(".int8.onnx", ".onnx")) for file in files]
    job = {
        **jobs[0],
        "kind": "files",
        "form": "folded",
        "precision": "float32",
        "files": list(dict.fromkeys(map(str, plain + files))),
    }
    done = subprocess.run(
        [sys.executable, *PROGRAM, json.dumps(job)],
        env=environment(job, options, scratch),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the weights and exported models: {last_line(done.stderr)}")


def environment(job, options, scratch):
    """Of a contender: its backend, its threads, and no compiled code from earlier runs."""
    own = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "KERAS_BACKEND": job["backend"] if job["kind"] == "ours" else "torch",
        "OMP_NUM_THREADS": str(options.threads),
        "MKL_NUM_THREADS": str(options.threads),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several contenders share a device
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        **({"OMP_WAIT_POLICY": "PASSIVE"} if options.wait_policy == "passive" else {}),
    }
    other = ("OMP_WAIT_POLICY", "JAX_COMPILATION_CACHE_DIR")
    return {**{name: x for name, x in os.environ.items() if name not in other}, **own}


def last_line(text):
    """The last line of an error's text, which says what it is."""
    return (text.strip().splitlines() or ["no message"])[-1]
