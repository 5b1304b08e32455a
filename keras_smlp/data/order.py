"""The order of the training images: a function of the seed and the epoch alone (NumPy)."""

import numpy as np


def epoch_order(count, seed, epoch, batch_size, group_size, repeats=1, labels=None):
    """The images of one epoch, in the order in which they are trained on.

    A permutation; with `repeats` above 1 as repeated augmentation (`RASampler`) orders it: each
    image stands `repeats` times in a row, and element `i` of this sequence goes to replica
    `i % replicas`. A replica is a GPU of the official code and a group of the batch here. The epoch
    ends where it would without repeats, so it shows about `1 / repeats` of the images. A batch of
    fewer than `repeats` groups takes those of `repeats` replicas in turn: the copies of an image
    never meet in one group.

    Args:
        count: Positive integer. Images of the data set.
        seed: Integer in `[0, 2**31)`.
        epoch: Non-negative integer.
        batch_size: Positive integer, at most `count`. Images in a step, over all processes.
        group_size: Positive integer that divides `batch_size`. Images that are mixed together.
        repeats: Positive integer. Copies of an image, each augmented on its own. Defaults to `1`.
        labels: Integer array `(count,)`, the class of each image, to show all classes equally
            often: an epoch of the same length has only some images of a large class, others in each
            epoch, and those of a small class several times, which may meet in a group. Defaults to
            `None`.

    Returns:
        int64 array `(count // batch_size * batch_size,)` of indices below `count`.

    Reference:
        `samplers.py` of the official code (`RASampler`).
    """
    generator = np.random.default_rng((seed, epoch))
    permutation = generator.permutation(count)
    if labels is not None:
        permutation = balanced(permutation, labels, generator)
    positions = np.arange(count // batch_size * batch_size)
    if repeats == 1:
        return permutation[positions]
    replicas = max(batch_size // group_size, repeats)
    group, place = np.divmod(positions, group_size)
    element = group % replicas + replicas * (group // replicas * group_size + place)
    # of a data set smaller than a few batches the last replica may go beyond its end
    return permutation[element // repeats % count]


def balanced(permutation, labels, generator):
    """As many images, of each class as many as of any other, but for one.

    Args:
        permutation: The images in random order.
        labels: The class of each image.
        generator: `np.random.Generator`.

    Returns:
        Integer array of the permutation's length.
    """
    own = labels[permutation]
    counts = np.unique(own, return_counts=True)[1]
    by_class = permutation[np.argsort(own, kind="stable")]
    of_class = np.split(by_class, np.cumsum(counts)[:-1])
    ends = np.linspace(0, len(permutation), len(of_class) + 1).astype("int64")
    # which classes have one image more is drawn, too
    counts = generator.permutation(np.diff(ends))
    chosen = [np.resize(images, n) for images, n in zip(of_class, counts, strict=True)]
    return generator.permutation(np.concatenate(chosen))


def process_positions(steps, batch_size, rank, processes):
    """The positions in an epoch that one process reads: its share of every batch.

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
