"""The memory of this process, as Linux keeps it; nothing where there is none of its files."""

from pathlib import Path

PROC = Path("/proc/self")
IS_KNOWN = (PROC / "clear_refs").exists()


def kilobytes(name):
    """A figure: `VmSize`, `VmRSS`, or `VmHWM`, the largest `VmRSS` since `forget_peak`."""
    return int((PROC / "status").read_text().partition(f"{name}:")[2].split()[0]) if IS_KNOWN else 0


def forget_peak():
    """The largest size is from now on that of now; returns it."""
    if IS_KNOWN:
        (PROC / "clear_refs").write_text("5")
    return kilobytes("VmRSS")


def megabytes_since(resident):
    """How much larger than what `forget_peak` returned the process has been since."""
    return (kilobytes("VmHWM") - resident) / 1024
