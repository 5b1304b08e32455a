"""What PyTorch computes in another way than `reference.py`.

PyTorch runs every operation by itself, so few and large ones are best. A product takes its bias
with it, the products of a fusion's branches are added up in place of being concatenated, and a
normalization is one operation. At inference GELU and the residual overwrite what only they read:
new memory costs more than their arithmetic. Keras' own operations are avoided: each looks through
its arguments first, which costs more than a small layer's arithmetic.
"""

import keras
import torch
import torch.nn.functional as F

from keras_smlp.layers.backend import reference


def is_float16_on_cpu(x):
    """Whether it is float16 on a CPU: PyTorch emulates such products, Keras computes in float32."""
    return x.dtype == torch.float16 and x.device.type == "cpu"


def tensor(variable, x):
    if isinstance(variable, keras.Variable) and (value := variable.value).device == x.device:
        return value
    return reference.tensor(variable, x)


def dense(x, kernel, bias):
    if is_float16_on_cpu(x):
        return reference.dense(x, kernel, bias)
    return torch.mm(x, kernel) if bias is None else torch.addmm(bias, x, kernel)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def as_map(rows, x):
    return rows.reshape(x.shape)


def axial(x, kernel, bias, axis):
    if is_float16_on_cpu(x):
        return reference.axial(x, kernel, bias, axis)
    batch, height, width, channels = x.shape
    if axis == "width":
        matrices = x.reshape(batch * height, width, channels)
    else:
        matrices = x.reshape(batch, height, width * channels)
    kernel = kernel.expand(matrices.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(kernel, matrices).reshape(x.shape)
    return torch.baddbmm(bias[:, None], kernel, matrices).reshape(x.shape)


def fuse(branches, kernel):
    if is_float16_on_cpu(branches[0]):
        return reference.fuse(branches, kernel)
    kernels = kernel.split([x.shape[-1] for x in branches])
    y = torch.mm(rows(branches[0]), kernels[0])
    for x, kernel in zip(branches[1:], kernels[1:], strict=True):
        # torch.autocast casts for `mm`, but not for what changes a tensor in place
        y = y.addmm_(rows(x).to(y.dtype), kernel.to(y.dtype))
    return y.reshape(branches[0].shape)


def may_overwrite():
    """Whether an operand may be overwritten: no derivative needs it, no graph is recorded."""
    recording = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return not (torch.is_grad_enabled() or recording)


def copy_if_inplace(x):
    return x.clone() if may_overwrite() else x


def gelu(x, training=False):
    return torch.ops.aten.gelu_(x) if may_overwrite() else F.gelu(x)


def add(x, y):
    # under torch.autocast `y` may have 16 bits beside 32
    return y.add_(x) if may_overwrite() and x.dtype == y.dtype else x + y


def affine(x, scale, shift):
    return torch.addcmul(shift, x, scale)


def layer_norm(layer, x, training=False):
    if x.dtype != torch.float32:
        return reference.layer_norm(layer, x)
    parameters = (v if v is None else tensor(v, x) for v in (layer.gamma, layer.beta))
    return F.layer_norm(x, x.shape[-1:], *parameters, layer.epsilon)


def batch_norm(layer, x, training):
    values = x.numel() // x.shape[-1]  # per channel
    if training and values <= 1:
        # PyTorch's own refuses to take the statistics of a single value
        return reference.batch_norm(layer, x, training)
    dtype = torch.promote_types(x.dtype, torch.float32)  # whatever the policy, as Keras does it
    mean, variance, gamma, beta = (
        tensor(v, x).to(dtype)
        for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    channels_first = x.movedim(-1, 1)
    if not (training and layer.trainable):
        # the input too: ONNX has no operation on 16 bits with parameters of 32
        y = F.batch_norm(channels_first.to(dtype), mean, variance, gamma, beta, eps=layer.epsilon)
        return y.to(x.dtype).movedim(1, -1)
    batch_mean, batch_variance = torch.zeros_like(mean), torch.zeros_like(variance)
    y = F.batch_norm(
        channels_first, batch_mean, batch_variance, gamma, beta, True, 1.0, layer.epsilon
    )
    biased = (values - 1) / values  # PyTorch's variance is unbiased, Keras tracks the biased one
    momentum = layer.momentum
    layer.moving_mean.assign(mean * momentum + batch_mean * (1 - momentum))
    layer.moving_variance.assign(variance * momentum + batch_variance * (biased * (1 - momentum)))
    return y.movedim(1, -1)


def depthwise(x, kernel, bias):
    channels_first, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    margins = [size // 2 for size in kernel.shape[2:]]
    y = F.conv2d(channels_first, kernel, bias, padding=margins, groups=kernel.shape[0])
    return y.permute(0, 2, 3, 1)
