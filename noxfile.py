"""The test matrix: `python -m nox` runs each backend alone and all three together.

python -m nox                                # everything
python -m nox -s "alone(backend='jax')"      # one backend, nothing else installed
python -m nox -s matrix -- -k parity         # some tests on all three backends
python -m nox -R -s matrix -- -k parity      # the same again without installing
"""

from pathlib import Path

import nox

BACKENDS = ("tensorflow", "jax", "torch")
# begun first, or they would run at the end, one processor idle
LONGEST = ("resume", "train", "distribution", "benchmark", "readme", "parity")
# of what is NumPy's, tf.data's and PIL's alone: once, no Keras computes there
ONCE = ("augment", "decode", "mixing", "order", "pth", "pth_damage")

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["alone", "matrix"]
nox.options.default_venv_backend = "venv"


def install(session, *extras):
    session.install("-c", "constraints.txt", "-e", f".[{','.join((*extras, 'test'))}]")


def in_order(*names):
    """The files of tests of these names, those that take longest first."""
    ordered = sorted(names, key=lambda name: (name not in LONGEST, name))
    return [f"tests/test_{name}.py" for name in ordered]


def pytest(session, backend, *arguments):
    """Runs the tests on one backend; JAX keeps what it compiled for all processes and sessions."""
    environment = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_COMPILATION_CACHE_DIR": str(session.cache_dir.resolve() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",  # two processes, a file of tests each at a time
    }
    codes = [0, 5] if session.posargs else [0]
    command = ["python", "-m", "pytest", "-n", "2", "--dist", "loadfile", "--durations=5"]
    command += ["--no-loadscope-reorder"]
    # 5: none of the chosen tests is for this step
    session.run(*command, *arguments, env=environment, success_codes=codes)


@nox.session
@nox.parametrize("backend", BACKENDS)
def alone(session, backend):
    """The network's quick tests and the README's examples where no other backend is installed."""
    install(session, backend)
    others = [name for name in BACKENDS if name != backend]
    session.run(
        "python",
        "-c",
        "import importlib.util as u, sys; assert not any(map(u.find_spec, sys.argv[1:])), sys.argv",
        *others,
    )
    # the examples of the README call what the other tests are about
    names = ("import", "layers", "model", "parity", "port_checkpoint", "readme")
    files = session.posargs or in_order(*names)
    pytest(session, backend, "-m", "not slow and not cross", *files)


@nox.session
def matrix(session):
    """All tests in one environment, on each backend, then the files of each on the others."""
    install(session, *BACKENDS, "train", "keras-cv", "openvino", "litert")
    names = {path.stem.removeprefix("test_") for path in Path("tests").glob("test_*.py")}
    for backend in BACKENDS:
        files = session.posargs or in_order(*names)
        pytest(session, backend, "-m", "not cross", *files)
        names -= set(ONCE)
    pytest(session, "tensorflow", "-m", "cross", *session.posargs)


@nox.session
def lint(session):
    """ruff: the rules and the format."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
