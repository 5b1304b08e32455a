"""Which image stands where: a function of seed and epoch alone (NumPy)."""

import numpy as np


def epoch_order(count, seed, epoch, batch_size, group_size, repeats=1):
    """The images of one epoch, in the order in which they are trained on.

    With repeated augmentation the permuted images stand `repeats` times in a row and are dealt out
    in turn to as many hands as a batch has groups (the official code's GPUs); what is dealt is cut
    where the epoch is full, so an epoch shows about `1 / repeats` of the images. A batch of fewer
    than `repeats` groups is dealt to `repeats` hands, which play their groups in turn: the copies
    of an image never meet in one group.

    Args:
        count: Positive integer. Images of the data set.
        seed: Integer in `[0, 2**31)`.
        epoch: Non-negative integer.
        batch_size: Positive integer, at most `count`. Images in a step, over all processes.
        group_size: Positive integer that divides `batch_size`. Images that are mixed together.
        repeats: Positive integer. Copies of an image, each augmented on its own. Defaults to `1`.

    Returns:
        int64 array `(count // batch_size * batch_size,)` of indices below `count`.

    Reference:
        `samplers.py` of the official code (`RASampler`).
    """
    permutation = np.random.default_rng((seed, epoch)).permutation(count)
    positions = np.arange(count // batch_size * batch_size)
    if repeats == 1:
        return permutation[positions]
    hands = max(batch_size // group_size, repeats)
    group, place = np.divmod(positions, group_size)
    dealt = group % hands + hands * (group // hands * group_size + place)
    # of a data set smaller than a few batches the last hand may go beyond its end
    return permutation[dealt // repeats % count]


def part(steps, batch_size, rank, processes):
    """The positions of an epoch that one process reads: its share of every batch.

    Args:
        steps: Range of the steps.
        batch_size: Positive integer, a multiple of `processes`.
        rank: Integer in `[0, processes)`.
        processes: Positive integer.

    Returns:
        int64 array `(len(steps) * batch_size // processes,)`.
    """
    share = batch_size // processes
    offsets = np.arange(rank * share, (rank + 1) * share)
    return (np.asarray(steps, "int64")[:, None] * batch_size + offsets).ravel()
