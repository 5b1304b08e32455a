"""What PyTorch computes in another way than `reference.py`.

PyTorch runs every operation by itself, so few and large ones are best. A product takes its bias
with it, the products of a fusion's branches are added up in place of being concatenated, and a
normalization is one operation. At inference GELU and the residual overwrite what only they read:
new memory costs more than their arithmetic. Keras' own operations are avoided: each looks through
its arguments first, which costs more than a small layer's arithmetic.
"""

import contextlib
from contextvars import ContextVar

import keras
import torch
import torch.nn.functional as F

from keras_smlp.layers.backend import reference


def is_float16_on_cpu(x):
    """Whether it is float16 on a CPU: PyTorch emulates such products, Keras computes in float32."""
    return x.dtype == torch.float16 and x.device.type == "cpu"


# id of a variable -> its value in 16 bits, while a model runs
CASTS: ContextVar[dict[int, torch.Tensor]] = ContextVar("casts")


class Cast(torch.autograd.Function):
    """Casts many tensors by one operation, and their gradients back by another."""

    @staticmethod
    def forward(ctx, dtype, *tensors):
        ctx.dtypes = [x.dtype for x in tensors]
        ctx.set_materialize_grads(False)
        return cast_all(tensors, [dtype] * len(tensors))

    @staticmethod
    def backward(ctx, *gradients):
        given = [i for i, x in enumerate(gradients) if x is not None]
        cast = cast_all([gradients[i] for i in given], [ctx.dtypes[i] for i in given])
        answer = [None] * len(gradients)
        for i, x in zip(given, cast, strict=True):
            answer[i] = x
        return None, *answer


def cast_all(tensors, dtypes):
    """The tensors in other dtypes; by one operation, unless it must have a derivative."""
    pairs = list(zip(tensors, dtypes, strict=True))
    if torch.is_grad_enabled():  # in a derivative of a derivative
        return tuple(x.to(dtype) for x, dtype in pairs)
    # PyTorch copies lists one by one if the strides of any two differ
    tensors = [x.contiguous() for x in tensors]
    cast = tuple(torch.empty(x.shape, dtype=dtype, device=x.device) for x, dtype in pairs)
    torch._foreach_copy_(cast, tensors)
    return cast


def casting(variables, dtype):
    # a compiler fuses the casts with what reads them
    return contextlib.nullcontext() if is_recording() else cast_at_once(variables, dtype)


@contextlib.contextmanager
def cast_at_once(variables, dtype):
    pairs = [(id(x), x.value) for x in variables]
    found: dict[int, torch.Tensor] = {}
    for trained in (True, False):  # one that is frozen would get a gradient with the others
        chosen = {i: x for i, x in pairs if x.dtype == torch.float32 and x.requires_grad == trained}
        if chosen:
            cast = Cast.apply(getattr(torch, dtype), *chosen.values())
            found |= dict(zip(chosen, cast, strict=True))
    token = CASTS.set(found)
    try:
        yield
    finally:
        CASTS.reset(token)


def is_recording():
    """Whether what runs is recorded, by an exporter or a compiler."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def tensor(variable, x):
    if not isinstance(variable, keras.Variable):
        return reference.tensor(variable, x)
    value = None if is_recording() else CASTS.get({}).get(id(variable))
    if value is None or value.dtype != x.dtype:
        value = variable.value
    return value if value.device == x.device else reference.tensor(variable, x)


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
    return not (torch.is_grad_enabled() or is_recording())


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
    parameters = [v if v is None else tensor(v, x) for v in (layer.gamma, layer.beta)]
    if x.dtype == torch.float64:
        return reference.layer_norm(layer, x)
    # in float32 within; 16 bits beside parameters of 32 only CPUs take, and ONNX does not
    wide = x if x.device.type == "cpu" and not is_recording() else x.float()
    parameters = [v if v is None else v.float() for v in parameters]
    return F.layer_norm(wide, x.shape[-1:], *parameters, layer.epsilon).to(x.dtype)


class Statistics:
    """Moving statistics of many layers, updated in place by a training step.

    PyTorch's kernel updates them with the unbiased variance of `n` values, Keras tracks the biased
    one, `(n - 1) / n` times as large. So the step ends by moving what it has made of each variance
    by `1 / n` towards `momentum * variance`, for all layers of one `n` by one operation.
    """

    def __init__(self, layers):
        self.decayed, self.values = {}, {}
        layers = [x for x in layers if x.moving_variance.value.dtype == torch.float32]
        if layers:
            variances = [layer.moving_variance.value for layer in layers]
            factors = [layer.momentum for layer in layers]
            decayed = torch._foreach_mul(variances, factors)
            pairs = zip(variances, decayed, strict=True)
            self.decayed = dict(zip(map(id, layers), pairs, strict=True))

    def take(self, layer, values):
        """Whether the kernel may update a layer's statistics, of so many values per channel."""
        if id(layer) in self.values:  # called again: what it has is finished, the rest is its own
            variance, decayed = self.decayed.pop(id(layer))
            # `data`, or autograd would take the change for one of what it needs
            variance.data.lerp_(decayed, 1 / self.values.pop(id(layer)))
        if id(layer) in self.decayed:
            self.values[id(layer)] = values
        return id(layer) in self.decayed

    def finish(self):
        for values in set(self.values.values()):
            own = [self.decayed[i] for i, n in self.values.items() if n == values]
            torch._foreach_lerp_(*map(list, zip(*own, strict=True)), 1 / values)


STATISTICS: ContextVar[Statistics | None] = ContextVar("statistics", default=None)


def updating_statistics(layers):
    return contextlib.nullcontext() if is_recording() else update_at_once(layers)


@contextlib.contextmanager
def update_at_once(layers):
    statistics = Statistics(layers)
    token = STATISTICS.set(statistics)
    try:
        yield
    finally:
        STATISTICS.reset(token)
        with torch.no_grad():
            statistics.finish()


def batch_norm(layer, x, training):
    values = x.numel() // x.shape[-1]  # per channel
    if training and values <= 1:
        # PyTorch's own refuses to take the statistics of a single value
        return reference.batch_norm(layer, x, training)
    # whatever the policy, as Keras does it
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, variance, gamma, beta = (
        tensor(v, x).to(dtype)
        for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    channels_first = x.movedim(-1, 1)
    if not (training and layer.trainable):
        if is_recording():  # ONNX has no operation on 16 bits with parameters of 32
            channels_first = channels_first.to(dtype)
        y = F.batch_norm(channels_first, mean, variance, gamma, beta, eps=layer.epsilon)
        return y.to(x.dtype).movedim(1, -1)
    momentum = layer.momentum
    statistics = None if is_recording() else STATISTICS.get()
    if statistics and statistics.take(layer, values):
        y = F.batch_norm(
            channels_first, mean, variance, gamma, beta, True, 1 - momentum, layer.epsilon
        )
        return y.movedim(1, -1)
    # the kernel's variance is unbiased, Keras tracks the biased one: see `Statistics`
    mean, variance = mean.detach(), variance.detach()
    decayed, new_mean, new_variance = variance * momentum, mean.clone(), variance.clone()
    y = F.batch_norm(
        channels_first, new_mean, new_variance, gamma, beta, True, 1 - momentum, layer.epsilon
    )
    layer.moving_mean.assign(new_mean)
    layer.moving_variance.assign(torch.lerp(new_variance, decayed, 1 / values))
    return y.movedim(1, -1)


def depthwise(x, kernel, bias):
    channels_first, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    margins = [size // 2 for size in kernel.shape[2:]]
    y = F.conv2d(channels_first, kernel, bias, padding=margins, groups=kernel.shape[0])
    return y.permute(0, 2, 3, 1)


def patches(x, kernel):
    if is_recording():  # torch.compile cannot order these strides where sizes are symbols
        return reference.patches(x, kernel)
    # what Keras does first is to copy the map, into another layout and back
    channels_first, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return F.conv2d(channels_first, kernel, stride=kernel.shape[2:]).permute(0, 2, 3, 1)
