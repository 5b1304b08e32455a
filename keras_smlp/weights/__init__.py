"""Weights files: the official ones and Keras' own, downloads, resampling.

May import naming, saving and what is below. Packages that Keras does not import itself (filelock,
safetensors) are imported where they are used, so that `import keras_smlp` adds next to nothing.
"""
