"""How many operations PyTorch runs: what a block costs, and what is done once for all blocks."""

import pytest
from helpers.nets import BACKEND
from helpers.processes import python

pytestmark = [
    pytest.mark.skipif(BACKEND != "torch", reason="it counts PyTorch's operations"),
    pytest.mark.deep,
]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_block_has_no_operation_per_variable(precision):
    """Casts, averages and statistics are operations on lists, however many blocks there are."""
    from benchmarks import models, torch_operations

    counts = []
    for depth in (1, 3):
        small = {"depths": (depth,), "input_shape": (16, 16, 3), "drop_path_rate": 0.0}
        net = models.network("micro", precision, **small)
        counts.append(torch_operations.count(net, "training", 4)[0])
    first, second = counts
    assert sum(second.values()) - sum(first.values()) <= 2 * 53
    assert torch_operations.casts(second) == torch_operations.casts(first)
    for name in ("_foreach_lerp_", "_foreach_copy_"):
        assert second[name] == first[name]


def test_bad_input_is_one_sentence():
    done = python("-m", "benchmarks.torch_operations", "--batch", "0", status=2)
    assert done.stderr.strip().splitlines()[-1].endswith("integer. Received: '0'")
