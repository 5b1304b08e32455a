"""The processes of the contenders, as their parent sees them."""

import multiprocessing
import os
from unittest import mock

from benchmarks import process

SPAWN = multiprocessing.get_context("spawn")
BUSY = 0.05  # of a processor, that a contender may use while it waits
MOMENT = 1.0  # seconds of waiting from which that is judged: threads fall asleep by and by


class Worker:
    """The process of one contender, getting warm.

    Attributes:
        about: What it says of itself once it is warm.
        times: Seconds of all its calls.
        costs: Its memory, as it was after its last turn.
        idle: The most of a processor that it used while it waited.
    """

    def __init__(self, job, options, scratch):
        self.job = job
        self.about, self.times, self.costs, self.idle = {}, [], {}, 0.0
        self.connection, other_end = SPAWN.Pipe()
        self.process = SPAWN.Process(target=process.main, args=(job, other_end))
        with mock.patch.dict(os.environ, environment(job, options, scratch), clear=True):
            self.process.start()
        other_end.close()

    def warm(self):
        """Waits until the process has made its model and called it."""
        self.about = self.answer()

    def answer(self):
        """What the process says next."""
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            answer = {"error": f"ended with the status {self.process.exitcode}"}
        if "error" in answer:
            raise RuntimeError(f"{self.job}: {answer['error']}")
        return answer

    def turn(self, seconds):
        """Lets it compute, and makes sure that it did not while it waited."""
        self.connection.send(seconds)
        answer = self.answer()
        self.times += answer["times"]
        self.costs = answer["costs"]
        if answer["waited"] > MOMENT:
            self.idle = max(self.idle, answer["used"] / answer["waited"])
        if self.idle > BUSY:
            raise RuntimeError(
                f"{self.job} used {100 * self.idle:.0f}% of a processor while it waited: its "
                "threads spin, and the others' times are wrong"
            )

    def close(self):
        """Ends the process, which its parent need not wait for long."""
        self.connection.close()
        self.process.join(5)
        self.process.kill()
        self.process.join()


def environment(job, options, scratch):
    """Of a contender: its backend, its threads, and no compiled code from earlier runs."""
    own = {
        "KERAS_BACKEND": job.backend if job.kind == "ours" else "torch",
        "OMP_NUM_THREADS": str(options.threads),
        "MKL_NUM_THREADS": str(options.threads),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several contenders share a device
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    if options.wait_policy == "passive":
        own["OMP_WAIT_POLICY"] = "PASSIVE"
    other = ("OMP_WAIT_POLICY", "JAX_COMPILATION_CACHE_DIR")
    return {**{name: x for name, x in os.environ.items() if name not in other}, **own}
