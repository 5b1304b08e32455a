"""What is measured: our network, the official one, exported files, and the machine's limit.

All take float32 images, normalized, that lie on the device already, in their framework's layout;
they give logits (exported models: probabilities) and end when the results are in NumPy.
"""

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference import stand_in

RATE, DECAY, SMOOTHING = 1e-3, 0.05, 0.1
SLOW = 0.02  # seconds for a product of 256 x 256, which takes 0.001 even at 30 GFLOP/s
TOLERANCE = 1e-5  # of the peer in float32, relative to the golden logits


@dataclass(frozen=True)
class Job:
    """What a contender is to do.

    Attributes:
        kind: `ours`, `peer`, `export`, `limit`, or `files`: to write the files of the others.
        contender: What the tables call it.
        backend: What runs it.
        precision: Of the weights and of the arithmetic.
        variant: Of the network.
        size: Side of the images, in pixels.
        batch: How many images there are in a call.
        mode: `inference` or `training`.
        threads: How many it may have.
        processors: The numbers of the processors that it is bound to.
        weights: Path of the stand-in weights.
        form: Whether ours is `plain` or `folded`; the mode of the peer.
        fused: Whether the peer's optimizer is one kernel; `None` is PyTorch's default.
        file: Path of the exported model.
        is_own: Whether we have exported it.
        files: Paths of all exported models, to write.
    """

    kind: str
    contender: str
    backend: str
    precision: str
    variant: str
    size: int
    batch: int
    mode: str
    threads: int
    processors: list[int]
    weights: Path
    form: str = "plain"
    fused: bool | None = None
    file: Path | None = None
    is_own: bool = True
    files: tuple[Path, ...] = ()

    def __str__(self):
        return f"{self.contender} on {self.backend}, {self.precision}"


@dataclass
class Contender:
    """A contender, not yet warm.

    Attributes:
        setting: How it is called.
        start: A function that makes it ready and returns the call that is measured.
        version: Of its backend.
        device: `cpu` or the name of the accelerator.
        device_memory: A function that returns the peak memory of an accelerator, in bytes.
        operations: Of a call, for the limit.
    """

    setting: str
    start: Callable
    version: str
    device: str = "cpu"
    device_memory: Callable | None = None
    operations: int | None = None


# ---- devices ------------------------------------------------------------------------------------
def prepare_tensorflow(threads):
    """Pins the threads; returns version, device, and a function for the device's peak memory."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return tf.__version__, "cpu", None
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    name = tf.config.experimental.get_device_details(devices[0])["device_name"]
    return tf.__version__, name, lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]


def prepare_jax(threads):
    """The same; its threads are as many as the processors that the process may use."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return jax.__version__, "cpu", None
    return jax.__version__, device.device_kind, lambda: device.memory_stats()["peak_bytes_in_use"]


def prepare_torch(threads):
    """Sets the number of threads; returns what `prepare_tensorflow` returns."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)
    if not torch.cuda.is_available():
        return torch.__version__, "cpu", None
    return torch.__version__, torch.cuda.get_device_name(), torch.cuda.max_memory_allocated


PREPARE = {"tensorflow": prepare_tensorflow, "jax": prepare_jax, "torch": prepare_torch}


# ---- contenders ---------------------------------------------------------------------------------
def ours(job):
    """The Keras model, as a user calls it."""
    version, device, memory = PREPARE[job.backend](job.threads)
    import keras

    model = keras_model(job)
    jit = f"jit_compile={model.jit_compile}"
    x = keras.ops.convert_to_tensor(images(job))
    if job.mode == "inference":
        start = lambda: lambda: model.predict_on_batch(x)  # noqa: E731
        return Contender(f"predict_on_batch, {jit}", start, version, device, memory)
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    y = keras.ops.convert_to_tensor(targets(job))

    def step():
        loss = float(model.train_on_batch(x, y))
        if job.backend == "jax" and device != "cpu":
            import jax

            jax.block_until_ready([variable.value for variable in model.trainable_variables])
        return loss

    return Contender(f"train_on_batch, {jit}", lambda: step, version, device, memory)


def keras_model(job):
    """A network of ours with the stand-in weights; logits from normalized images."""
    import keras_smlp

    dim, depths, _, classes = stand_in.VARIANTS[job.variant]
    options = {"classifier_activation": None, "include_preprocessing": False}
    options["input_shape"] = (job.size, job.size, 3)
    options["dtype"] = "float32" if job.precision == "int8" else job.precision
    model = keras_smlp.SMLPNet(dim, depths, classes=classes, weights=job.weights, **options)
    if job.form == "folded":
        model = keras_smlp.fold(model)
    if job.precision == "int8":
        keras_smlp.quantize(model, "int8")
    return model


def peer(job):
    """The official network; float32 answers first, compared with the golden logits."""
    version, name, memory = prepare_torch(job.threads)
    import torch
    from torch.nn.functional import cross_entropy

    from reference.network import OfficialSMLPNet

    device = "cpu" if name == "cpu" else "cuda"
    net = OfficialSMLPNet(*stand_in.VARIANTS[job.variant]).eval()
    weights = {k: torch.from_numpy(v) for k, v in stand_in.state_dict(job.variant).items()}
    net.load_state_dict(weights)
    first = lambda x: torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()  # noqa: E731
    with torch.inference_mode():
        difference = relative_to_golden(job, net(first(stand_in.images(job.variant))))
    if not difference <= TOLERANCE:
        raise ValueError(f"the peer's logits must be the golden ones, but differ by {difference}")
    net, x = net.to(device), first(images(job)).to(device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=job.precision.startswith("mixed"))
    if job.precision == "bfloat16":
        net, x = net.bfloat16(), x.bfloat16()
    if job.form == "channels_last":
        net, x = (thing.to(memory_format=torch.channels_last) for thing in (net, x))
    if job.form == "compile":
        net.compile()

    @torch.inference_mode()
    def answer():
        with autocast:
            return net(x).float().cpu().numpy()

    if job.mode == "inference":
        return Contender("inference_mode", lambda: answer, version, name, memory)
    y = torch.from_numpy(targets(job)).to(device)
    net.train()
    decayed, others = [], []
    for key, weight in net.named_parameters():
        (others if weight.ndim <= 1 or key.endswith("bias") else decayed).append(weight)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, weight_decay=DECAY, fused=job.fused)

    def step():
        with autocast:
            loss = cross_entropy(net(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    setting = "AdamW, fused" if job.fused else "AdamW"
    return Contender(setting, lambda: step, version, name, memory)


def exported(job):
    """An exported file in its own runtime; reading and compiling it is part of the start."""
    x, threads, file = images(job), job.threads, job.file
    if job.backend == "onnxruntime":
        import onnxruntime

        options, providers = onnxruntime.SessionOptions(), ["CPUExecutionProvider"]
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1

        def start():
            session = onnxruntime.InferenceSession(file, options, providers=providers)
            name = session.get_inputs()[0].name
            return lambda: session.run(None, {name: x})[0]

        return Contender(*providers, start, onnxruntime.__version__)
    if job.backend == "ai_edge_litert":
        from keras_smlp.deploy.export import runtimes

        def start():
            run = runtimes.opened(file, "litert", threads)
            return lambda: run(x)["probabilities"]

        return Contender("XNNPACK", start, importlib.metadata.version("ai-edge-litert"))
    import openvino

    hint = "bf16" if job.precision == "mixed_bfloat16" else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def start():
        core = openvino.Core()
        model = core.read_model(file)
        model.reshape(list(x.shape))
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return lambda: request.infer([x], share_inputs=True)[0]

    version = openvino.__version__.split("-")[0]
    return Contender(f"CPU, LATENCY, {hint}, batch fixed", start, version)


def limit(job):
    """A large matrix product: as fast as this machine computes."""
    version, name, memory = prepare_torch(job.threads)
    import torch

    device, dtype = "cpu" if name == "cpu" else "cuda", getattr(torch, job.precision)

    def product(n):
        a = torch.randn(n, n, dtype=dtype, device=device)

        def call():
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    # in 16 bits on many a CPU half a minute would go by, and no size is faster there
    is_emulated = fastest(product(256)) > SLOW
    n = 512 if is_emulated else 2048 if device == "cpu" else 8192
    call = product(n)
    return Contender(f"{n} x {n}", lambda: call, version, name, memory, operations=2 * n**3)


# ---- inputs and times ---------------------------------------------------------------------------
def has_golden(job):
    """Whether the images are of the variant's own size, for which there are golden logits."""
    return job.size == stand_in.VARIANTS[job.variant][2]


def images(job):
    """Normalized images; the first two are those of the golden files, if there are any."""
    if has_golden(job):
        return stand_in.images(job.variant, job.batch)
    shape = (job.batch, job.size, job.size, 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def targets(job):
    """Smoothed one-hot targets."""
    classes = stand_in.VARIANTS[job.variant][3]
    labels = np.random.default_rng(0).integers(0, classes, job.batch)
    return (np.eye(classes)[labels] * (1 - SMOOTHING) + SMOOTHING / classes).astype("float32")


def relative_to_golden(job, logits):
    """The difference to the golden logits, up to the constant that probabilities leave open."""
    logits = np.asarray(logits, np.float64)[:2]
    expected = stand_in.golden(job.variant)["logits"][: len(logits)]
    centered = (x - x.mean(axis=-1, keepdims=True) for x in (logits, expected))
    return float(stand_in.relative(*centered))


def timed(call):
    """Seconds and result of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def fastest(call):
    """Seconds of the fastest of a few calls, which warm it up."""
    return min(timed(call)[0] for _ in range(3))
