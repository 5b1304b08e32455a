"""Images of other channels than RGB: read, changed and trained on."""

import importlib.util
import json
import re

import keras
import numpy as np
import pytest
from helpers.photos import Image, encoded, photo

tf = pytest.importorskip("tensorflow", reason="the batches are made by tf.data")

from helpers.training import SMALL, Run, refused  # noqa: E402 - asked for first

import keras_smlp  # noqa: E402
from keras_smlp.data import augment, decode, on_device, pipeline, sources  # noqa: E402
from keras_smlp.data.recipe import DataConfig  # noqa: E402
from keras_smlp.preprocessing import MEAN, STD  # noqa: E402
from keras_smlp.training import report  # noqa: E402
from keras_smlp.training.parsing import parse  # noqa: E402
from keras_smlp_cli import predict  # noqa: E402

pytestmark = pytest.mark.once

PLAIN = ["--data.name=folder", "--data.augment=none", "--train.batch_size=8", "--train.epochs=1"]


def rgba(name="china", size=(90, 70)):
    picture = photo(name, size).convert("RGBA")
    picture.putalpha(Image.fromarray(np.tile(np.arange(size[0]) * 2, (size[1], 1)).astype("uint8")))
    return picture


def four_bands(name, size):
    return encoded(rgba(name, size), "PNG")


def gray(name, size):
    return encoded(photo(name, size).convert("L"), "PNG")


def folder(path, file, ending="png"):
    """Two classes, each of eight images for training and three others."""
    for split, count in (("train", 8), ("val", 3)):
        for name in ("china", "flower"):
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                content = file(name, (60 + 4 * i, 70 - 3 * i))
                (path / split / name / f"{i}.{ending}").write_bytes(content)
    return path


# ---- decoding -----------------------------------------------------------------------------------
CASES = {
    "a color JPEG as gray": (1, encoded(photo(size=(90, 70)), quality=90)),
    "a gray JPEG": (1, encoded(photo(size=(90, 70)).convert("L"), quality=90)),
    "a color PNG as gray": (1, encoded(photo(size=(90, 70)), "PNG")),
    "a gray PNG": (1, gray("china", (90, 70))),
    "RGBA": (4, four_bands("china", (90, 70))),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_tensorflow_decodes_is_what_pil_does(kind):
    channels, content = CASES[kind]
    crop = decode.CenterCrop((64, 64), (70, 70))
    fast = decode.fast_decode(tf.constant(content), crop, channels=channels)
    slow = decode.crop_pixels(tf.constant(decode.by_pil(content, channels=channels)), crop)
    assert fast.shape == (64, 64, channels)
    # of a JPEG both decode alike but for a last bit
    assert np.abs(fast.numpy().astype(int) - slow.numpy()).max() <= (1 if "JPEG" in kind else 0)
    seen = keras_smlp.load_image(content, 64, 70, channels=channels)
    assert np.abs(fast.numpy().astype(int) - seen).mean() < 0.5


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_a_file_of_other_channels_is_a_bad_file(channels):
    bad, crop = decode.BadFiles(), decode.CenterCrop((16, 16), (16, 16))
    content, name = tf.constant(encoded(photo(size=(90, 70)))), tf.constant("a.jpg")
    image, is_good = decode.decode_with_fallback(content, name, bad, crop, channels=channels)
    assert not is_good and image.shape == (16, 16, channels)
    assert bad.names["a.jpg"].startswith(f"its pixels are RGB, allowed for {channels} channels: ")


@pytest.mark.parametrize("channels", [2, 5])
def test_files_that_pil_alone_decodes(channels):
    bands = [x.resize((20, 20)) for x in (*photo().split(), *rgba().split())][:channels]
    pages = encoded(bands[0], "TIFF", save_all=True, append_images=bands[1:])
    bad, crop = decode.BadFiles(), decode.CenterCrop((20, 20), (20, 20))
    image, is_good = decode.decode_with_fallback(
        tf.constant(pages), tf.constant("a.tif"), bad, crop, channels=channels
    )
    assert is_good and not bad.names
    np.testing.assert_array_equal(image, np.dstack(bands))


# ---- images in memory ---------------------------------------------------------------------------
def arrays(path, shape):
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 1, 0])
    images = rng.integers(0, 256, (4, *shape), "uint8")
    np.savez(
        path / "a.npz",
        train_images=images,
        train_labels=labels,
        validation_images=images,
        validation_labels=labels,
    )
    return str(path / "a.npz"), images


def test_arrays(tmp_path):
    for channels, shape in ((4, (9, 8, 4)), (7, (9, 8, 7)), (1, (9, 8, 1)), (3, (9, 8, 3))):
        path, images = arrays(tmp_path, shape)
        source = sources.load("npz", path, channels=channels)
        np.testing.assert_array_equal(source.train.images, images)
    source = sources.load("npz", path, channels=1)
    expected = [np.asarray(Image.fromarray(x).convert("L"))[..., None] for x in images]
    np.testing.assert_array_equal(source.train.images, expected)
    assert source.validation.images.shape == (4, 9, 8, 1)


@pytest.mark.parametrize(
    ("shape", "channels", "allowed"),
    [
        ((9, 8, 4), 3, "1 or 3"),
        ((9, 8, 4), 1, "1 or 3"),
        ((9, 8, 3), 4, "4"),
        ((9, 8), 2, "2"),
    ],
)
def test_arrays_of_other_channels_are_refused(shape, channels, allowed, tmp_path):
    path, _ = arrays(tmp_path, shape)
    sentence = rf"^`path`: train_images of .* allowed: uint8 \(n, height, width, {allowed}\)$"
    with pytest.raises(ValueError, match=sentence):
        sources.load("npz", path, channels=channels)


def test_digits_are_gray():
    one, three = (sources.load("digits", channels=n).train.images for n in (1, 3))
    np.testing.assert_array_equal(one.repeat(3, -1), three)


# ---- augmentation -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_gray_is_changed_as_its_rgb_copy(name):
    picture = photo("flower", (48, 40)).convert("L")
    one = np.asarray(picture)[..., None]
    for magnitude, sign in ((9.0, 1.0), (4.3, -1.0)):
        arguments = tf.constant(magnitude), tf.constant(sign)
        found = augment.OPERATIONS[name](tf.constant(one), *arguments).numpy()
        copied = augment.OPERATIONS[name](tf.constant(one.repeat(3, -1)), *arguments).numpy()
        filled = (copied == augment.FILL[3]).all(-1)
        np.testing.assert_array_equal(found[~filled].repeat(3, -1), copied[~filled])
        assert (found[filled] == augment.FILL[1]).all()
        assert found.shape == one.shape and found.dtype == np.uint8
    assert augment.FILL[1] == (
        Image.new("RGB", (1, 1), augment.FILL[3]).convert("L").getpixel((0, 0)),
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_what_is_erased_is_noise_of_each_channel(channels):
    images = np.full((2, 128, 128, channels), 7, "uint8")
    boxes = np.array([[0, 0, 128, 128, 1], [0, 0, 64, 128, 2]], "int32")
    found = keras.ops.convert_to_numpy(on_device.finished({"images": images, "erase": boxes}, 2))
    mean, std = ([np.mean(v)] if channels == 1 else [*v, v[0]] for v in (MEAN, STD))
    np.testing.assert_allclose(found[0].mean((0, 1)), 255 * np.array(mean), rtol=0.03)
    np.testing.assert_allclose(found[0].std((0, 1)), 255 * np.array(std), rtol=0.03)
    assert (found[1, 64:] == 7).all() and (found[1, :64] != 7).any()


def test_all_that_is_done_to_four_channels():
    recipe = DataConfig(
        name="npz", dir="a", channels=4, augment="none", max_shift=0.1, group_size=4, repeats=1
    )
    x = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 4), "uint8")
    split = sources.Arrays(x, np.arange(8, dtype="int32") % 2)
    batches = pipeline.train_batches(split, recipe, 16, 2, 8, 0, decode.BadFiles())
    batch, targets = next(batches(0, range(1)).as_numpy_iterator())
    assert batch["images"].shape == (8, 16, 16, 4) and targets.shape == (8, 2)
    images = keras.ops.convert_to_numpy(on_device.finished(batch, 4))
    assert images.shape == (8, 16, 16, 4) and np.isfinite(images).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--data.name=npz --data.dir=a --data.channels=4 --data.augment=rand_augment",
            "data.augment: rand_augment with data.channels 4, allowed: none",
        ),
        (
            "--data.channels=1 --data.augment=keras_cv --data.erase=0",
            "data.augment: keras_cv with data.channels 1, allowed: none or rand_augment",
        ),
        ("--data.channels=4", "data.channels: 4 with data.name digits, allowed: 1 or 3"),
        ("--data.channels=0", "data.channels: 0, allowed: int >0 and <2147483648"),
    ],
)
def test_keys_that_do_not_fit(line, message, capsys):
    assert refused(capsys, *line.split()) == f"train.py: error: {message}\n"


def test_an_evaluation_takes_any_number_of_channels(tmp_path):
    path = tmp_path / "w.keras"
    keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 4), classes=2).save(path)
    argv = ["--data.name=npz", "--data.dir=a", f"--model.weights={path}"]
    argv.append("--data.augment=rand_augment")
    assert parse([*argv, "--eval"]).data.channels == 4
    with pytest.raises(ValueError, match=r"^data.augment: rand_augment with data.channels 4, al"):
        parse(argv)


# ---- training -----------------------------------------------------------------------------------
def pixels_of(path, channels):
    return np.asarray(decode.by_pil(path.read_bytes(), channels=channels))


@pytest.mark.deep
@pytest.mark.parametrize(("channels", "file"), [(1, gray), (4, four_bands)])
def test_a_run(channels, file, tmp_path):
    data = folder(tmp_path / "data", file)
    other = encoded(photo(size=(60, 60)))  # a color JPEG
    (data / "train" / "china" / "0.png").write_bytes(other)
    more = [f"--data.dir={data}", f"--data.channels={channels}", "--data.erase=1"]
    more += ["--data.mixup=0.8", "--data.group_size=8"]
    run = Run(tmp_path / "run", *PLAIN, *more)
    assert ("1 of 22 files cannot be decoded" in run.out) == (channels == 4)
    if channels == 4:
        assert "0.png (its pixels are RGB, allowed for 4 channels: RGBA or a TIFF" in run.out
    best = keras_smlp.load_model(run.folder / "best.keras")
    assert best.input_shape == (None, 16, 16, channels)
    example = run.folder / "example.png"
    expected = pixels_of(data / "val" / "china" / "0.png", channels)
    np.testing.assert_array_equal(pixels_of(example, channels), expected)
    x = keras_smlp.load_image(example, 16, 16, channels=channels)[None]
    assert best.predict_on_batch(x).shape == (1, 2)
    assert (run.folder / "batch.png").stat().st_size
    if channels == 4:
        return
    # the saved weights are evaluated as they were; the stem of gray is that of RGB
    line = re.search(r"^\* Acc.*$", run.out, re.MULTILINE)[0]
    weights = f"--model.weights={run.folder / 'best.keras'}"
    again = Run(tmp_path / "again", *PLAIN, *more[:2], weights, "--eval")
    assert line in again.out and "a stem for" not in again.out


@pytest.mark.parametrize("channels", range(1, 8))
def test_the_example_is_read_as_it_is(channels, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2, 6, 9, channels), "uint8")
    path = tmp_path / ("a.png" if channels <= report.MOST_OF_PNG else "a.tif")
    report.write_example(path, sources.Arrays(x, np.zeros(2, "int32")), False, channels)
    np.testing.assert_array_equal(pixels_of(path, channels), x[0])


@pytest.mark.quick_once
def test_weights_of_rgb_begin_a_run(tmp_path, capsys):
    own = {"input_shape": (16, 16, 3), "patch_size": 2, "classes": 2}
    rgb = keras_smlp.SMLPNet(8, (1, 1), **own)
    rgb.save(tmp_path / "rgb.keras")
    path, _ = arrays(tmp_path, (16, 16, 4))
    options = ["--data.name=npz", f"--data.dir={path}", "--data.channels=4", "--train.batch_size=4"]
    options += [f"--model.weights={tmp_path / 'rgb.keras'}", "--train.epochs=1"]
    run = Run(tmp_path / "run", *options)
    assert "model.weights: a stem for 4 channels made of that for 3\n" in run.out
    for wrong in (3, 5):
        arrays(tmp_path, (16, 16, wrong))
        weights = f"--model.weights={run.folder / 'best.keras'}"
        again = [*options[:2], f"--data.channels={wrong}", options[3], weights, "--eval"]
        error = refused(capsys, f"--output_dir={tmp_path / 'again'}", *SMALL, *again)
        assert "The stem belongs to one number of channels: " in error


def test_a_run_on_files_of_other_channels_is_refused(tmp_path, capsys):
    data = folder(tmp_path / "data", lambda name, size: encoded(photo(name, size)), "jpg")
    error = refused(
        capsys,
        *PLAIN,
        f"--data.dir={data}",
        "--data.channels=4",
        f"--output_dir={tmp_path / 'run'}",
        "--model.dim=8",
        "--model.depths=[1,1]",
        "--model.input_size=16",
        "--data.resize_size=16",
        began=True,
    )
    assert error.startswith(
        "train.py: error: data: no validation image can be decoded (its pixels are RGB, allowed "
        "for 4 channels: RGBA or a TIFF of 4 gray pages), allowed: at least one"
    )


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="it draws")
@pytest.mark.parametrize(("channels", "file"), [(1, gray), (4, four_bands)])
def test_predict(channels, file, tmp_path, capsys):
    model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(16, 16, channels), classes=2)
    model.save(tmp_path / "m.keras")
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    (tmp_path / "a.png").write_bytes(file("china", (60, 50)))
    (tmp_path / "b.jpg").write_bytes(encoded(photo(size=(60, 50))))
    photos = [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    options = ["--json", "--explain", "--plot", str(tmp_path / "p.png")]
    line = [*photos, *options, "--weights", str(tmp_path / "m.keras")]
    assert predict.main(line) == (1 if channels == 4 else 0)
    out, err = capsys.readouterr()
    first = json.loads(out.splitlines()[0])["predictions"]
    seen = keras_smlp.load_image(tmp_path / "a.png", 16, channels=channels)[None]
    expected = model.predict_on_batch(seen)[0]
    np.testing.assert_allclose(
        [x["probability"] for x in sorted(first, key=lambda x: x["class"])], expected, atol=1e-5
    )
    assert ("its pixels are RGB, allowed for 4 channels" in err) == (channels == 4)
    assert (tmp_path / "p.png").stat().st_size
