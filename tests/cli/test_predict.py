"""From probabilities to names, and `keras-smlp predict` as a user runs it."""

import functools
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_smlp
from keras_smlp.analysis import explain, plots
from keras_smlp_cli import predict

pytestmark = pytest.mark.once

NAMES = ["cat", "dog", "n01440764", "bird"]

# ---- names --------------------------------------------------------------------------------------


def test_the_classes_are_imagenets_in_its_order():
    classes = keras_smlp.imagenet_classes()
    wnids = [wnid for wnid, _ in classes]
    assert len(set(wnids)) == 1000 and wnids == sorted(wnids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdecimal() for wnid in wnids)
    assert {k: classes[k] for k in (0, 2, 134, 517, 999)} == {
        0: ("n01440764", "tench"),
        2: ("n01484850", "great_white_shark"),
        134: ("n02012849", "crane"),
        517: ("n03126707", "crane"),
        999: ("n15075141", "toilet_tissue"),
    }


def test_predictions_are_decoded_the_likeliest_first():
    probabilities = np.zeros((2, 1000), "float32")
    probabilities[0, [5, 207, 3]] = 0.25, 0.5, 0.25
    probabilities[1, 999] = 1
    expected = [
        [("n02099601", "golden_retriever", 0.5), ("n01491361", "tiger_shark", 0.25)],
        [("n15075141", "toilet_tissue", 1.0), ("n01440764", "tench", 0.0)],
    ]
    assert keras_smlp.decode_predictions(probabilities, top=2) == expected
    tensor = keras.ops.convert_to_tensor(probabilities)
    assert keras_smlp.decode_predictions(tensor, top=2) == expected
    assert [len(row) for row in keras_smlp.decode_predictions(probabilities)] == [5, 5]
    assert len(keras_smlp.decode_predictions(probabilities, top=1000)[0]) == 1000
    assert keras_smlp.decode_predictions(probabilities[:0]) == []


def test_what_cannot_be_decoded_is_refused():
    for shape in ((1000,), (1, 999), (1, 1, 1000)):
        with pytest.raises(ValueError, match=r"^`probabilities` must be \(n, 1000\)"):
            keras_smlp.decode_predictions(np.zeros(shape))
    for top in (0, 1001, 2.0, True, None):
        with pytest.raises(ValueError, match="^`top` must be an integer from 1 to 1000"):
            keras_smlp.decode_predictions(np.zeros((1, 1000)), top)


# ---- keras-smlp predict -------------------------------------------------------------------------

PHOTOS = [f"photos/{x}" for x in ("a.png", "b.JPG", "c.bmp", "more/d.png", "more/e.webp")]
# on what is in the folder beside them
NOTE = "keras-smlp predict: not used: 1 .txt (first photos/notes.txt)\n"
BUILD = {"dim": 8, "depths": (1, 1), "input_shape": (32, 32, 3), "classes": 4}


@pytest.fixture
def run(run_command):
    """Calls the tool with a line of arguments; gives the exit status and what was written."""
    return functools.partial(run_command, predict)


@pytest.fixture(scope="module")
def model():
    return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 48, 3), classes=4)


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    """A folder with five photos, a model and its classes, to be in."""
    monkeypatch.chdir(tmp_path)
    model.save("m.keras")
    Path("classes.json").write_text(json.dumps(NAMES))
    Path("photos/more/folder.png").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in PHOTOS:
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), "uint8")).save(file)
    Path("photos/notes.txt").write_text("no photo")
    return tmp_path


def expected(model, file):
    """The probabilities of a photo."""
    return model.predict_on_batch(keras_smlp.load_image(file, (32, 48))[None])[0]


def test_json_has_the_probabilities_of_each_photo(here, run, model):
    # batches of two, the last of one
    status, out, err = run("photos --weights m.keras --json --batch-size 2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, NOTE) and [row["file"] for row in rows] == PHOTOS
    for row in rows:
        probabilities = expected(model, row["file"])
        order = np.argsort(-probabilities)
        assert [x["class"] for x in row["predictions"]] == order.tolist()
        for x in row["predictions"]:
            assert abs(x["probability"] - probabilities[x["class"]]) < 1e-5
            # a class that is named by its wnid is one of ImageNet's
            named = {"name": "tench", "wnid": "n01440764"} if x["class"] == 2 else {}
            assert x == {"name": NAMES[x["class"]], **x, **named} and ("wnid" in x) == bool(named)


def test_a_table_has_rank_probability_and_name(here, run, model):
    names = ["one", "two", "three", "four"]
    Path("other.json").write_text(json.dumps(names))
    status, out, _ = run("photos/a.png --weights m.keras --classes other.json --top 2")
    probabilities = expected(model, "photos/a.png")
    first, second = np.argsort(-probabilities)[:2]
    assert (status, out.splitlines()) == (
        0,
        [
            "photos/a.png",
            f"   1  {probabilities[first]:.4f}  {names[first]}",
            f"   2  {probabilities[second]:.4f}  {names[second]}",
        ],
    )


def test_hidden_files_and_pipes_are_not_photos(here, run):
    Path("photos/.ipynb_checkpoints").mkdir()
    for hidden in (".ipynb_checkpoints/a.png", "._a.png"):
        Path(f"photos/{hidden}").write_bytes(Path("photos/a.png").read_bytes())
    os.mkfifo("photos/pipe.jpg")
    Path("photos/b.heic").touch()
    status, out, err = run("photos --weights m.keras --json")
    assert status == 0 and [json.loads(line)["file"] for line in out.splitlines()] == PHOTOS
    assert err == (
        "keras-smlp predict: not used: 1 .heic (first photos/b.heic), 1 .txt (first "
        "photos/notes.txt), 1 pipe (first photos/pipe.jpg)\n"
    )


def test_photos_of_phones_are_turned_upright_if_asked(here, run, model):
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open("photos/a.png") as picture:
        picture.save("turned.png", exif=exif)
        picture.transpose(Image.Transpose.ROTATE_90).save("upright.png")
    outputs = [
        run(f"{file} --weights m.keras --top 4 {option}")[1].partition("\n")[2]
        for file in ("turned.png", "upright.png", "photos/a.png")
        for option in ("", "--exif-orientation")
    ]
    assert outputs[0] == outputs[4] == outputs[5] != outputs[1] == outputs[2] == outputs[3]


def test_names_of_any_bytes_and_with_dollars(here, run):
    pytest.importorskip("matplotlib", reason="draws the pictures")
    Path("classes.json").write_text(json.dumps(["$", "$\\frac$", "\udcff", "a\nb"]))
    Path("photos/a.png").rename("photos/\udcff$x$.png")
    status, out, err = run("photos/\udcff$x$.png --weights m.keras --plot p.png --explain")
    assert (status, err) == (0, "") and Path("p.png").stat().st_size > 1000
    assert out.splitlines()[0] == "photos/\\udcff$x$.png"
    assert {line[14:] for line in out.splitlines()[1:]} == {*("$", "$\\frac$", "\\udcff", "a\\nb")}


def test_the_size_before_the_crop(here, run, refused, model):
    photo = keras_smlp.load_image("photos/a.png", (32, 48), 60)
    _, out, _ = run("photos/a.png --weights m.keras --json --top 1 --resize-size 60")
    best = model.predict_on_batch(photo[None])[0].max()
    assert abs(json.loads(out)["predictions"][0]["probability"] - best) < 1e-5
    error = refused(predict, "photos/a.png --weights m.keras --resize-size 47")
    assert "--resize-size must be at least 48, the model's side, not 47" in error
    Path("config.yaml").write_text("data: {resize_size: 60}\n")
    assert run("photos/a.png --weights m.keras --json --top 1")[1] == out


def test_patterns_name_photos_once(here, run):
    photos = "'photos/**/*.png' photos/more photos/a.png"
    _, out, _ = run(f"{photos} --weights m.keras --json --top 1")
    files = [json.loads(line)["file"] for line in out.splitlines()]
    assert files == ["photos/a.png", "photos/more/d.png", "photos/more/e.webp"]


def test_imagenets_names_where_there_are_a_thousand_classes(here, run):
    Path("classes.json").unlink()
    network = keras_smlp.SMLPNet(**{**BUILD, "classes": 1000})
    network.get_layer("predictions").bias.assign(np.eye(1000)[207] * 100)
    network.save("m.keras")
    status, out, _ = run("photos/a.png --weights m.keras --top 1")
    assert (status, out) == (0, "photos/a.png\n   1  1.0000  n02099601  golden_retriever\n")


def test_imagenet_goes_through_the_constructor(here, run, monkeypatch):
    def constructor(weights):
        print("Downloading")  # as Keras does
        return keras_smlp.SMLPNet(**{**BUILD, "classes": 1000})

    monkeypatch.setattr(keras_smlp, "SMLPNetBase", constructor)
    status, out, err = run("photos/a.png --variant base --json")
    assert (status, err) == (0, "Downloading\n") and len(json.loads(out)["predictions"]) == 5


def test_weights_alone_say_which_network_they_are_of(here, run):
    keras_smlp.save_official(keras_smlp.SMLPNet(**BUILD), "x.pth")
    line = "photos/a.png --weights x.pth --classes classes.json --json"
    status, out, err = run(line)
    assert (status, err) == (0, "") and len(json.loads(out)["predictions"]) == 4
    status, _, err = run(f"{line} --variant small")
    assert status == 2 and "--variant must be that of the file; x.pth holds no small" in err


def test_damaged_photos_are_named_and_skipped(here, run):
    Path("photos/0.png").write_bytes(Path("photos/a.png").read_bytes()[:500])
    Path("photos/a2.png").write_bytes(b"")
    status, out, err = run("photos --weights m.keras --batch-size 3 --json")
    assert status == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == PHOTOS
    note, first, second = err.splitlines()
    assert note + "\n" == NOTE
    assert first.startswith("keras-smlp predict: skipped photos/0.png: ")
    assert second.startswith("keras-smlp predict: skipped photos/a2.png: ") and "empty" in second
    if importlib.util.find_spec("matplotlib"):
        # nothing is left to draw
        assert run("photos/0.png --weights m.keras --plot out.png")[:2] == (1, "")
        assert not Path("out.png").exists()


def test_pictures(here, run, model, monkeypatch):
    pytest.importorskip("matplotlib", reason="draws the pictures")
    before = {x.name for x in here.iterdir()}
    drawn, plot = [], plots.plot_predictions
    monkeypatch.setattr(plots, "plot_predictions", lambda *x: (drawn.extend(x), plot(*x)))
    pictures = "--plot p.png --explain --kernels k.png"
    status, out, err = run(f"photos --batch-size 2 --weights m.keras {pictures}")
    assert (status, err) == (0, NOTE) and out.count("\n") == 5 * 5
    _, titles, images, found, maps = drawn
    assert titles == tuple(Path(x).name for x in PHOTOS)
    np.testing.assert_array_equal(images, [keras_smlp.load_image(x, (32, 48)) for x in PHOTOS])
    np.testing.assert_allclose(maps, explain.grad_cam(model, images), atol=1e-4)
    names = ["cat", "dog", "tench", "bird"]
    assert [x[0][0] for x in found] == [names[expected(model, x).argmax()] for x in PHOTOS]
    for name, size in {"p.png": (1060, 1300), "k.png": (620, 600)}.items():
        with Image.open(name) as picture:
            assert picture.size == size
    Path("k.png").unlink()
    assert run("--weights m.keras --kernels k.png") == (0, "", "")
    assert {x.name for x in here.iterdir()} == before | {"k.png", "p.png"}


def test_kernels_without_photos_need_no_names_and_no_classifier(here, run):
    pytest.importorskip("matplotlib", reason="draws the picture")
    Path("classes.json").unlink()
    keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), include_top=False).save("f.keras")
    for model in ("m", "f"):
        assert run(f"--weights {model}.keras --kernels {model}.png") == (0, "", "")
        assert Path(f"{model}.png").read_bytes().startswith(b"\x89PNG")
    status, out, err = run("photos --weights m.keras --kernels again.png")
    assert (status, out) == (2, "") and "--classes must name the 4 classes" in err
    assert not Path("again.png").exists()


def test_a_bar_shows_the_batches_on_a_terminal_alone(here, run, monkeypatch):
    tqdm = pytest.importorskip("tqdm", reason="draws the bar")
    shown, line = [], "photos --weights m.keras --json"
    bar = type("Bar", (tqdm.tqdm,), {"close": lambda self: shown.append(self.n)})
    monkeypatch.setattr(tqdm, "tqdm", bar)
    run(f"{line} --batch-size 2")
    assert shown == []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert run(line)[0] == 0 and shown == []  # one batch
    status, out, _ = run(f"{line} --batch-size 2")
    assert status == 0 and set(shown) == {3} and len(out.splitlines()) == 5


def test_wrong_arguments_are_one_line_and_status_2(here, refused):
    Path("empty").mkdir()
    Path("many").mkdir()
    for i in range(65):
        Path(f"many/{i}.png").touch()
    Path("three.json").write_text(json.dumps(NAMES[:3]))
    Path("dict.json").write_text('{"0": "cat"}')
    Path("bad.json").write_text("[")
    Path("bad.keras").write_text("nothing")
    model = "--weights m.keras"
    cases = {
        "": "PHOTO must be given",
        f"photos/x.png {model}": "PHOTO must be a file, a folder with images .* photos/x.png",
        f"empty {model}": "PHOTO .* not empty",
        f"photos/*.tiff {model}": "PHOTO .* not photos/",
        f"photos --explain {model}": "--explain must stand with --plot",
        f"photos --top 0 {model}": "argument --top: must be a positive integer. Received: '0'",
        f"photos --top 5 {model}": "--top must be at most 4",
        f"photos --batch-size x {model}": (
            "argument --batch-size: must be a positive integer. Received: 'x'"
        ),
        f"photos --plot p.jpg {model}": "argument --plot: p.jpg is no .png file",
        f"photos --kernels no/p.png {model}": "argument --kernels: no/p.png is no .png",
        f"photos --variant tiny {model}": "--variant must not stand with a .keras file",
        f"photos --variant huge {model}": "argument --variant: invalid choice",
        f"photos --classes three.json {model}": "--classes must name .* 4 classes, not 3",
        f"photos --classes dict.json {model}": "must be a JSON list of names: dict.json is no ",
        f"photos --classes bad.json {model}": "be a JSON list of names: bad.json is no JSON f",
        f"photos --classes no.json {model}": "no.json",
        "photos --weights no.keras": "--weights names no file",
        "photos --weights bad.keras": "bad.keras",
        "photos --weights x.onnx": "--weights must be",
        "photos --weights x.pth": "--weights names no file",
    }
    if importlib.util.find_spec("matplotlib"):
        cases[f"many --plot p.png {model}"] = "--plot must be for 1 to 64 photos"
    for line, words in cases.items():
        assert re.search(words, refused(predict, line)), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classifier_activation": None}, "answers with logits"),
        ({"include_preprocessing": False}, "include_preprocessing=False"),
        ({"include_top": False}, "must be a classifier of images"),
    ],
)
def test_models_that_answer_with_something_else_are_refused(here, refused, arguments, words):
    keras_smlp.SMLPNet(**BUILD, **arguments).save("m.keras")
    assert words in refused(predict, "photos --weights m.keras")


def test_what_it_is_told_of_a_model_that_does_not_show_it(here, run, refused):
    images = keras.Input((32, 32, 3))
    own = keras_smlp.SMLPNet(**BUILD, include_preprocessing=False)
    wrapped = keras.Model(images, own(keras.layers.Rescaling(1 / 255)(images)))
    wrapped.save("m.keras")
    assert "what it takes is unknown" in refused(predict, "photos --weights m.keras")
    line = "photos/a.png --weights m.keras --json --inputs pixels"
    status, out, _ = run(line)
    seen = keras_smlp.load_image("photos/a.png", (32, 32))[None]
    best = wrapped.predict_on_batch(seen)[0].max()
    assert status == 0
    assert abs(json.loads(out)["predictions"][0]["probability"] - best) < 1e-5
    twice = keras.Model(images, wrapped(images) * 2.0)
    twice.save("m.keras")
    assert "--outputs say so; m.keras: what it answers with is unknown" in refused(predict, line)
    # a network as a layer shows all of it
    around = keras.Model(images, keras_smlp.SMLPNet(**BUILD)(keras.layers.RandomFlip()(images)))
    around.save("m.keras")
    assert run("photos/a.png --weights m.keras")[0] == 0


def test_a_model_without_names_is_refused(here, refused):
    Path("classes.json").unlink()
    error = refused(predict, "photos --weights m.keras")
    assert "--classes must name the 4 classes" in error


def test_a_missing_package_is_named_with_its_extra(here, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused(predict, "photos --weights m.keras --plot p.png") == (
        "keras-smlp predict: error: matplotlib is not installed: "
        'pip install "keras-smlp[predict]"\n'
    )
