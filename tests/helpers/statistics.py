"""Distributions compared by their quantiles."""

import numpy as np


def assert_same_quantiles(ours, theirs, atol):
    """From the 5th percentile to the 95th two samples differ by at most `atol`."""
    quantiles = np.linspace(0.05, 0.95, 10)
    found, expected = (np.quantile(sample, quantiles) for sample in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
