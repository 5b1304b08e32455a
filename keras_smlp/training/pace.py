"""How fast a run is, and how long it still takes, its compilation left out."""

import time
from collections.abc import Callable

# a unit of time, its seconds, the unit below it and its seconds
UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


class Pace:
    """The time of a step and of what comes between two epochs.

    An epoch is its steps and then a pause: evaluation, files, checkpoint. What happens once in a
    process does not count: its first step, which compiles, so that nothing is known before the
    second one; and most of its first pause, of which the evaluation counts, by its batches after
    the first.

    Args:
        steps: Positive integer. Steps of an epoch.
        epochs: Positive integer. Epochs of the run.
        clock: Function that returns the time in seconds. Defaults to `time.perf_counter`.
    """

    def __init__(self, steps: int, epochs: int, clock: Callable[[], float] = time.perf_counter):
        self.steps, self.epochs, self.clock = steps, epochs, clock
        self.first_step: float | None = None  # seconds, with its compilation
        self.pause = 0.0  # seconds of one, as far as they are known
        self.pauses = 0
        # of the evaluations: batches, and those of them that came after another, with their seconds
        self.batches, self.later, self.seconds = 0, 0, 0.0
        # steps and their seconds: of the epoch before, of this one
        self.before, self.now = (0, 0.0), (0, 0.0)
        self.at = clock()

    def begin(self) -> None:
        """The steps of an epoch begin."""
        self.before = self.now if self.now[0] else self.before
        self.now, self.at = (0, 0.0), self.clock()

    def step(self) -> None:
        """A step is done."""
        elapsed = self.elapsed()
        if self.first_step is None:
            self.first_step = elapsed
            return
        count, seconds = self.now
        self.now = count + 1, seconds + elapsed

    def timed(self, function: Callable) -> Callable:
        """The same function; its calls are the batches of an evaluation."""
        last = None

        def called(*arguments):
            nonlocal last
            answer = function(*arguments)
            now = self.clock()
            self.batches += 1
            if last is not None:
                self.later, self.seconds = self.later + 1, self.seconds + now - last
            last = now
            return answer

        return called

    def end_pause(self) -> None:
        """All that follows an epoch's steps is done."""
        elapsed = self.elapsed()
        evaluation = self.batches * self.seconds / self.later if self.later else 0.0
        self.pause = elapsed if self.pauses else evaluation
        self.pauses += 1

    def elapsed(self):
        """Seconds since it was asked, or an epoch began."""
        now = self.clock()
        elapsed, self.at = now - self.at, now
        return elapsed

    @property
    def step_time(self) -> float | None:
        """Seconds of a step: the mean over this epoch and the one before; `None` if unknown."""
        count = self.before[0] + self.now[0]
        return (self.before[1] + self.now[1]) / count if count else None

    def left(self, epoch: int, step: int) -> float | None:
        """Seconds until the run ends.

        Args:
            epoch: Integer. Epochs that are done.
            step: Integer. Steps of the next one that are done.

        Returns:
            Float, or `None` if it is not known. Before the first pause, pauses do not count.
        """
        if self.step_time is None:
            return None
        epochs = self.epochs - epoch
        return (epochs * self.steps - step) * self.step_time + epochs * self.pause


def in_words(seconds: float) -> str:
    """A time in its two largest units: `"45 s"`, `"3 min 20 s"`, `"2 h 5 min"`, `"3 d 4 h"`."""
    whole = round(seconds)
    for unit, size, below, part in UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + f" {rest} {below}" * (rest > 0)
    return f"{whole} s"
