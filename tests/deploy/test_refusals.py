"""What folding, 8 bits, LoRA and another precision refuse, and that the model is left as it was."""

import pytest
from helpers.nets import adapted, compiled, folded, net, other, quantized

from keras_smlp import enable_lora, fold, merge_lora, quantize
from keras_smlp.deploy.precision import with_precision

pytestmark = pytest.mark.once


def no_model():
    return "smlpnet"


def half():
    return net(dtype="mixed_float16")


REFUSED = [
    (fold, no_model, (), "must come from keras_smlp.SMLPNet"),
    (fold, other, (), "must come from keras_smlp.SMLPNet"),
    (fold, compiled, (), "must not be compiled.*compile=False"),
    (fold, folded, (), "must not be folded"),
    (fold, quantized, (), "must not be quantized"),
    (fold, adapted, (), "must not be adapted by LoRA.*merge_lora"),
    (quantize, other, ("int8",), "must come from keras_smlp.SMLPNet"),
    (quantize, compiled, ("int8",), "must not be compiled"),
    (quantize, quantized, ("int8",), "must not be quantized"),
    (quantize, adapted, ("int8",), "must not be adapted by LoRA"),
    (quantize, half, ("int8",), "must not compute in float16.*stage1_block1_token_mixing/mix/fuse"),
    (quantize, net, ("int4",), r"`mode` must be one of \('int8',\). Received: mode='int4'"),
    (enable_lora, other, (2,), "must come from keras_smlp.SMLPNet"),
    (enable_lora, compiled, (2,), "must not be compiled"),
    (enable_lora, quantized, (2,), "must not be quantized"),
    (enable_lora, folded, (2,), "must not be folded"),
    (enable_lora, adapted, (2,), "must not be adapted by LoRA"),
    (enable_lora, net, (0,), "`rank` must be a positive integer. Received: rank=0"),
    (
        enable_lora,
        net,
        (2, -1.0),
        "`alpha` must be None or a positive number. Received: alpha=-1.0",
    ),
    (merge_lora, other, (), "must come from keras_smlp.SMLPNet"),
    (merge_lora, net, (), "must have LoRA layers"),
    (merge_lora, quantized, (), "must not be quantized"),
    (with_precision, other, ("bfloat16",), "`model` must come from keras_smlp.SMLPNet"),
    (with_precision, quantized, ("bfloat16",), "`model` must not be quantized"),
    (with_precision, net, ("float64",), "`precision` must be one of .*'float64'"),
]


@pytest.mark.parametrize(("function", "make", "arguments", "message"), REFUSED)
def test_what_is_refused(function, make, arguments, message):
    model = make()
    before = [v.path for v in getattr(model, "variables", ())]
    with pytest.raises(ValueError, match=message):
        function(model, *arguments)
    assert [v.path for v in getattr(model, "variables", ())] == before
