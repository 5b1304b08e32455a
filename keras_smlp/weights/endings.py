"""The endings of weights files, for those who must know them before Keras is imported."""

OFFICIAL = (".pth", ".safetensors")
KERAS = (".weights.h5", ".keras")
