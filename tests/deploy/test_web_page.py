"""The exported page in a headless Chromium, with a network that is trained here, against Keras."""

import base64
import contextlib
import io
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest
from helpers import browser, photos
from helpers.processes import python

import keras_smlp
from keras_smlp.deploy.export import api, writing
from keras_smlp.deploy.export.meaning import meaning
from keras_smlp.deploy.export.web import runtime, site

pytestmark = [pytest.mark.once, pytest.mark.deep]

SIZE = 32
NAMES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "<img src=x onerror=alert(1)>",
]
COUNT = 200
# gives the page a file as a person does, and waits for the answer
ASK = """async ({ content, type }) => {
  const bytes = Uint8Array.from(atob(content), (x) => x.charCodeAt(0));
  const chosen = new DataTransfer();
  chosen.items.add(new File([bytes], "photo", { type }));
  const input = document.getElementById("file");
  const answer = new Promise((resolve, reject) => {
    document.addEventListener("answer", (event) => resolve(event.detail), { once: true });
    const error = document.getElementById("error");
    new MutationObserver(() => error.hidden || reject(Error(error.textContent))).observe(error, {
      attributes: true,
    });
  });
  input.files = chosen.files;
  input.dispatchEvent(new Event("change"));
  const found = await answer;
  return Object.fromEntries(Object.entries(found).map(([name, x]) => [name, [...x]]));
}"""


# ---- what is looked at --------------------------------------------------------------------------
def digits():
    """Scikit-learn's digits as RGB images, uint8 (n, 32, 32, 3), and their labels."""
    data = photos.datasets.load_digits()
    large = [
        np.asarray(photos.Image.fromarray((x * 15.9).astype("uint8")).resize((SIZE, SIZE)))
        for x in data.images
    ]
    return np.repeat(np.stack(large)[..., None], 3, axis=-1), data.target


@pytest.fixture(scope="module")
def trained():
    """A network that has learned the digits, and the validation images as PNG files."""
    images, labels = digits()
    model = keras_smlp.SMLPNet(16, (1, 1), input_shape=(SIZE, SIZE, 3), classes=10)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(images[COUNT:], labels[COUNT:], batch_size=64, epochs=10, verbose=0)
    files = [photos.encoded(photos.Image.fromarray(x), "PNG") for x in images[:COUNT]]
    seen = np.stack([keras_smlp.load_image(file, SIZE) for file in files])
    answers = model.predict(seen, verbose=0)
    assert (answers.argmax(-1) == labels[:COUNT]).mean() > 0.8
    return model, files, answers


@pytest.fixture(scope="module")
def sites(trained, tmp_path_factory):
    """A function from a precision to the exported page with its runtime, made once."""
    made = {}

    def path_of(precision="float32"):
        if precision not in made:
            path = tmp_path_factory.mktemp("web") / "site"
            arguments = {"precision": precision, "class_names": NAMES, "runtime": browser.runtime()}
            made[precision] = keras_smlp.export(trained[0], path, "web", **arguments)
        return made[precision]

    return path_of


@pytest.fixture(scope="module")
def without_runtime(trained, sites, tmp_path_factory):
    """The page of the same model that loads the runtime from the public server."""
    model, path = trained[0], tmp_path_factory.mktemp("web")
    shutil.copy(sites() / site.MODEL, path)
    means = meaning(model)
    served = writing.endpoint(model, means, False)
    site.write(path, model, served, means, api.describe(model, means, NAMES, None, None), None)
    return path


@pytest.fixture(scope="module")
def chrome():
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browser.browser(*camera, *browser.WEBGPU) as opened:
        yield opened


class Opened:
    """A page that is open.

    Attributes:
        page: Playwright's.
        server: That of the folder.
        log: What its console said; the messages of errors begin with "error".
    """

    def __init__(self, page, server):
        self.page, self.server, self.log = page, server, []
        page.on("console", lambda message: self.log.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.log.append(f"error: {error}"))

    def ask(self, file, type="image/png"):
        content = {"content": base64.b64encode(file).decode(), "type": type}
        found = self.page.evaluate(ASK, content)
        return {name: np.array(x, "float32") for name, x in found.items()}

    def errors(self):
        return [line for line in self.log if line.startswith("error")]

    def wait(self, words):
        self.page.get_by_text(words).first.wait_for()


@pytest.fixture
def opened(chrome):
    """A context manager that opens a folder in a new window."""

    @contextlib.contextmanager
    def open(folder, prepare=lambda context: None, query="", **options):
        with browser.serving(folder) as server:
            context = chrome.new_context(**options)
            prepare(context)
            made = Opened(context.new_page(), server)
            made.page.goto(server.address + query)
            yield made
            context.close()

    return open


# ---- answers ------------------------------------------------------------------------------------
def test_it_answers_as_keras_and_asks_no_other_server(trained, sites, opened):
    model, files, expected = trained
    china = photos.photo("china")
    exif = photos.Image.Exif()
    exif[0x0112] = 6  # lies on its side
    more = [
        (photos.encoded(china, "PNG"), "image/png"),
        (photos.encoded(china.convert("L"), "PNG"), "image/png"),
        (photos.encoded(china.resize((97, 190)), "PNG"), "image/png"),
        (photos.encoded(china.resize((4001, 3001)), quality=95), "image/jpeg"),
        (photos.encoded(photos.photo("flower"), quality=95, exif=exif), "image/jpeg"),
        (photos.encoded(photos.photo("flower"), "WEBP", lossless=True), "image/webp"),
    ]
    with opened(sites()) as tab:
        found = np.stack([tab.ask(file)["probabilities"] for file in files[:20]])
        assert np.abs(found - expected[:20]).max() <= 1e-3
        for file, type in more:
            image = keras_smlp.load_image(file, SIZE, exif_orientation=True)[None]
            answer = tab.ask(file, type)
            wanted = model.predict(image, verbose=0)[0]
            assert np.abs(answer["probabilities"] - wanted).max() <= 1e-3
            maps = answer["maps"].reshape(4, 4, 10)[..., wanted.argmax()]
            seen = keras_smlp.explain.enlarged(np.maximum(maps, 0), (SIZE, SIZE))
            seen = seen / seen.max()
            assert np.abs(seen - keras_smlp.explain.grad_cam(model, image)[0]).max() <= 0.02
        assert not tab.errors()
        assert {status for _, _, status in tab.server.asked} == {200}
        assert {method for method, _, _ in tab.server.asked} == {"GET"}
        shown = tab.page.evaluate("performance.getEntriesByType('resource').map((x) => x.name)")
        here = (tab.server.address, "blob:")
        assert shown and all(name.startswith(here) for name in shown)


# float16 and int8 round the weights
@pytest.mark.parametrize(
    ("precision", "largest"), [("float32", 1e-3), ("float16", 5e-3), ("int8", 0.2)]
)
def test_all_of_it_runs_on_webgpu(trained, sites, opened, precision, largest):
    _, files, expected = trained
    with opened(sites(precision), query="?device=webgpu") as tab:
        found = np.stack([tab.ask(file)["probabilities"] for file in files[:20]])
        assert "in the network, on WebGPU." in tab.page.locator("#time").text_content()
        assert not tab.errors()
    assert np.abs(found - expected[:20]).max() <= largest


# the browser then says that its simulated graphics processor is a real one
REAL = "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { value: false });"
DEVICE = """{
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...x) {
    return (self.device = await requestDevice.apply(this, x));
  };
}"""


def device_of(tab):
    return tab.page.locator("#time").text_content().partition("in the network, on ")[2]


def test_a_graphics_processor_is_used_where_there_is_one(trained, sites, opened):
    _, files, expected = trained
    prepare = lambda context: context.add_init_script(REAL + DEVICE)  # noqa: E731
    with opened(sites(), prepare) as tab:
        found = tab.ask(files[0])["probabilities"]
        assert np.abs(found - expected[0]).max() <= 1e-3 and device_of(tab) == "WebGPU."
        # one that is lost is left for WebAssembly
        tab.page.evaluate("device.destroy()")
        for file, wanted in zip(files[1:3], expected[1:3], strict=True):
            found = tab.ask(file)["probabilities"]
            assert np.abs(found - wanted).max() <= 1e-3
            assert device_of(tab) == "WebAssembly, because WebGPU failed."
    with opened(sites(), prepare, query="?device=wasm") as tab:
        tab.ask(files[0])
        assert device_of(tab) == "WebAssembly."
    with opened(sites(), query="?device=gpu") as tab:
        tab.wait("The address may ask for device=webgpu or device=wasm alone.")


def test_a_graphics_processor_that_answers_wrongly_is_not_used(trained, sites, opened, tmp_path):
    _, files, expected = trained
    path = shutil.copytree(sites(), tmp_path / "copy")
    about = json.loads((path / "about.json").read_text())
    about["sample"] = about["sample"][1:] + about["sample"][:1]
    (path / "about.json").write_text(json.dumps(about))
    with opened(path, query="?device=webgpu") as tab:
        found = tab.ask(files[0])["probabilities"]
        assert np.abs(found - expected[0]).max() <= 1e-3
        assert device_of(tab) == "WebAssembly, because WebGPU answers wrongly."


def test_the_benchmark_reads_what_the_page_says(sites, tmp_path):
    (tmp_path / "photo.png").write_bytes(photos.encoded(photos.photo("china"), "PNG"))
    options = ["--photo", tmp_path / "photo.png", "--browsers", "1", "--later", "1"]
    path = sites()
    done = python("-m", "benchmarks.page", path, *options)
    size = f"{(path / site.MODEL).stat().st_size / 1e6:.1f}"
    row = rf"\| {path.name} \| {size} \| WebAssembly( \| [\d.]+, [\d.]+){{3}} \|"
    assert re.fullmatch(row, done.stdout.splitlines()[-1])


def test_8_bits_name_the_same(trained, sites, opened):
    _, files, expected = trained
    with opened(sites("int8")) as tab:
        found = np.stack([tab.ask(file)["probabilities"] for file in files])
    assert 1e-6 < np.abs(found - expected).max() < 0.2
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.99


def test_what_is_seen_and_heard(trained, sites, opened):
    _, files, expected = trained
    nines = [i for i in range(COUNT) if expected[i].argmax() == 9]
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    with opened(sites(), **phone) as tab:
        page = tab.page
        tab.wait("The network is ready.")
        chosen = {"name": "nine.png", "mimeType": "image/png", "buffer": files[nines[0]]}
        page.set_input_files("#file", chosen)
        first = page.locator("#names button").first
        first.wait_for()
        # a name that looks like HTML is text
        assert first.locator(".name").text_content() == NAMES[9]
        assert not page.locator("#names img").count() and not page.locator("dialog[open]").count()
        heard = page.locator("#status").text_content()
        assert heard.startswith(f"{NAMES[9]}, ") and "%;" in heard
        assert "in the network, on WebAssembly." in page.locator("#time").text_content()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # by keyboard: another name, whose map is another picture
        picture = "document.getElementById('heat').toDataURL()"
        before = page.evaluate(picture)
        assert first.get_attribute("aria-pressed") == "true"
        first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        second = page.locator("#names button").nth(1)
        assert second.get_attribute("aria-pressed") == "true"
        assert first.get_attribute("aria-pressed") == "false"
        assert page.evaluate(picture) != before
        page.get_by_label("Color what speaks").uncheck()
        assert page.locator("#heat").is_hidden()
        # everything to press has a name, and is large enough for a finger
        for button in page.locator("button:visible, label.button").all():
            assert button.text_content().strip() and button.bounding_box()["height"] >= 44
        assert not tab.errors()


def test_a_photo_is_dropped_or_taken(trained, sites, opened):
    _, files, expected = trained
    with opened(sites()) as tab:
        page = tab.page
        content = base64.b64encode(files[0]).decode()
        drop = """(content) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (x) => x.charCodeAt(0));
          data.items.add(new File([bytes], "x.png", { type: "image/png" }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
        page.evaluate(drop, content)  # before the network is there
        page.locator("#names li").first.wait_for()
        name = page.locator("#names .name").first.text_content()
        assert name == NAMES[expected[0].argmax()]
        page.get_by_role("button", name="Take a photo").click()
        page.evaluate("next = new Promise((r) => document.addEventListener('answer', r)), 0")
        page.get_by_role("button", name="Take the photo").click()
        page.evaluate("next.then(() => 0)")
        assert page.locator("#names li").count() == 5 and not page.locator("dialog[open]").count()
        assert not tab.errors()


# keeps what the page has from the camera; the first answer to it comes when a test calls `allow`
CAMERA = """{
  const { mediaDevices } = navigator;
  const ask = mediaDevices.getUserMedia.bind(mediaDevices);
  const permission = new Promise((resolve) => (self.allow = resolve));
  self.asked = 0;
  self.tracks = [];
  mediaDevices.getUserMedia = async (wanted) => {
    self.asked += 1;
    await permission;
    const stream = await ask(wanted);
    self.tracks.push(...stream.getTracks());
    return stream;
  };
}"""
ENDED = "tracks.length > 0 && tracks.every((track) => track.readyState === 'ended')"


def test_the_camera_is_opened_once_and_switched_off(sites, opened):
    with opened(sites(), prepare=lambda x: x.add_init_script(CAMERA)) as tab:
        page = tab.page
        take = page.get_by_role("button", name="Take a photo")
        take.focus()
        page.evaluate("[1, 2].forEach(() => document.getElementById('take').click())")
        assert take.is_disabled() and page.evaluate("asked") == 1
        page.evaluate("allow()")
        page.locator("#shoot:enabled").wait_for()
        assert not page.evaluate(ENDED)
        page.keyboard.press("Escape")
        page.wait_for_function(ENDED)
        assert take.is_enabled() and take.evaluate("(x) => x === document.activeElement")
        assert not tab.errors()


def test_a_camera_without_a_picture_is_closed_or_said(sites, opened):
    with opened(sites(), prepare=lambda x: x.add_init_script(CAMERA)) as tab:
        page = tab.page
        tab.wait("The network is ready.")
        page.evaluate("""{
          allow();
          const dialog = document.getElementById("camera");
          const close = () => dialog.open && (seen.disconnect(), dialog.close());
          const seen = new MutationObserver(close);
          seen.observe(dialog, { attributes: true });
        }""")
        page.locator("#take").click()
        page.wait_for_function(ENDED)
        page.locator("#take:enabled").wait_for()
        assert page.locator("#error").is_hidden() and not tab.errors()
        page.evaluate("""HTMLMediaElement.prototype.play = () =>
          Promise.reject(new DOMException("no picture", "NotSupportedError")), 0""")
        page.locator("#take").click()
        tab.wait("The camera cannot be used: no picture")
        page.wait_for_function(ENDED)
        assert not page.locator("dialog[open]").count()


OLDER_BROWSER = """{
  const { instantiate } = WebAssembly;
  WebAssembly.instantiate = (code, ...rest) =>
    code.byteLength < 1000 ? Promise.reject(Error("unknown")) : instantiate(code, ...rest);
}"""


def test_browsers_without_relaxed_simd_have_a_runtime_of_their_own(trained, sites, opened):
    _, files, expected = trained
    folder = sites()
    with opened(folder, prepare=lambda x: x.add_init_script(OLDER_BROWSER)) as tab:
        found = tab.ask(files[0])["probabilities"]
        assert np.abs(found - expected[0]).max() <= 1e-3
        asked = {path.rpartition("/")[2] for _, path, _ in tab.server.asked}
    assert "litert_wasm_compat_internal.wasm" in asked and "litert_wasm_internal.wasm" not in asked


# ---- the runtime on another server --------------------------------------------------------------
def elsewhere(context, change=lambda name, data: data):
    """Serves LiteRT.js' files in the place of the public server."""
    folder = browser.runtime()

    def serve(route):
        path = route.request.url.removeprefix(f"{runtime.CDN}/").replace(f"@{runtime.VERSION}", "")
        data = change(path, (folder / path).read_bytes())
        kind = "application/wasm" if path.endswith(".wasm") else "text/javascript"
        headers = {"access-control-allow-origin": "*"}
        route.fulfill(body=data, content_type=kind, headers=headers)

    context.route(f"{runtime.CDN}/**", serve)


def test_the_runtime_comes_from_the_public_server(trained, without_runtime, opened):
    _, files, expected = trained
    with opened(without_runtime, prepare=elsewhere) as tab:
        found = tab.ask(files[0])["probabilities"]
        assert np.abs(found - expected[0]).max() <= 1e-3
        assert not tab.errors()


@pytest.mark.parametrize("name", ["core/dist/index.js", "litert_wasm_internal.js", "internal.wasm"])
def test_another_file_than_the_pinned_one_is_not_run(without_runtime, opened, name):
    def change(path, data):
        return data + b"\n" if path.endswith(name) else data

    with opened(without_runtime, prepare=lambda context: elsewhere(context, change)) as tab:
        tab.wait("The runtime of the network cannot be loaded")
        assert tab.page.evaluate("typeof self.ModuleFactory") == "undefined"


def test_another_import_than_the_expected_one_is_said(without_runtime, opened, tmp_path):
    path = shutil.copytree(without_runtime, tmp_path / "copy")
    text = (path / "about.json").read_text()
    assert text.count(runtime.UTILITIES + '\\"') == 1
    (path / "about.json").write_text(text.replace(runtime.UTILITIES + '\\"', 'other\\"'))
    with opened(path, prepare=elsewhere) as tab:
        tab.wait('The runtime of the network does not import "other".')


# ---- what goes wrong, in words ------------------------------------------------------------------
@pytest.fixture
def damaged(sites, tmp_path):
    """A function from a file's name to a copy of the page without it, or with other content."""

    def copy(name, content=None):
        path = shutil.copytree(sites(), tmp_path / "copy")
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)
        return path

    return copy


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (site.MODEL, None, "The network cannot be loaded. (model.tflite: status 404)"),
        (site.MODEL, b"another", "The network is not whole. (model.tflite: 7 of "),
        ("about.json", None, "The description of the network cannot be loaded."),
        ("runtime/core.js", None, "The runtime of the network cannot be started"),
        ("runtime/litert_wasm_internal.wasm", None, "The runtime of the network cannot be loaded."),
    ],
)
def test_a_site_that_is_not_whole_says_what_is_missing(damaged, opened, name, content, words):
    with opened(damaged(name, content)) as tab:
        tab.wait(words)
        assert tab.page.locator("[role=alert]").is_visible()
        assert tab.page.locator("#loading").is_hidden()


def test_another_model_of_the_same_size_is_not_run(damaged, sites, opened):
    content = bytearray((sites() / site.MODEL).read_bytes())
    content[-1] ^= 1
    with opened(damaged(site.MODEL, content)) as tab:
        tab.wait("The network is not the file that belongs here. (model.tflite)")
        assert tab.page.locator("#loading").is_hidden()


def test_a_page_that_was_exported_anew_is_not_mixed_with_what_the_browser_keeps(
    sites, opened, tmp_path
):
    path = shutil.copytree(sites(), tmp_path / "copy")
    both = ("about.json", site.MODEL)
    for name in both:
        os.utime(path / name, (0, 0))  # browsers take so old a file for one that does not change
    with opened(path) as tab:
        tab.wait("The network is ready.")
        for name in both:
            shutil.copy(sites("int8") / name, path)
        tab.page.goto(tab.server.address)
        tab.wait("The network is ready.")
        shown = tab.page.locator("#about").text_content()
        assert f"{(path / site.MODEL).stat().st_size / 1e6:.1f} MB" in shown
        asked = [x for x in tab.server.asked if x[1].endswith(both)]
        assert [status for *_, status in asked] == [200] * 4


def test_what_is_no_photo_and_too_little_memory_are_said(trained, sites, opened):
    _, files, _ = trained
    big = io.BytesIO()
    photos.Image.new("1", (20000, 20000)).save(big, "PNG")
    with opened(sites()) as tab:
        page = tab.page
        for content, words in {
            b"no photo": "This is no photo that the browser can read",
            files[0][:60]: "This is no photo that the browser can read",
            big.getvalue(): "This photo has 400 megapixels; at most 200 can be read.",
        }.items():
            chosen = {"name": "x.png", "mimeType": "image/png", "buffer": content}
            page.set_input_files("#file", chosen)
            tab.wait(words)
        # a good one then is answered
        tab.ask(files[0])
        assert page.locator("#error").is_hidden()
    little = """WebAssembly.instantiate = () => Promise.reject(
      RangeError("WebAssembly.instantiate(): Out of memory: Cannot allocate Wasm memory")
    );"""
    prepare = lambda context: context.add_init_script(little)  # noqa: E731
    with opened(sites(), prepare=prepare) as tab:
        tab.wait("There is not enough memory for this network.")
