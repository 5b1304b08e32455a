"""The classes for KerasHub: the network's answers, its photos, presets, KerasHub's own heads."""

import doctest
import json
import re
import zipfile

import keras
import numpy as np
import pytest
from helpers.nets import answer, build, net, pixels, trained_like
from helpers.processes import ROOT

import keras_smlp
from keras_smlp import naming
from keras_smlp.training.network import with_probabilities
from reference import stand_in
from reference.stand_in import relative

pytestmark = [
    pytest.mark.deep,  # KerasHub takes seconds to import, so it is imported in fixtures
    # KerasHub's own: of the dataset that it makes of arrays
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored"),
]

SIZE = (16, 32)
PHOTOS = (3, 20, 50, 3)  # of another size and aspect


@pytest.fixture(scope="module")
def hub():
    """Our module."""
    pytest.importorskip("keras_hub", reason="docs/hubs.md says how to install it")
    from keras_smlp.hubs import keras_hub

    return keras_hub


@pytest.fixture(scope="module")
def models(hub):
    """KerasHub's models."""
    import keras_hub

    return keras_hub.models


@pytest.fixture
def classifier(hub):
    return hub.SMLPNetImageClassifier.from_keras_smlp(net())


def normalized(images):
    return (images / np.float32(255) - keras_smlp.preprocessing.MEAN) / keras_smlp.preprocessing.STD


def logits_of(classifier, photos):
    """What a classifier answers on photos; nothing is compiled for it, as by `predict`."""
    return answer(classifier, classifier.preprocessor(photos))


def expected_of(model, photos):
    """What the network answers on photos of any size."""
    return answer(model, keras_smlp.preprocess_input(photos, SIZE))


# ---- the same answers ---------------------------------------------------------------------------
def test_a_checkpoint_answers_as_the_official_code(hub, checkpoint):
    images = stand_in.images("micro")
    classifier = hub.SMLPNetImageClassifier.from_keras_smlp(checkpoint("micro"))
    assert (classifier.num_classes, classifier.activation) == (10, "softmax")
    classifier.output_dense.activation = None
    logits = answer(classifier, images)
    assert relative(logits, stand_in.golden("micro")["logits"]) < 5e-6
    network = build(weights=checkpoint("micro"))
    np.testing.assert_allclose(logits, answer(network, images), rtol=0, atol=1e-6)
    body = keras.Model(network.input, network.get_layer(naming.NORM).output)
    np.testing.assert_array_equal(answer(classifier.backbone, images), answer(body, images))
    backbone = hub.SMLPNetBackbone.from_keras_smlp(network)
    found = answer(keras.Model(backbone.input, backbone.pyramid_outputs), images)
    expected = answer(keras_smlp.feature_extractor(network), images)
    assert list(found) == ["P2", "P3", "P4", "P5"]
    for level, x in found.items():
        np.testing.assert_array_equal(x, expected[level])


@pytest.mark.parametrize("channels", [3, 1, 4])
def test_photos_have_the_probabilities_of_the_network(hub, channels):
    model = net(input_shape=(*SIZE, channels), classifier_activation="softmax", drop_path_rate=0.2)
    photos = pixels(*PHOTOS[:3], channels)
    classifier = hub.SMLPNetImageClassifier.from_keras_smlp(model)
    assert classifier.backbone.drop_path_rate == 0.2
    assert not classifier.loss.get_config()["from_logits"]  # KerasHub's default of a softmax
    expected = answer(model, keras_smlp.preprocess_input(photos, SIZE, channels=channels))
    found = classifier.predict(photos, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_tf_data_gives_what_arrays_give(classifier):
    tf = pytest.importorskip("tensorflow")
    photos = pixels(*PHOTOS)
    expected = expected_of(net(), photos)
    data = tf.data.Dataset.from_tensor_slices(photos).batch(2)
    np.testing.assert_allclose(classifier.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(classifier.predict_on_batch(photos), expected, rtol=1e-5, atol=1e-6)


def heads():
    """Models that end as the package's own do, and as people write them."""
    body = trained_like(keras_smlp.SMLPNet(8, (1, 1), input_shape=(*SIZE, 3), include_top=False))
    x = keras.layers.GlobalMaxPooling2D()(body.output)
    x = keras.layers.Dropout(0.25)(x)
    x = keras.layers.Dense(4, activation="sigmoid", name="mine")(x)
    return {
        "a run's softmax": with_probabilities(net()),
        "a run's sigmoid": with_probabilities(net(), "sigmoid"),
        "one's own": keras_smlp.PortableModel(body.input, x),
    }


@pytest.mark.once
def test_heads_that_it_takes(hub):
    for which, model in heads().items():
        classifier = hub.SMLPNetImageClassifier.from_keras_smlp(model)
        found, expected = logits_of(classifier, pixels()), answer(model, pixels())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=which)
    assert (classifier.pooling, classifier.dropout) == ("max", 0.25)  # the last one's


def no_classifiers():
    whole = net()
    norm = whole.get_layer(naming.NORM).output
    pool = keras.layers.GlobalAveragePooling2D
    two = keras.layers.Dense(3, activation="relu")(keras.layers.Dense(4)(pool()(norm)))
    return {
        "no head": keras_smlp.SMLPNet(8, (1, 1), input_shape=(16, 32, 3), include_top=False),
        "two dense layers": keras.Model(whole.input, two),
        "two outputs": keras.Model(whole.input, [whole.output, norm]),
        "flat": keras.Model(whole.input, keras.layers.Dense(3)(keras.layers.Flatten()(norm))),
        "twice activated": with_probabilities(net(classifier_activation="softmax")),
        "after the pool": keras.Model(whole.input, keras.layers.ReLU()(pool()(norm))),
    }


@pytest.mark.once
def test_heads_that_it_refuses(hub):
    for which, model in no_classifiers().items():
        with pytest.raises(ValueError, match="`model` must end in a pooling, perhaps a dropout, a"):
            hub.SMLPNetImageClassifier.from_keras_smlp(model)
            pytest.fail(which)


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras_smlp.fold(net()), "must not be folded"),
        (lambda: keras_smlp.feature_extractor(net()), "must be whole, up to its layer 'norm'"),
        (lambda: keras.Sequential([keras.Input((3,))]), "must come from keras_smlp.SMLPNet"),
        (lambda: 3, "`model` must be a Keras model or the path of a file. Received: model=3"),
    ],
)
def test_models_that_are_no_whole_network(hub, model, message):
    with pytest.raises(ValueError, match=message):
        hub.SMLPNetBackbone.from_keras_smlp(model())


@pytest.mark.once
def test_addresses_are_handed_on_as_they_are(hub, monkeypatch):
    given = []

    def opened(path, compile):
        given.append(path)
        return net()

    monkeypatch.setattr("keras_smlp.hubs.keras_hub.backbone.load_model", opened)
    hub.SMLPNetBackbone.from_keras_smlp("hf://me/net")
    assert given == ["hf://me/net"]


@pytest.mark.once
def test_a_file_that_cannot_be_loaded_is_said_of_this_argument(hub):
    build = hub.SMLPNetBackbone.from_keras_smlp
    with pytest.raises(
        FileNotFoundError, match="`model` names no file. Received: model='no.keras'"
    ):
        build("no.keras")
    with pytest.raises(ValueError, match="`model` must be the path of a file .*: model='x.txt'"):
        build("x.txt")


@pytest.mark.once
def test_arguments_are_refused_by_name(hub):
    with pytest.raises(ValueError, match="`image_shape` must be .* multiples of 8"):
        hub.SMLPNetBackbone(8, (1, 1), image_shape=(12, 32, 3))
    with pytest.raises(ValueError, match="`depths` must be"):
        hub.SMLPNetBackbone(8, "ab")
    with pytest.raises(ValueError, match="patches whose side is a power of two"):
        hub.SMLPNetBackbone(8, (1,), patch_size=3, image_shape=(12, 12, 3))


# ---- the converter ------------------------------------------------------------------------------
def test_the_converter_is_preprocess_input_normalized(hub):
    photos = pixels(*PHOTOS)
    converter = hub.SMLPNetImageConverter(SIZE)
    expected = keras_smlp.preprocess_input(photos, SIZE)
    found = converter(photos)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, normalized(expected), rtol=0, atol=1e-6)
    bare = hub.SMLPNetImageConverter(SIZE, scale=None, offset=None)
    np.testing.assert_array_equal(bare(photos), expected)
    tensor = keras.ops.convert_to_tensor(photos)
    for given in (photos.astype("int64"), photos.tolist(), list(photos), tensor):
        np.testing.assert_array_equal(bare(given), expected)
    np.testing.assert_array_equal(bare(photos[0]), expected[0])
    bfloat16 = keras.ops.cast(tensor, "bfloat16")
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(bfloat16, "float32"))
    np.testing.assert_array_equal(bare(bfloat16), keras_smlp.preprocess_input(rounded, SIZE))


@pytest.mark.once
def test_photos_of_different_sizes(hub):
    photos = [pixels(20, 50, 3), pixels(33, 40, 3)]
    converter = hub.SMLPNetImageConverter(SIZE, resize_size=(24, 40))
    preprocessor = hub.SMLPNetImageClassifierPreprocessor(converter)
    images, labels = preprocessor(photos, [1, 2])
    assert labels == [1, 2]
    for image, photo in zip(images, photos, strict=True):
        expected = keras_smlp.preprocess_input(photo, SIZE, resize_size=(24, 40))
        np.testing.assert_allclose(image, normalized(expected), rtol=0, atol=1e-6)


def test_the_converter_in_pipelines(hub):
    """In tf.data, with unknown sizes too, and in Grain."""
    tf = pytest.importorskip("tensorflow")
    grain = pytest.importorskip("grain")
    photos = pixels(*PHOTOS)
    preprocessor = hub.SMLPNetImageClassifierPreprocessor(hub.SMLPNetImageConverter(SIZE))
    expected = preprocessor(photos)
    labels = np.arange(3)

    def generate():
        yield from zip(photos, labels, strict=True)

    spec = tf.TensorSpec((None, None, None), "uint8"), tf.TensorSpec((), "int64")
    for data in (
        tf.data.Dataset.from_tensor_slices((photos, labels)),
        tf.data.Dataset.from_generator(generate, output_signature=spec),
    ):
        data = data.map(preprocessor).batch(3)
        assert data.element_spec[0].shape[1:3] == SIZE
        images, classes = data.get_single_element()
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(classes, labels)
    data = grain.MapDataset.source(list(photos)).map(preprocessor).batch(3)
    np.testing.assert_array_equal(data[0], expected)


@pytest.mark.once
def test_gray_photos_for_a_network_of_rgb(hub):
    gray = pixels(*PHOTOS[:3], 1)
    converter = hub.SMLPNetImageConverter(SIZE)
    np.testing.assert_array_equal(converter(gray), converter(np.repeat(gray, 3, axis=-1)))
    assert converter.compute_output_shape((None, 20, 50, 1)) == (None, *SIZE, 3)


@pytest.mark.once
def test_images_and_sizes_that_it_refuses(hub):
    converter = hub.SMLPNetImageConverter(SIZE)
    for wrong in (np.full((8, 8, 3), 300), np.full((8, 8, 3), -1.0)):
        with pytest.raises(ValueError, match=r"must be .*in \[0, 255\]. Received"):
            converter(wrong)
    for empty in ([], ()):
        with pytest.raises(ValueError, match="`inputs` must be at least one image. Received: inp"):
            converter(empty)
    with pytest.raises(ValueError, match="`resize_size` must be at least `size`"):
        hub.SMLPNetImageConverter(SIZE, resize_size=8)
    assert hub.SMLPNetImageConverter(None, scale=2.0, offset=None)(pixels(4, 6, 3)).max() > 255


# ---- presets and files --------------------------------------------------------------------------
def test_presets_of_a_folder(hub, models, classifier, tmp_path):
    photos = pixels(*PHOTOS)
    expected = logits_of(classifier, photos)
    classifier.preprocessor.image_converter.resize_size = (17, 34)
    classifier.save_to_preset(tmp_path)
    folder = str(tmp_path)  # KerasHub reads no pathlib.Path
    classifier.preprocessor.image_converter.resize_size = None
    converter = {"image_size": SIZE, "resize_size": (17, 34)}
    for loader in (hub.SMLPNetImageClassifier, models.ImageClassifier):
        again = loader.from_preset(folder)
        assert type(again) is hub.SMLPNetImageClassifier
        found = again.preprocessor.image_converter
        assert {name: tuple(getattr(found, name)) for name in converter} == converter
        found.resize_size = None
        np.testing.assert_allclose(logits_of(again, photos), expected, rtol=1e-6, atol=1e-6)
    for loader in (hub.SMLPNetBackbone, models.Backbone):
        backbone = loader.from_preset(folder)
        assert type(backbone) is hub.SMLPNetBackbone
        np.testing.assert_equal(backbone.get_weights(), classifier.backbone.get_weights())
    for loader in (hub.SMLPNetImageClassifierPreprocessor, models.ImageClassifierPreprocessor):
        preprocessor = loader.from_preset(folder)
        assert type(preprocessor.image_converter) is hub.SMLPNetImageConverter
    new = models.ImageClassifier.from_preset(folder, num_classes=2, activation="softmax")
    assert new.output_shape == (None, 2)
    np.testing.assert_equal(new.backbone.get_weights(), classifier.backbone.get_weights())


def test_presets_in_bfloat16(hub, models, classifier, tmp_path):
    photos = pixels(*PHOTOS)
    expected = logits_of(classifier, photos)
    classifier.save_to_preset(f"{tmp_path}/float32")
    half = models.ImageClassifier.from_preset(f"{tmp_path}/float32", dtype="bfloat16")
    assert {half.backbone.compute_dtype, half.backbone.variable_dtype} == {"bfloat16"}
    assert half.output_dense.dtype_policy.name == "float32"  # logits, as everywhere here
    answers = logits_of(half, photos)
    assert relative(answers, expected) < 0.05 and (answers != expected).any()
    half.save_to_preset(f"{tmp_path}/bfloat16")
    again = models.ImageClassifier.from_preset(f"{tmp_path}/bfloat16", dtype="bfloat16")
    np.testing.assert_array_equal(logits_of(again, photos), answers)
    wide = models.ImageClassifier.from_preset(f"{tmp_path}/bfloat16")  # the global policy, float32
    assert wide.backbone.variable_dtype == "float32"
    assert relative(logits_of(wide, photos), expected) < 0.05
    ours = hub.SMLPNetImageClassifier.from_keras_smlp(net(dtype="bfloat16"))
    assert ours.backbone.compute_dtype == "bfloat16"


def test_a_compiled_classifier_from_a_keras_file(hub, classifier, tmp_path):
    images, labels = pixels(*PHOTOS), np.arange(3)
    before = classifier.backbone.get_layer(naming.STEM).get_weights()[0]
    classifier.fit(images, labels, batch_size=2, verbose=0)
    assert (classifier.backbone.get_layer(naming.STEM).get_weights()[0] != before).any()
    classifier.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert type(again) is hub.SMLPNetImageClassifier
    np.testing.assert_array_equal(logits_of(again, images), logits_of(classifier, images))
    assert int(again.optimizer.iterations) == 2
    both = zip(again.optimizer.variables, classifier.optimizer.variables, strict=True)
    for found, expected in both:
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))
    assert np.isfinite(again.fit(images, labels, verbose=0).history["loss"]).all()
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        compiled = json.loads(archive.read("config.json"))["compile_config"]
    assert compiled["optimizer"]["module"] == "keras.optimizers"  # those of every backend
    assert compiled["jit_compile"] == "auto"


@pytest.mark.parametrize("head", [None, "int8"])
def test_8_bits_in_keras_files_and_not_in_presets(hub, classifier, head, tmp_path):
    photos = pixels(*PHOTOS)
    expected = logits_of(classifier, photos)
    names = "fuse|dense1|dense2" + ("|predictions" if head else "")
    classifier.quantize("int8", filters=f".*({names})$")
    answers = logits_of(classifier, photos)
    assert 1e-4 < relative(answers, expected) < 0.1
    for model, name in ((classifier, "m.keras"), (classifier.backbone, "b.keras")):
        model.save(tmp_path / name)
    again = keras.saving.load_model(tmp_path / "m.keras")
    mixing = again.backbone.get_layer("stage1_block1_channel_mixing")
    assert mixing.dense1.quantization_mode == "int8"
    assert again.output_dense.quantization_mode == head
    np.testing.assert_array_equal(logits_of(again, photos), answers)
    backbone = keras.saving.load_model(tmp_path / "b.keras")
    images = classifier.preprocessor(photos)
    np.testing.assert_array_equal(answer(backbone, images), answer(classifier.backbone, images))
    for model in (classifier, classifier.backbone):
        with pytest.raises(ValueError, match="KerasHub cannot read the preset of a backbone with"):
            model.save_to_preset(tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


@pytest.mark.once
def test_low_rank_adapters(hub, classifier, tmp_path):
    backbone, images = classifier.backbone, pixels()
    backbone.enable_lora(2)
    names = {x.path.split("/")[-1] for x in backbone.trainable_variables}
    assert names == {"lora_kernel_a", "lora_kernel_b", "bias"}
    adapted = backbone.get_layer("stage1_block1_channel_mixing").dense1
    adapted.lora_kernel_b.assign(np.ones(adapted.lora_kernel_b.shape))
    backbone.save_lora_weights(tmp_path / "m.lora.h5")
    other = hub.SMLPNetBackbone.from_keras_smlp(net())
    other.load_lora_weights(tmp_path / "m.lora.h5")
    np.testing.assert_allclose(answer(other, images), answer(backbone, images), atol=1e-5)


# ---- KerasHub's heads ---------------------------------------------------------------------------
@pytest.fixture
def pyramid(hub):
    backbone = hub.SMLPNetBackbone(8, (1, 1, 1, 1), image_shape=(64, 64, 3))
    backbone.get_layer(naming.NORM).trainable = False  # of no use to heads on the pyramid
    return backbone


def trains(model, backbone, *data):
    before = backbone.get_layer(naming.STEM).get_weights()[0]
    loss = model.fit(*data, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert (backbone.get_layer(naming.STEM).get_weights()[0] != before).any()


def test_its_object_detector_trains_on_the_backbone(models, pyramid):
    body = models.RetinaNetBackbone(
        pyramid, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
    )
    detector = models.RetinaNetObjectDetector(body, num_classes=3, pre_logits_num_conv_layers=1)
    detector.compile(optimizer=keras.optimizers.SGD(1e-3), box_loss="mse")
    boxes = np.array([[[8, 8, 40, 40]]] * 2, "float32")
    truth = {"boxes": boxes, "labels": np.array([[1]] * 2, "float32")}
    trains(detector, pyramid, pixels(2, 64, 64, 3, dtype="float32") / 255, truth)


def test_its_segmenter_trains_on_the_backbone(models, pyramid):
    body = models.DeepLabV3Backbone(
        pyramid,
        "P5",
        upsampling_size=8,
        dilation_rates=[2],
        low_level_feature_key="P2",
        image_shape=(64, 64, 3),
    )
    segmenter = models.DeepLabV3ImageSegmenter(body, num_classes=2)
    segmenter.compile(
        "sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    masks = np.eye(2, dtype="float32")[np.arange(2 * 64 * 64).reshape(2, 64, 64) % 2]
    trains(segmenter, pyramid, pixels(2, 64, 64, 3, dtype="float32") / 255, masks)


# ---- documents ----------------------------------------------------------------------------------
@pytest.mark.once
def test_the_examples_of_the_docstrings(hub):
    classes = [thing for thing in vars(hub).values() if isinstance(thing, type)]
    assert len(classes) == 4
    things = [*classes, *(x.from_keras_smlp for x in classes if hasattr(x, "from_keras_smlp"))]
    for thing in things:
        names = {"np": np, "keras_smlp": keras_smlp}
        example = doctest.DocTestParser().get_doctest(thing.__doc__, names, str(thing), None, None)
        assert example.examples, thing
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.once
def test_the_example_of_the_page(hub, checkpoint, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "hubs.md").read_text().partition("## KerasHub")[2]
    (code,) = re.findall(r"```python\n(.*?)```", page.partition("\n## ")[0], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"smlp_s.pth"', repr(str(checkpoint("micro")))), names)
    assert names["probabilities"].shape == (2, 10)
    assert names["mine"].num_classes == 10
