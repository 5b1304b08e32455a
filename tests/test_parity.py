"""The network against the official code's answers (golden files)."""

import keras
import numpy as np
import pytest
from helpers.nets import answer, build, published

from keras_smlp.weights import official, pth
from reference import stand_in
from reference.stand_in import relative

TOLERANCE = 5e-6


def stages(model, depths):
    """A model of the logits and the output of each stage."""
    ends = [f"stage{i}_block{depth}_channel_mixing" for i, depth in enumerate(depths, start=1)]
    return keras.Model(model.input, [model.output] + [model.get_layer(x).output for x in ends])


@pytest.mark.parametrize(
    "variant",
    ["micro", "tiny", *(pytest.param(x, marks=pytest.mark.deep) for x in ("small", "base"))],
)
def test_logits_and_stages_equal_the_official_code(variant, checkpoint):
    model = build(variant, weights=checkpoint(variant))
    depths = stand_in.VARIANTS[variant][1]
    outputs = stages(model, depths).predict_on_batch(stand_in.images(variant))
    expected = stand_in.golden(variant)
    differences = {"logits": relative(outputs[0], expected["logits"])}
    for i, features in enumerate(outputs[1:], start=1):
        x = np.asarray(features, np.float64)
        found = {
            f"stage{i}_mean": x.mean((1, 2)),
            f"stage{i}_rms": np.sqrt((x**2).mean((1, 2, 3))),
            f"stage{i}_corner": x[:, :2, :3, :8],
        }
        differences.update({name: relative(x, expected[name]) for name, x in found.items()})
    assert differences.keys() == expected.keys()
    largest = max(differences, key=differences.get)
    print(  # the figures of docs/results.md: run with -s
        f"\n{keras.backend.backend()} {variant}: logits {differences['logits']:.1e}, "
        f"largest {differences[largest]:.1e} ({largest})"
    )
    assert differences[largest] < TOLERANCE


@pytest.mark.quick_once
def test_swapped_axes_fail_parity(tmp_path):
    """Both axial kernels are square: only values tell them apart, and these do."""
    weights = stand_in.state_dict("micro")
    for key in list(weights):
        if ".proj_h." in key:
            other = key.replace("proj_h", "proh_w")
            weights[key], weights[other] = weights[other], weights[key]
    pth.write(tmp_path / "swapped.pth", weights)
    model = build(weights=tmp_path / "swapped.pth")
    logits = answer(model, stand_in.images("micro"))
    assert relative(logits, stand_in.golden("micro")["logits"]) > 0.05


@pytest.mark.quick_once
@pytest.mark.parametrize("attribute", ["kernel", "bias"])
def test_transposed_or_lost_axial_weights_fail_parity(attribute, checkpoint):
    model = build(weights=checkpoint("micro"))
    for layer in model.layers:
        if layer.name.endswith("token_mixing"):
            variable = getattr(layer.mix.width, attribute)
            variable.assign(
                np.transpose(np.array(variable)) if attribute == "kernel" else 0 * variable
            )
    logits = answer(model, stand_in.images("micro"))
    assert relative(logits, stand_in.golden("micro")["logits"]) > 1e-3


def test_training_follows_the_official_code(checkpoint):
    """Twenty steps of AdamW, decay on everything but biases and norms, drop path 0."""
    expected = stand_in.golden("micro_train")
    model = build(weights=checkpoint("micro"))
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    losses = []
    for step in range(20):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*stand_in.train_batch("micro", step))))
    print(f"\n{keras.backend.backend()}: {np.abs(losses - expected['losses']).max():.1e} in a loss")
    np.testing.assert_allclose(losses, expected["losses"], atol=1e-4, rtol=0)
    logits = model.predict_on_batch(stand_in.images("micro"))
    assert relative(logits, expected["logits_after"]) < 1e-2
    keys = official.targets(model)
    mean, variance = (
        keras.ops.convert_to_numpy(keys[f"batch_norm.running_{x}"][0]) for x in ("mean", "var")
    )
    # PyTorch's running variance is the unbiased one, n / (n - 1); n = 16 images x 2 x 2 positions
    assert relative(mean, expected["running_mean"]) < 1e-3
    assert relative(variance, expected["running_var"]) < 2e-2
    fuse = keras.ops.convert_to_numpy(keys["token_mix.0.1.fuse.weight"][0])
    assert relative(fuse.T[:, :, None, None], expected["fuse"]) < 1e-3


@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_keys_and_shapes_are_the_official_ones(variant):
    import keras_smlp
    from keras_smlp.weights.strict import file_shape

    model = published(variant)
    found = {key: file_shape(*target) for key, target in official.targets(model).items()}
    expected = stand_in.shapes(variant)
    assert found == {k: s for k, s in expected.items() if not k.endswith("num_batches_tracked")}
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == keras_smlp.VARIANTS[variant].parameters
