"""Which image stands where in an epoch."""

import numpy as np
import pytest

from keras_smlp.data.order import epoch_order, process_positions

pytestmark = pytest.mark.once


def official_sampler(permutation, ranks, repeats=3):
    """What each GPU of the official code gets (its `RASampler`), given the permutation."""
    count = len(permutation)
    total = int(np.ceil(count * repeats / ranks)) * ranks
    indices = [i for i in permutation for _ in range(repeats)]
    indices += indices[: total - len(indices)]
    selected = count // 256 * 256 // ranks
    return [indices[rank:total:ranks][:selected] for rank in range(ranks)]


def test_without_repeats_an_epoch_has_each_image_once():
    order = epoch_order(1003, seed=0, epoch=0, batch_size=100, group_size=10)
    assert order.shape == (1000,) and len(set(order.tolist())) == 1000
    assert order.min() >= 0 and order.max() < 1003


def test_the_order_is_a_function_of_seed_and_epoch():
    first = epoch_order(100, 1, 2, 10, 10)
    np.testing.assert_array_equal(first, epoch_order(100, 1, 2, 10, 10))
    for other in (epoch_order(100, 1, 3, 10, 10), epoch_order(100, 2, 2, 10, 10)):
        assert (other != first).any()


def test_repeated_augmentation_is_dealt_as_the_official_code_deals_it():
    count, ranks, group = 2600, 8, 32
    order = epoch_order(count, 5, 1, ranks * group, group, repeats=3)
    permutation = epoch_order(count, 5, 1, 1, 1)
    by_step = order.reshape(-1, ranks, group)
    for rank, expected in enumerate(official_sampler(permutation, ranks)):
        np.testing.assert_array_equal(by_step[:, rank].ravel(), expected)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_copies_of_an_image_fall_into_different_groups(groups, repeats):
    group_size = 16
    order = epoch_order(4000, 0, 0, groups * group_size, group_size, repeats)
    assert order.size == 4000 // (groups * group_size) * groups * group_size
    for group in order.reshape(-1, group_size):
        assert len(set(group.tolist())) == group_size
    seen, copies = np.unique(order, return_counts=True)
    assert copies.max() == repeats
    assert (copies == repeats).mean() > 0.95 and abs(len(seen) - 4000 / repeats) < 80


def test_small_sets_stay_in_range():
    order = epoch_order(50, 0, 0, 48, 16, repeats=3)
    assert order.shape == (48,) and order.max() < 50


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_of_the_processes_are_the_epoch(processes):
    parts = [process_positions(range(3, 7), 8, rank, processes) for rank in range(processes)]
    together = np.stack([p.reshape(4, -1) for p in parts], axis=1).reshape(4, 8)
    np.testing.assert_array_equal(together, np.arange(24, 56).reshape(4, 8))


def test_a_balanced_epoch_shows_each_class_equally_often():
    labels = np.repeat([0, 1, 2], [900, 90, 13])[np.random.default_rng(0).permutation(1003)]
    orders = [epoch_order(1003, 0, epoch, 1, 1, labels=labels) for epoch in range(2)]
    for order in orders:
        assert sorted(np.bincount(labels[order]).tolist()) == [334, 334, 335]
        times = np.bincount(order, minlength=1003)
        assert times[labels == 0].max() == 1  # of a large class some images, once
        assert set(times[labels == 1]) <= {3, 4} and set(times[labels == 2]) <= {25, 26}
        # all through the epoch
        assert min(np.bincount(part, minlength=3).min() for part in np.split(labels[order], 17)) > 5
    shown = [set(order[labels[order] == 0].tolist()) for order in orders]
    assert shown[0] != shown[1]
    np.testing.assert_array_equal(orders[0], epoch_order(1003, 0, 0, 1, 1, labels=labels))
