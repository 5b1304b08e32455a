"""Files of each format, damaged at random: they load or are refused in one sentence, in bounds.

KERAS_SMLP_FUZZ sets how many files of each format are damaged, KERAS_SMLP_FUZZ_SEED the first;
`-s` shows the figures that docs/testing.md has.
"""

import io
import os
import random
import resource
import time
import zipfile

import pytest
from helpers import memory
from helpers.damage import mutate
from helpers.nets import FORMATS, saved_in_each_format
from helpers.publisher import weights_digest
from helpers.refusals import tiny

import keras_smlp
from keras_smlp.training import parsing
from keras_smlp.weights import loading

pytestmark = pytest.mark.once

COUNT = int(os.environ.get("KERAS_SMLP_FUZZ", 50))
FIRST = int(os.environ.get("KERAS_SMLP_FUZZ_SEED", 0))
SECONDS = 10  # for one file, on a machine that has other work
# for one file, of 120 kB at most; that Keras builds it included. The HDF5 library believes the
# length of a text, 32 bits in the file, and takes so much memory before it looks for the text
MEGABYTES = {"YAML": 64, ".pth": 64, ".safetensors": 64, ".weights.h5": 4096, ".keras": 4096}
ADDRESSES = 2 << 30  # bytes that the process may have more than at the start

NUMBERS = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff" * 8,
    b"\0\0\0\x80",
    b"\xff\xff\xff\x7f",
    b"\1" + b"\0" * 7,
]
TOKENS = {
    ".pth": [*NUMBERS, b"PK\x01\x02", b"PK\x05\x06", b"cos\nsystem\n", b"R", b"t", b"(", b"h\0"],
    ".safetensors": [
        *NUMBERS,
        b'"F32"',
        b'"BF16"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"99999999",
        b"-1",
    ],
    ".weights.h5": [*NUMBERS, b"TREE", b"SNOD", b"HEAP", b"OHDR", b"GCOL", b"\x89HDF\r\n\x1a\n"],
    ".keras": [*NUMBERS, b"PK\x01\x02", b"PK\x05\x06", b"null", b"[", b"}", b'"', b"9999", b"-1"],
    "YAML": [b"&a ", b"*a", b"<<: ", b"[", b"{", b"- ", b": ", b"\n", b"? ", b"!!int ", b"9" * 400],
}
YAML = b"""output_dir: &a runs/x
data: {name: digits, crop_scale: [0.3, 1.0]}
model:
  dim: 8
  depths: [1, 1]
  input_size: 32
optimizer: {base_lr: 1.0e-4, ema_decay: 0.99}
train: {epochs: 20, batch_size: 0x80}
"""


@pytest.fixture
def limited():
    """No file may make the process grow without end: a larger allocation fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (memory.kilobytes("VmSize") * 1024 + ADDRESSES, before[1])
    )
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(rng, data, tokens):
    """A damaged file: its bytes, or those of an entry of the archive, with a right checksum."""
    if data[:2] != b"PK" or rng.random() < 0.4:
        return mutate(rng, data, tokens)
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(output, "w") as new:
        chosen = rng.choice(archive.namelist())
        for info in archive.infolist():
            content = archive.read(info)
            changed = mutate(rng, content, tokens) if info.filename == chosen else content
            new.writestr(zipfile.ZipInfo(info.filename), changed)
    return output.getvalue()


@pytest.mark.skipif(not memory.IS_KNOWN, reason="only Linux says how much memory was used")
@pytest.mark.filterwarnings("ignore")  # a damaged file may make the libraries warn
@pytest.mark.parametrize("form", [*FORMATS, "YAML"])
def test_damaged_at_random(form, limited, tmp_path):
    model = tiny()
    before = weights_digest(model)
    files = saved_in_each_format(model, tmp_path)
    path = files.get(form, tmp_path / "m.yaml")
    data = YAML if form == "YAML" else path.read_bytes()

    def read():
        if form == "YAML":
            parsing.parse(["--config", str(path)])
        elif form == ".keras":
            keras_smlp.load_model(path, compile=False)
        else:
            loading.load(model, path)

    path.write_bytes(data)
    read()  # what is imported and compiled at first is not the files'
    loaded = slowest = most = 0
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        path.write_bytes(damaged(rng, data, TOKENS[form]))
        resident, start = memory.forget_peak(), time.perf_counter()
        try:
            read()
        except ValueError as error:
            message = str(error)
            assert message.isprintable() and len(message) < 4000, f"seed {seed}: {message}"
            assert form == "YAML" or str(path) in message, f"seed {seed}: {message}"
            assert weights_digest(model) == before, f"seed {seed}: not all or nothing"
        except BaseException as error:
            pytest.fail(f"seed {seed}: {error!r}")
        else:
            loaded, before = loaded + 1, weights_digest(model)
        seconds, grown = time.perf_counter() - start, memory.megabytes_since(resident)
        assert seconds < SECONDS, f"seed {seed}: {seconds:.1f} s"
        assert grown < MEGABYTES[form], f"seed {seed}: {grown:.0f} MB"
        slowest, most = max(slowest, seconds), max(most, grown)
    print(f"\n| {form} | {COUNT} | {COUNT - loaded} | {loaded} | {slowest:.2f} s | {most:.0f} MB |")
