"""What PyTorch writes: ONNX, OpenVINO by way of ONNX, and its own exported program."""

import io
import logging
import warnings

import torch


class Endpoint(torch.nn.Module):
    """A Keras model as PyTorch's exporters need it: with a tuple of outputs, not a dict."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        outputs = self.model(images.to(torch.float32), training=False)
        return tuple(outputs[name] for name in self.model.output)  # in another order there


def exported(model):
    """What the exporters take: module, images to trace it with, which axes may have any size."""
    images = torch.zeros((2, *model.input_shape[1:]), device="cpu")
    return Endpoint(model).eval(), (images,), ({0: torch.export.Dim("batch", min=1)},)


def onnx(model, path, precision, metadata, takes_pixels):
    """Writes an ONNX file, the weights within."""
    module, images, dynamic = exported(model)
    # PyTorch says that torchvision is not there, and that it calls what it has deprecated
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        program = torch.onnx.export(
            module,
            images,
            dynamo=True,
            input_names=["images"],
            output_names=list(model.output),
            dynamic_shapes=dynamic,
            verbose=False,
        )
        program.optimize()
    program.model.metadata_props["metadata"] = metadata
    program.save(path)


def openvino(model, path, precision, metadata, takes_pixels):
    """Writes OpenVINO's two files."""
    import openvino as ov

    between = path.with_name("between.onnx")
    onnx(model, between, "float32", metadata, takes_pixels)
    converted = ov.convert_model(between)
    between.unlink()
    converted.set_rt_info(metadata, ["metadata"])
    ov.save_model(converted, path, compress_to_fp16=precision == "float16")


def accept_any_type(graph):
    """Lets an exported program take uint8 images too: the first thing it does is to cast them."""
    for node in list(graph.nodes):
        is_check = node.target is torch.ops.aten._assert_tensor_metadata.default
        if is_check and node.args[0].op == "placeholder":
            graph.erase_node(node)


def exported_program(model, path, precision, metadata, takes_pixels):
    """Writes an exported program."""
    module, images, dynamic = exported(model)
    program = torch.export.export(module, images, dynamic_shapes=dynamic)
    accept_any_type(program.graph_module.graph)
    # in memory first: on a full disk PyTorch's writer ends the process
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": metadata})
    path.write_bytes(file.getbuffer())


WRITERS = {"onnx": onnx, "openvino": openvino, "torch": exported_program}
