"""Distributed training against training on one device: each run is a process of its own.

The runs are those of helpers/distributed_run.py, masks_run.py and torch_steps.py, which also check
that all devices and processes hold the same.
"""

import keras
import numpy as np
import pytest
from helpers import nets, processes

from keras_smlp.training import engines

BACKEND = keras.backend.backend()
# XLA's expensive passes take most of the time otherwise
QUICK = "--xla_backend_optimization_level=0"
FOUR_DEVICES = {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=4"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": QUICK}


def only(backend):
    return pytest.mark.skipif(backend != BACKEND, reason=f"needs KERAS_BACKEND={backend}")


def begin(folder, batch_norm, kind, *address, **environment):
    """Starts a run; two processors do two at once."""
    run = ("-m", "helpers.distributed_run", folder, batch_norm, kind, *address)
    return processes.begin(*run, **{**ENVIRONMENT, **environment})


def begin_torch(folder, batch_norm):
    """A run in two processes."""
    return [begin(folder, batch_norm, "auto", **rank) for rank in processes.ranks()]


def end(*runs):
    try:
        for run in runs:
            output, _ = run.communicate(timeout=300)
            assert run.returncode == 0, output[-3000:]
    finally:
        for run in runs:
            run.kill()


def compare(reference, distributed, devices, processes):
    """One device against several: the same losses, weights and predictions."""
    one, several = (np.load(folder / "run.npz") for folder in (reference, distributed))
    np.testing.assert_allclose(several["losses"], one["losses"], atol=1e-4)
    assert len(one["losses"]) == 10
    weights = [name for name in one if name.startswith("weight")]
    assert len(weights) > 40
    for name in weights:
        np.testing.assert_allclose(several[name], one[name], atol=5e-4, err_msg=name)
    # each image once
    order = np.argsort(several["index"])
    np.testing.assert_array_equal(several["index"][order], np.arange(10))
    np.testing.assert_allclose(
        several["logits"][order], one["logits"][np.argsort(one["index"])], atol=1e-4
    )
    # float32 would lose the last digits
    expected = [processes * (1 + 1e-12), sum(range(processes))]
    np.testing.assert_allclose(several["sum"], expected, rtol=1e-15)
    assert f"{devices} devices in {processes} processes" in str(several["text"])
    # the file is the averaged model, and knows nothing of its making
    saved = keras.saving.load_model(distributed / "model.keras")
    assert not any(layer.get_config().get("synchronized") for layer in saved.layers)
    images, _ = nets.to_train_on(10)
    np.testing.assert_allclose(saved.predict_on_batch(images), several["logits"][order], atol=1e-4)


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "several", "local"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "several", tmp_path / "local"


@only("jax")
@pytest.mark.deep
def test_jax_on_several_devices_and_processes_is_jax_on_one(folders):
    one, devices, several = folders
    end(begin(one, "auto", "none"), begin(devices, "auto", "data_parallel", **FOUR_DEVICES))
    address = f"127.0.0.1:{processes.free_port()}"
    end(*[begin(several, "auto", "multi_host", address, 2, rank) for rank in (0, 1)])
    compare(one, devices, 4, 1)
    compare(one, several, 2, 2)


@only("jax")
@pytest.mark.deep
def test_jax_normalizes_the_part_of_each_device(folders):
    """Not equal to one device; the values are those of tests/layers/test_backend.py."""
    *_, local = folders
    end(begin(local, "local", "data_parallel", **FOUR_DEVICES))
    run = np.load(local / "run.npz")
    assert "BatchNorm over each device's part" in str(run["text"])
    assert np.isfinite(run["losses"]).all()


@only("tensorflow")
@pytest.mark.deep
def test_tensorflow_on_several_devices_is_tensorflow_on_one(folders):
    one, several, local = folders
    end(begin(one, "auto", "none"), begin(several, "global", "data_parallel"))
    compare(one, several, 2, 1)
    # not equal to one device; but the devices are equal to one another
    end(begin(local, "local", "auto"))
    assert "BatchNorm over each device's part" in str(np.load(local / "run.npz")["text"])


@only("torch")
@pytest.mark.deep
def test_torch_in_several_processes_is_torch_in_one(folders):
    one, several, local = folders
    end(begin(one, "auto", "none"), *begin_torch(several, "auto"))
    compare(one, several, 2, 2)
    # not equal to one process; but the processes are equal to one another
    end(*begin_torch(local, "local"))
    assert "BatchNorm over each process's part" in str(np.load(local / "run.npz")["text"])


@pytest.mark.deep
@pytest.mark.parametrize("count", [2, 4])
def test_stochastic_depth_draws_for_the_global_batch(count, tmp_path):
    """From one device to several and back: the masks are those of one device all along."""
    from helpers import masks_run

    run = ("-m", "helpers.masks_run", tmp_path)
    model, expected = (masks_run.masked_model(engines.Engine()) for _ in range(2))
    expected = masks_run.masks(expected, 3 * masks_run.STEPS)
    assert 0.3 < expected.mean() < 0.7 and set(expected.ravel()) == {0, 1}
    found = [masks_run.masks(model)]
    model.save_weights(tmp_path / masks_run.WEIGHTS)
    if BACKEND == "torch":
        each = [(("auto",), rank) for rank in processes.ranks(count)]
    elif BACKEND == "jax" and count == 2:
        address = f"127.0.0.1:{processes.free_port()}"
        each = [(("multi_host", address, count, rank), {}) for rank in range(count)]
    else:
        each = [(("auto",), {**FOUR_DEVICES, "DEVICES": str(count)})]
    end(*[processes.begin(*run, *how, **variables) for how, variables in each])
    several = np.load(tmp_path / "masks.npz")
    assert several["devices"] == count
    found.append(several["masks"])
    resumed = masks_run.masked_model(engines.Engine())
    resumed.load_weights(tmp_path / masks_run.WEIGHTS)
    found.append(masks_run.masks(resumed))
    np.testing.assert_array_equal(np.concatenate(found), expected)


def run_steps(count, *checks):
    run = ("-m", "helpers.torch_steps", *checks)
    end(*[processes.begin(*run, **{**ENVIRONMENT, **rank}) for rank in processes.ranks(count)])


@only("torch")
@pytest.mark.deep
def test_gradients_of_two_processes_are_those_of_one():
    run_steps(2, "gradients")


@only("torch")
@pytest.mark.deep
def test_steps_of_torch_in_several_processes():
    run_steps(2, "frozen", "unused", "accumulation", "overflow")
    run_steps(3, "order")


def test_one_device_is_no_distribution():
    engine = engines.start()
    assert type(engine) is engines.Engine and engine.is_main
    assert (engine.devices, engine.processes, engine.rank) == (1, 1, 0)
    assert engine.describe() == "one device: BatchNorm over the whole batch."
    engine.check_batch(7)
    engine.barrier()
    np.testing.assert_array_equal(engine.sum([1.0, 2.0]), [1.0, 2.0])
    with engine.scope(), engine.saving():
        pass


def test_a_batch_divides_by_the_devices():
    engine = engines.Engine()
    engine.devices = 4
    engine.check_batch(12)
    message = "^`batch_size`: 10, allowed: a multiple of 4, the number of devices$"
    with pytest.raises(ValueError, match=message):
        engine.check_batch(10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mirrored"}, "`kind`: mirrored, allowed: auto, none, data_parallel"),
        ({"kind": "data_parallel"}, "`kind`: data_parallel, allowed: auto, none"),
        ({"rank": 1}, "`rank`: 1, allowed: None"),
        ({"batch_norm": "group"}, "`batch_norm`: group, allowed: auto"),
    ],
)
def test_what_would_be_ignored_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        engines.start(**arguments)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch joins the processes of torchrun")
def test_torchrun_is_for_torch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(
        ValueError, match="`kind`: auto in one of 2 processes of `torchrun`, allowed"
    ):
        engines.start()


def test_each_backend_refuses_what_it_cannot(monkeypatch):
    other = {"torch": "global"}.get(BACKEND)
    if other:
        with pytest.raises(ValueError, match=f"`batch_norm`: {other}, allowed: auto, .* {BACKEND}"):
            engines.start(batch_norm=other)
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match="`kind`: multi_host, allowed: .*KERAS_BACKEND=jax"):
            engines.start("multi_host")
        import tensorflow as tf

        strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        engine = engines.tensorflow.TensorFlowEngine(strategy, "global")
        with pytest.raises(ValueError, match="`gradient_accumulation_steps`: 2, allowed: 1 with"):
            engine.check_optimizer(keras.optimizers.SGD(gradient_accumulation_steps=2))
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="`kind`: multi_host, allowed: .*torchrun"):
            engines.start("multi_host")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="WORLD_SIZE: 2 without RANK, allowed: by torchrun"):
            engines.start()
        for name in engines.torch.TORCHRUN:
            monkeypatch.setenv(name, "0")
        with pytest.raises(ValueError, match="`kind`: none in one of 2 processes, allowed: auto"):
            engines.start("none")
