"""Opens and runs exported models, each in its format's own runtime: to compare and to measure."""

import json

import numpy as np

from keras_smlp.deploy.export.web import site


def opened(path, format, threads=None):
    """Opens an exported model.

    Args:
        path: What `keras_smlp.export` wrote.
        format: Its format there.
        threads: Positive integer, CPU threads of ONNX Runtime, OpenVINO and LiteRT. `None`
            (default) is the runtime's own choice; TensorFlow's and PyTorch's are set for the
            process.

    Returns:
        A function from images `(batch, height, width, 3)`, float32 or, where they are pixels,
        uint8, to a dict of arrays.

    Raises:
        ModuleNotFoundError: If the runtime is not installed.
    """
    return OPEN[format](path, threads)


def tf_saved_model(path, threads):
    import tensorflow as tf

    model = tf.saved_model.load(path)

    def run(images):
        serve = model.serve_uint8 if images.dtype == "uint8" else model.serve
        return {name: x.numpy() for name, x in serve(images).items()}

    return run


def onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images):
        # the input has one type, and the runtime casts nothing
        return dict(zip(names, session.run(None, {"images": np.float32(images)}), strict=True))

    return run


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

    interpreter = Interpreter(str(path), num_threads=threads)

    def run(images):
        name = "serving_uint8" if images.dtype == "uint8" else "serving_default"
        return interpreter.get_signature_runner(name)(images=images)

    return run


def web(path, threads):
    one = litert(path / site.MODEL, threads)

    def run(images):
        found = [one(np.float32(image[None])) for image in images]
        return {name: np.concatenate([x[name] for x in found]) for name in found[0]}

    return run


def exported_program(path, threads):
    import torch

    about = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=about)
    model = program.module()
    # the program has a tuple
    is_known = json.loads(about["metadata.json"]).get("output") != "unknown"
    names = ["probabilities" if is_known else "outputs", "features"]
    names = names[: len(program.graph_signature.user_outputs)]

    def run(images):
        with torch.no_grad():
            return dict(zip(names, (x.numpy() for x in model(torch.tensor(images))), strict=True))

    return run


OPEN = {
    "tf_saved_model": tf_saved_model,
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
    "torch": exported_program,
    "web": web,
}


def size(path):
    """Bytes of an exported model, of all its files."""
    files = [*path.rglob("*")] if path.is_dir() else [path]
    if path.suffix == ".xml":
        files.append(path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file())
