"""Stand-ins for official checkpoints: their keys and shapes, with reproducible random weights.

Every tensor is drawn from a generator seeded by (seed, key). `golden/*.npz` holds what the official
PyTorch code answered with these weights, in float64.
"""

import hashlib
from pathlib import Path

import numpy as np

# name -> dim, depths, image side, classes; micro was never published, it is for quick tests
VARIANTS = {
    "micro": (16, (1, 2, 3, 1), 64, 10),
    "tiny": (80, (2, 8, 14, 2), 224, 1000),
    "small": (96, (2, 10, 24, 2), 224, 1000),
    "base": (112, (2, 10, 24, 2), 224, 1000),
}
GOLDEN = Path(__file__).with_name("golden")


def shapes(variant):
    """Every official key with its shape."""
    dim, depths, side, classes = VARIANTS[variant]
    found, k = {}, 0

    def norm(prefix, channels):
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{prefix}.{name}"] = (channels,)
        found[f"{prefix}.num_batches_tracked"] = ()

    def layer(prefix, weight, bias=True):
        found[f"{prefix}.weight"] = weight
        if bias:
            found[f"{prefix}.bias"] = (weight[0],)

    for stage, depth in enumerate(depths):
        c, s = dim * 2**stage, side // 4 // 2**stage
        patch = (c, c // 2, 2, 2) if stage else (c, 3, 4, 4)
        layer(f"to_patch_embedding.{stage}.0", patch, bias=False)
        for _ in range(depth):
            norm(f"token_mix.{k}.0.conv_merge.BN", c)
            layer(f"token_mix.{k}.0.conv_merge.Conv", (c, 1, 3, 3), bias=False)
            norm(f"token_mix.{k}.1.BN", c)
            layer(f"token_mix.{k}.1.proj_h", (s, s, 1, 1))
            layer(f"token_mix.{k}.1.proh_w", (s, s, 1, 1))
            layer(f"token_mix.{k}.1.fuse", (c, 3 * c, 1, 1), bias=False)
            layer(f"channel_mix.{k}.1", (c,))
            layer(f"channel_mix.{k}.2.net.0", (3 * c, c))
            layer(f"channel_mix.{k}.2.net.3", (c, 3 * c))
            k += 1
    norm("batch_norm", c)
    layer("mlp_head.0", (classes, c))
    return found


def tensor(key, shape, seed=0):
    """The values of one key; normalizations are random too, or two could be swapped unnoticed."""
    if key.endswith("num_batches_tracked"):
        return np.array(1000, np.int64)
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        x = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        x = rng.normal(0.0, 0.2, shape)
    else:
        x = rng.normal(0.0, 0.5, shape) / np.sqrt(np.prod(shape[1:]))
    return x.astype(np.float32)


def state_dict(variant, seed=0):
    """The stand-in checkpoint of a variant: a dict of arrays by official key."""
    return {key: tensor(key, shape, seed) for key, shape in shapes(variant).items()}


def images(variant, batch=2):
    """Normalized images `(batch, side, side, 3)`."""
    side = VARIANTS[variant][2]
    rng = np.random.Generator(np.random.Philox(10_000))
    return rng.normal(0.0, 1.0, (batch, side, side, 3)).astype(np.float32)


def train_batch(variant, step, batch=16):
    """Images and soft targets of one step of the golden training."""
    _, _, side, classes = VARIANTS[variant]
    rng = np.random.Generator(np.random.Philox(key=20_000, counter=step))
    pixels = rng.normal(0.0, 1.0, (batch, side, side, 3)).astype(np.float32)
    return pixels, rng.dirichlet(np.full(classes, 0.1), batch).astype(np.float32)


def golden(name):
    """One golden file, as a dict of arrays."""
    with np.load(GOLDEN / f"{name}_seed0.npz") as file:
        return dict(file)


def relative(found, expected):
    """Norm of the difference over the norm of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
