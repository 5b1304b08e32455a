"""KerasHub, or one sentence that says how to install it."""

INSTALL = 'pip install "keras-smlp[keras-hub]" && pip install --no-deps keras-hub'

try:
    import keras_hub as keras_hub
except ImportError as error:
    raise ImportError(
        f"keras_smlp.hubs.keras_hub needs KerasHub, which could not be imported ({error}). "
        f"To install it: {INSTALL}"
    ) from error
