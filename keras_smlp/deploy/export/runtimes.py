"""Opens and runs exported models, each in its format's own runtime: to compare and to measure."""

import numpy as np


def opened(path, format, threads=None):
    """Opens an exported model.

    Args:
        path: What `keras_smlp.export` wrote.
        format: Its format there.
        threads: Positive integer, CPU threads of ONNX Runtime, OpenVINO and LiteRT. `None`
            (default) is the runtime's own choice; TensorFlow's and PyTorch's are set for the
            process.

    Returns:
        A function from float32 images `(batch, height, width, 3)` to a dict of arrays.

    Raises:
        ModuleNotFoundError: If the runtime is not installed.
    """
    return OPEN[format](path, threads)


def tf_saved_model(path, threads):
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return lambda images: {name: x.numpy() for name, x in model.serve(images).items()}


def onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def openvino(path, threads):
    import openvino

    # by itself it computes in bfloat16 on processors that have it
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().compile_model(path, "CPU", options)
    names = [output.get_any_name() for output in model.outputs]

    def run(images):
        found = model({"images": images})
        return {name: np.array(found[name]) for name in names}

    return run


def litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=threads).get_signature_runner()
    return lambda images: run(images=images)


def exported_program(path, threads):
    import torch

    program = torch.export.load(path)
    model = program.module()
    names = OUTPUTS[: len(program.graph_signature.user_outputs)]

    def run(images):
        with torch.no_grad():
            return dict(zip(names, (x.numpy() for x in model(torch.tensor(images))), strict=True))

    return run


OUTPUTS = ("probabilities", "features")
OPEN = {
    "tf_saved_model": tf_saved_model,
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
    "torch": exported_program,
}


def size(path):
    """Bytes of an exported model, of all its files."""
    files = [*path.rglob("*")] if path.is_dir() else [path]
    if path.suffix == ".xml":
        files.append(path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file())
