"""The command `keras-smlp`; train.py and tools/ call the same functions.

A package beside `keras_smlp`, not in it: `keras_smlp` imports Keras at once, and `--help`, a wrong
argument or a backend that is not installed should be answered before that.
"""
