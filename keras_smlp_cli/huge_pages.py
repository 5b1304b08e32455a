"""Restarts a program so that its memory comes in huge pages, as trainings do."""

import itertools
import os
import sys

VARIABLE = "GLIBC_TUNABLES"


def restart_with_huge_pages():
    """Starts Python anew, once, with the C library set to ask the kernel for huge pages.

    A training step takes and returns gigabytes; in small pages, each of which the kernel clears,
    that is up to a third of its time on a CPU with JAX (docs/performance.md). The C library reads
    the setting when a process starts: call this before anything else. A setting of the user's
    stays.
    """
    # not where another program runs the caller: its command line would be started anew
    is_module = ("-m", __package__) in itertools.pairwise(sys.orig_argv)
    own = is_module or sys.argv[0] in sys.orig_argv
    if sys.platform == "linux" and own and VARIABLE not in os.environ:
        os.environ[VARIABLE] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
