"""Mutants: is a fault of one token noticed? `python -m nox -s nightly` runs this for hours.

python tests/mutants.py                  # draws 60 and runs the tests against each
python tests/mutants.py --list           # draws only
python tests/mutants.py --only 7 31 -- -m deep

cosmic-ray finds all places and makes the changes; the draw is seeded and spread over the package.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import apply_mutation
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
SEED = 20261126
# a folder below keras_smlp (its own files first): how many mutants
SPREAD = {"layers": 12, "": 6, "weights": 12, "inference": 3, "analysis": 2, "deploy": 6}
SPREAD |= {"data": 9, "training": 10}
BACKENDS = ("torch", "tensorflow", "jax")


class Mutant(NamedTuple):
    """A change of cosmic-ray's: the how-manieth place that its operator finds in a file."""

    operator: str
    occurrence: int
    path: Path
    line: int

    @property
    def kind(self):
        """Of the operator; many differ in what they put there alone."""
        return self.operator.split("_")[0]


def annotations(path):
    """From where to where a module's annotations are: a mutant there changes nothing."""
    for node in ast.walk(ast.parse(path.read_text())):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def all_mutants():
    """Every mutant of the package: folder (its own files: "") -> (path, line) -> mutants."""
    kinds = {name: get_operator(name) for name in operator_names()}
    operators = {name: kind() for name, kind in kinds.items() if not kind.arguments()}
    groups = {}
    for file in (ROOT / "keras_smlp").rglob("*.py"):
        path, tree, spans = file.relative_to(ROOT), get_ast_from_path(file), [*annotations(file)]
        lines = groups.setdefault(path.parts[1] if len(path.parts) > 2 else "", {})
        for name, operator in operators.items():
            places = (
                place for node in ast_nodes(tree) for place in operator.mutation_positions(node)
            )
            for occurrence, (start, _) in enumerate(places):
                if not any(begin <= start < end for begin, end in spans):
                    mutant = Mutant(name, occurrence, path, start[0])
                    lines.setdefault((str(path), start[0]), []).append(mutant)
    return groups


def drawn(groups):
    """Mutants, no two of a line; of an operator's many replacements one."""
    rng = random.Random(SEED)
    for group, count in SPREAD.items():
        for place in rng.sample(sorted(groups[group]), count):
            choices = sorted(groups[group][place])
            kind = rng.choice(sorted({mutant.kind for mutant in choices}))
            yield rng.choice([mutant for mutant in choices if mutant.kind == kind])


def killed_by(mutant, arguments):
    """The first test that fails in a copy of the project with this mutant (or none), or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))
        first = []
        if mutant:
            operator = get_operator(mutant.operator)()
            apply_mutation(copy / mutant.path, operator, mutant.occurrence)
            group = mutant.path.parts[1]
            first = [f"tests/{group}"] if (copy / "tests" / group).is_dir() else []
        for backend in BACKENDS:
            once = [] if backend == BACKENDS[0] else ["-m", "not deep and not once"]
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", *once, *arguments]
            done = subprocess.run(
                [*command, *first, "tests"],
                cwd=copy,
                env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(copy)},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
                return f"{backend}: {failed[0] if failed else done.stdout[-200:]}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="only say which are drawn")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of some of them")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    mutants = dict(enumerate(drawn(all_mutants()), start=1))
    if not options.list and (failed := killed_by(None, options.pytest)):
        sys.exit(f"without a mutant: {failed}")
    survivors = []
    for number in options.only or mutants:
        mutant = mutants[number]
        about = f"{number} {mutant.path}:{mutant.line} {mutant.operator.removeprefix('core/')}"
        result = "" if options.list else killed_by(mutant, options.pytest)
        if result is None:
            survivors.append(number)
        print(about, "survives" if result is None else result, flush=True)
    if not options.list:
        print(f"{len(options.only or mutants) - len(survivors)} killed, survivors: {survivors}")


if __name__ == "__main__":
    main()
