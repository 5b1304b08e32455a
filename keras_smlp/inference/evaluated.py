"""How a model was evaluated, as the configuration of its run says: what photos are resized to."""

from pathlib import Path

from keras_smlp.checks import is_positive_integer, read_text, received, shown

CONFIG = "config.yaml"  # which a run writes beside its models
MOST = 4 << 20  # bytes of such a file


def beside(weights):
    """The path of the `config.yaml` beside a `.keras` file, `None` where there is none."""
    path = Path(weights).with_name(CONFIG)
    return path if str(weights).endswith(".keras") and path.is_file() else None


def read(path):
    """How the run of a configuration prepares photos for its evaluation.

    Args:
        path: Path of the `config.yaml`.

    Returns:
        A dict with the arguments `resize_size` (a positive integer or `None`) and
        `exif_orientation` (a boolean) of `keras_smlp.load_image`. They are its defaults where the
        file does not say them.

    Raises:
        ValueError: If it is no YAML file, or one of the two is something else; the message begins
            with the path.
        OSError: If it cannot be read.
        ModuleNotFoundError: If PyYAML is not installed.
    """
    import yaml

    try:
        config = yaml.safe_load(read_text(path, MOST))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{shown(path)} is no YAML file ({shown(why)})") from error
    return of(config, path)


def of(config, path):
    """The same of a configuration that has been read; the path is for messages."""
    data = config.get("data") if isinstance(config, dict) else None
    data = data if isinstance(data, dict) else {}  # another program's file
    resize_size = data.get("resize_size")
    if resize_size is not None and not is_positive_integer(resize_size):
        raise ValueError(
            f"{shown(path)}: data.resize_size must be a positive integer. "
            f"Received: {received('resize_size', resize_size)}"
        )
    turned = data.get("exif_orientation", False)
    if not isinstance(turned, bool):
        raise ValueError(
            f"{shown(path)}: data.exif_orientation must be true or false. "
            f"Received: {received('exif_orientation', turned)}"
        )
    return {"resize_size": resize_size, "exif_orientation": turned}
