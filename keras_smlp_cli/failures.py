"""How a command ends: by what its user can mend, in one line; by a bug, with a traceback."""

import contextlib
import gc
import importlib.util
import os
import re
import signal
import sys
import threading
import traceback

BACKENDS = ("tensorflow", "jax", "torch")
# module -> extra that installs it
EXTRAS = {backend: backend for backend in BACKENDS}
EXTRAS |= {"matplotlib": "predict", "tqdm": "predict", "keras_cv": "keras-cv", "pyarrow": "parquet"}
EXTRAS |= {"mlflow": "mlflow", "wandb": "wandb", "huggingface_hub": "hub", "yaml": "predict"}
# what the extra train installs
TRAIN = {"tensorflow", "matplotlib", "PIL", "sklearn", "tensorboardX", "tensorflow_datasets"}
TRAIN |= {"tqdm", "yaml"}


class Failure(SystemExit):
    """Ends a command with one line.

    Args:
        message: String.
        code: Positive integer. The exit status. Defaults to `2`: what was asked for is wrong.
    """

    def __init__(self, message, code=2):
        super().__init__(code)
        self.message, self.status = str(message), code


class Terminated(Failure):
    """SIGTERM ends the command."""


def run(prog, command, *arguments, errors=(), trains=False):
    """Runs a command; what its user can mend is one line on stderr.

    Args:
        prog: String. What the user typed: `keras-smlp train`, `train.py`.
        command: Function that returns the exit status, or `None` for 0.
        *arguments: Its arguments.
        errors: Tuple of exception types that end in a line too, with status 2. Defaults to none.
        trains: Boolean. Whether the command needs the extra `train`. Defaults to `False`.

    Returns:
        The exit status.
    """
    backend = os.environ.get("KERAS_BACKEND") or None
    message: str | None
    try:
        if backend not in (None, *BACKENDS):
            raise Failure(f"KERAS_BACKEND: {backend}, allowed: {', '.join(BACKENDS)}")
        with ending_in_order():
            return command(*arguments) or 0
    except KeyboardInterrupt:
        message, code = "interrupted; what was saved is whole", 130
    except Failure as failure:
        message, code = failure.message, failure.status
    except SystemExit as stop:  # after --help, or argparse's own line
        return int(stop.code or 0)
    except Exception as error:
        message, code = str(error), 2
        if type(error).__name__ == "Interrupted":  # known only once Keras is loaded
            code = 128 + getattr(error, "number", 0)
        elif isinstance(error, ModuleNotFoundError) and (found := hint(error, trains)):
            message = found
        elif not isinstance(error, errors):
            traceback.print_exc()
            message, code = None, 1
    if trains:
        # the iterator that the error held must go now: at Python's own end it would wait for
        # threads of tf.data that wait for Python
        gc.collect()
    if message is not None:
        print(f"{prog}: error: {one_line(message)}", file=sys.stderr)
    return code


@contextlib.contextmanager
def ending_in_order():
    """SIGTERM ends the command as Ctrl-C does, so that nothing half-written stays.

    Python drops an exception that is raised in what the garbage collector calls, of which JAX has a
    function, and in finalizers: then the signal is sent again. A second SIGTERM is ignored while
    the first one ends the command; a second Ctrl-C is not. What is ignored from the start (by
    nohup) stays so. A training has handlers of its own.
    """
    own, told = os.getpid(), sys.unraisablehook

    def end(number, frame):
        if os.getpid() != own:  # a forked process has this handler, too
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, signal.SIG_IGN)
            raise Terminated("interrupted by SIGTERM; what was saved is whole", 128 + number)

    def dropped(what):
        if issubclass(what.exc_type, KeyboardInterrupt):
            again(signal.SIGINT)
        elif issubclass(what.exc_type, Terminated):
            signal.signal(signal.SIGTERM, end)
            again(signal.SIGTERM)
        else:
            told(what)

    usual: dict = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()  # others set no handlers
    changed = [n for n, handler in usual.items() if is_main and signal.getsignal(n) is handler]
    for number in changed:
        signal.signal(number, end)
    if changed:
        sys.unraisablehook = dropped
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, usual[number])
        sys.unraisablehook = told


def again(number):
    """Sends the main thread a signal once what runs there now has ended."""
    threading.Timer(0.02, send, (number,)).start()


def send(number):
    """Sends the main thread a signal, which also interrupts what it waits for."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:  # Windows
        signal.raise_signal(number)


def hint(error, trains):
    """How to install the module that is missing; `None` for what is none of the extras'."""
    module = str(error.name).partition(".")[0]
    if trains and module in TRAIN:
        extras = "train"
    elif module in EXTRAS:
        extras = EXTRAS[module] + ",train" * trains
    else:
        return None
    found = f'{module} is not installed: pip install "keras-smlp[{extras}]"'
    # a training needs TensorFlow in any case
    may_be_another = module in BACKENDS and not (trains and module == "tensorflow")
    if may_be_another and not os.environ.get("KERAS_BACKEND"):
        for other in BACKENDS:
            if other != module and importlib.util.find_spec(other):
                return f"{found}, or set KERAS_BACKEND={other}, which is"
    return found


def one_line(text):
    """A text as one line, in which nothing can move a terminal."""
    line = " ".join(str(text).split())
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in line)


@contextlib.contextmanager
def exit_on_errors(errors=(ValueError, OSError), prefix="", code=2, keys=None):
    """Ends the command with one line for errors that the user can mend.

    Args:
        errors: Tuple of exception types. Defaults to those of wrong values and files.
        prefix: String before the message. Defaults to none.
        code: Positive integer. The exit status. Defaults to `2`.
        keys: Dict from an argument, as messages name it in backquotes, to the key of the
            configuration. Defaults to `None`: the messages stay as they are.
    """
    try:
        yield
    except errors as error:
        found = keys or {}
        message = re.sub(r"`(\w+)`", lambda name: found.get(name[1], name[0]), str(error))
        message = re.sub(
            r"(?<=Received: )(\w+)(?==)", lambda name: found.get(name[1], name[0]), message
        )
        raise Failure(prefix + message, code) from error
