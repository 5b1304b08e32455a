"""One contender of benchmarks/network.py, in a process of its own.

python benchmarks/contenders.py JOB

JOB is JSON, made by `cases.py`. The process gets the contender warm and says so with a line of
JSON on stdout; then, for each line on stdin (seconds), it runs for that long and answers with a
line of times. In between it waits, and tells how much processor time the waiting took.

All take float32 images, normalized, that lie on the device already, in their framework's layout;
they give logits (exported models: probabilities) and end when the results are in NumPy.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from reference import stand_in

RATE, DECAY, SMOOTHING = 1e-3, 0.05, 0.1
WARM_CALLS = 3
SLOW = 0.02  # seconds for a product of 256 x 256, which takes 0.001 even at 30 GFLOP/s
TOLERANCE = 1e-5  # of the peer in float32, relative to the golden logits
# what a contender's logits may differ by in float32; accelerators round the factors of products
DIFFERENCES = {"cpu": 1e-4, "other": 2e-2}
ROUNDED = 0.2  # and in 16 or 8 bits, where the same weights must still be recognizable


@dataclass
class About:
    """What a contender is.

    Attributes:
        setting: How it is called.
        version: Of its backend.
        device: `cpu` or the name of the accelerator.
        operations: Of a call, for the limit.
    """

    setting: str
    version: str
    device: str = "cpu"
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
    memory = lambda: device.memory_stats()["peak_bytes_in_use"]  # noqa: E731
    return jax.__version__, device.device_kind, memory


def prepare_torch(threads):
    """The same."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)
    if not torch.cuda.is_available():
        return torch.__version__, "cpu", None
    return torch.__version__, torch.cuda.get_device_name(), torch.cuda.max_memory_allocated


PREPARE = {"tensorflow": prepare_tensorflow, "jax": prepare_jax, "torch": prepare_torch}


# ---- contenders: each returns (About, function that starts it and returns the call, memory) -----
def ours(job):
    """The Keras model, as a user calls it."""
    version, device, memory = PREPARE[job["backend"]](job["threads"])
    import keras

    model = keras_model(job)
    jit = f"jit_compile={model.jit_compile}"
    x = keras.ops.convert_to_tensor(images(job))
    if job["mode"] == "inference":
        about = About(f"predict_on_batch, {jit}", version, device)
        return about, lambda: lambda: model.predict_on_batch(x), memory
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    y = keras.ops.convert_to_tensor(targets(job))

    def step():
        loss = float(model.train_on_batch(x, y))
        if job["backend"] == "jax" and device != "cpu":
            import jax

            jax.block_until_ready([variable.value for variable in model.trainable_variables])
        return loss

    return About(f"train_on_batch, {jit}", version, device), lambda: step, memory


def keras_model(job):
    """A network of ours with the stand-in weights; logits from normalized images."""
    import keras_smlp

    dim, depths, _, classes = stand_in.VARIANTS[job["variant"]]
    model = keras_smlp.SMLPNet(
        dim,
        depths,
        weights=job["weights"],
        input_shape=(job["size"], job["size"], 3),
        classes=classes,
        classifier_activation=None,
        include_preprocessing=False,
        drop_path_rate=0.0,
        dtype="float32" if job["precision"] == "int8" else job["precision"],
    )
    if job["form"] == "folded":
        model = keras_smlp.fold(model)
    if job["precision"] == "int8":
        keras_smlp.quantize(model, "int8")
    return model


def peer(job):
    """The official network; float32 answers first, compared with the golden logits."""
    version, name, memory = prepare_torch(job["threads"])
    import torch
    from torch.nn.functional import cross_entropy

    from reference.network import OfficialSMLPNet

    device = "cpu" if name == "cpu" else "cuda"
    dim, depths, side, classes = stand_in.VARIANTS[job["variant"]]
    net = OfficialSMLPNet(dim, depths, side, classes).eval()
    weights = {k: torch.from_numpy(v) for k, v in stand_in.state_dict(job["variant"]).items()}
    net.load_state_dict(weights)
    first = lambda x: torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()  # noqa: E731
    with torch.inference_mode():
        difference = relative_to_golden(job, net(first(stand_in.images(job["variant"]))))
    if not difference <= TOLERANCE:
        raise ValueError(f"the peer's logits must be the golden ones, but differ by {difference}")
    net, x = net.to(device), first(images(job)).to(device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=job["precision"].startswith("mixed"))
    if job["precision"] == "bfloat16":
        net, x = net.bfloat16(), x.bfloat16()
    if job["form"] == "channels_last":
        net, x = (thing.to(memory_format=torch.channels_last) for thing in (net, x))
    if job["form"] == "compile":
        net.compile()

    @torch.inference_mode()
    def answer():
        with autocast:
            return net(x).float().cpu().numpy()

    def step():
        with autocast:
            loss = cross_entropy(net(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    if job["mode"] == "inference":
        return About("inference_mode", version, name), lambda: answer, memory
    y = torch.from_numpy(targets(job)).to(device)
    net.train()
    decayed = [p for k, p in net.named_parameters() if p.ndim > 1 and not k.endswith("bias")]
    others = [p for k, p in net.named_parameters() if p.ndim <= 1 or k.endswith("bias")]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, weight_decay=DECAY, fused=job["fused"])
    setting = "AdamW, fused" if job["fused"] else "AdamW"
    return About(setting, version, name), lambda: step, memory


def exported(job):
    """An exported file in its own runtime; reading and compiling it is part of the start."""
    x, threads = images(job), job["threads"]
    if job["backend"] == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1

        def start():
            session = onnxruntime.InferenceSession(
                job["file"], options, providers=["CPUExecutionProvider"]
            )
            name = session.get_inputs()[0].name
            return lambda: session.run(None, {name: x})[0]

        return About("CPUExecutionProvider", onnxruntime.__version__), start, None
    if job["backend"] == "ai_edge_litert":
        from keras_smlp.deploy.export import runtimes

        def start():
            run = runtimes.opened(job["file"], "litert", threads)
            return lambda: run(x)["probabilities"]

        return About("XNNPACK", importlib.metadata.version("ai-edge-litert")), start, None
    import openvino

    hint = "bf16" if job["precision"] == "mixed_bfloat16" else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def start():
        core = openvino.Core()
        model = core.read_model(job["file"])
        model.reshape(list(x.shape))
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return lambda: request.infer([x], share_inputs=True)[0]

    return (
        About(f"CPU, LATENCY, {hint}, batch fixed", openvino.__version__.split("-")[0]),
        start,
        None,
    )


def limit(job):
    """A large matrix product: as fast as this machine computes."""
    version, device, memory = prepare_torch(job["threads"])
    import torch

    dtype = getattr(torch, job["precision"])

    def product(n):
        a = torch.randn(n, n, dtype=dtype, device="cpu" if device == "cpu" else "cuda")

        def call():
            a @ a
            if device != "cpu":
                torch.cuda.synchronize()

        return call

    # in 16 bits on many a CPU half a minute would go by, and no size is faster there
    small = product(256)
    is_emulated = min(timed(small)[0] for _ in range(WARM_CALLS)) > SLOW
    n = 512 if is_emulated else 2048 if device == "cpu" else 8192
    call = product(n)
    return About(f"{n} x {n}", version, device, 2 * n**3), lambda: call, memory


# ---- inputs and checks --------------------------------------------------------------------------
def images(job):
    """Normalized images; at the variant's own size the first two are those of the golden files."""
    if job["size"] == stand_in.VARIANTS[job["variant"]][2]:
        return stand_in.images(job["variant"], job["batch"])
    shape = (job["batch"], job["size"], job["size"], 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def targets(job):
    """Smoothed one-hot targets."""
    classes = stand_in.VARIANTS[job["variant"]][3]
    labels = np.random.default_rng(0).integers(0, classes, job["batch"])
    return (np.eye(classes)[labels] * (1 - SMOOTHING) + SMOOTHING / classes).astype("float32")


def relative_to_golden(job, logits):
    """The difference to the golden logits, up to the constant that probabilities leave open."""
    logits = np.asarray(logits, np.float64)[:2]
    expected = stand_in.golden(job["variant"])["logits"][: len(logits)]
    centered = (x - x.mean(axis=-1, keepdims=True) for x in (logits, expected))
    return float(stand_in.relative(*centered))


def check(job, result, device):
    """What the first call's result says: the difference to the golden logits, or the loss."""
    if job["kind"] == "limit":
        return {}
    if job["mode"] == "training":
        return {"first_loss": result}
    if job["size"] != stand_in.VARIANTS[job["variant"]][2]:
        return {}
    if job["kind"] == "export":
        result = np.log(np.maximum(np.asarray(result, np.float64), 1e-30))
    difference = relative_to_golden(job, result)
    allowed = ROUNDED
    if job["precision"] == "float32":
        allowed = DIFFERENCES["cpu" if device == "cpu" else "other"]
    if job.get("own", True) and not difference <= allowed:
        raise ValueError(f"the logits must be the golden ones, but differ by {difference}")
    return {"difference": difference}


# ---- the process --------------------------------------------------------------------------------
def write_files(job):
    """The stand-in weights, and the exported models that are asked for."""
    weights = Path(job["weights"])
    if not weights.exists():
        from safetensors.numpy import save_file

        save_file(stand_in.state_dict(job["variant"]), weights)
    for file in job["files"]:
        import keras_smlp

        path = Path(file)
        if path.exists():
            continue
        if path.name.endswith(".int8.tflite"):
            keras_smlp.export(keras_model(job), path, "litert", precision="int8")
        elif path.name.endswith(".int8.onnx"):
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(path.with_name(path.name.replace(".int8", "")), path)
        else:
            kind = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}[path.suffix]
            keras_smlp.export(keras_model(job), path, kind)


def resident():
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def timed(call):
    """Seconds and result of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def turn(call, seconds):
    """The times of calls for that long, one at least; one before them is not counted."""
    call()
    times = []
    while not times or sum(times) < seconds:
        times.append(timed(call)[0])
    return times


KINDS = {"ours": ours, "peer": peer, "export": exported, "limit": limit}


def main():
    job = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    os.sched_setaffinity(0, job["processors"])
    if job["kind"] == "files":
        write_files(job)
        return
    about, start, device_memory = KINDS[job["kind"]](job)
    before = resident()

    def say(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    def first_call():
        call = start()
        return call, call()

    seconds, (call, result) = timed(first_call)
    found = check(job, result, about.device)
    steady = min(timed(call)[0] for _ in range(WARM_CALLS))
    known = {name: value for name, value in asdict(about).items() if value is not None}
    say(compile_seconds=max(seconds - steady, 0.0), **found, **known)
    waited, used = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        waited, used = time.perf_counter() - waited, time.process_time() - used
        times = turn(call, float(line))
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(
            times=times,
            waited=waited,
            used=used,
            memory_mb=peak / 1e6,
            calls_memory_mb=(peak - before) / 1e6,
            device_memory_mb=device_memory and device_memory() / 1e6,
        )
        waited, used = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
