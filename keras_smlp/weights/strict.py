"""All or nothing: every tensor of a file used, every variable filled, every shape equal."""

import keras
import numpy as np

from keras_smlp.checks import shown

SHOWN = 8  # names of tensors in a message, of each difference


def assign(expected, tensors, source, head):
    """Fills variables from a file's tensors if each has its counterpart; else changes nothing.

    Nothing is read before all shapes are equal, nothing assigned before all is read and finite.

    Args:
        expected: Dict from a tensor's name in the file to `(variable, axes)`; `axes` is the
            permutation from the file's layout to the variable's, `None` for none.
        tensors: Dict of `stored.Stored` by name.
        source: What the tensors come from, for the message.
        head: How the names of the classifier's tensors begin. A model without a classifier leaves
            the file's out.

    Raises:
        ValueError: One for all differences: missing, unexpected, of another shape or not floating
            point; if a value is not finite; or if the model holds something else than
            floating-point variables.
    """
    if not any(name.startswith(head) for name in expected):
        tensors = {name: x for name, x in tensors.items() if not name.startswith(head)}
    for name, (variable, _) in expected.items():
        if not isinstance(variable, keras.Variable) or "float" not in variable.dtype:
            raise ValueError(
                "`model` must have floating-point variables to load into, not quantized ones or "
                f"LoRA products. Received: {name} as {variable.dtype}"
            )
    shapes = {name: file_shape(*target) for name, target in expected.items()}
    both = [name for name in expected if name in tensors]
    differences = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [shown(name) for name in tensors if name not in expected],
        "of another shape": [
            f"{name} {shown(tensors[name].shape)} instead of {shapes[name]}"
            for name in both
            if tensors[name].shape != shapes[name]
        ],
        "not floating point": [
            f"{name} {shown(tensors[name].dtype)}"
            for name in both
            if tensors[name].dtype.kind != "f"
        ],
    }
    if any(differences.values()):
        found = "; ".join(f"{what}: {shorten(x)}" for what, x in differences.items() if x)
        raise ValueError(
            f"`weights` do not fit the model: {shown(source)} has {found}.{hint(differences, head)}"
        )
    values = {
        name: finite(name, tensors[name], target, source) for name, target in expected.items()
    }
    for name, (variable, _) in expected.items():
        variable.assign(values[name])


def finite(name, tensor, target, source):
    """The values of a tensor as its variable is to hold them; refuses those that are not finite."""
    (variable, axes), values = target, tensor.read()
    if axes is not None:
        values = values.transpose(axes)
    # NumPy has no bfloat16; the backend rounds to it
    dtype = "float32" if variable.dtype == "bfloat16" else variable.dtype
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        values = np.ascontiguousarray(values, dtype).reshape(variable.shape)
    check_finite(name, values, source)
    return values


def check_finite(name, values, source):
    """Refuses values among which there is NaN or infinity."""
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        raise ValueError(
            f"The weights in {shown(source)} must be finite numbers. "
            f"Received: {shown(name)} with {wrong} of {values.size} that are not"
        )


def file_shape(variable, axes):
    """The shape that a variable has in the file: its own with the permutation undone."""
    shape = tuple(variable.shape)
    if axes is None:
        return shape
    shape = (1,) * (len(axes) - len(shape)) + shape
    return tuple(shape[i] for i in np.argsort(axes))


def shorten(names):
    """A list of names for a message: the first ones, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def hint(differences, head):
    """What the user can do, if shapes are all that differs, or how the names begin."""
    ends = tuple(f"/{name}" for name in differences["missing"])
    if ends and any(name.endswith(ends) for name in differences["unexpected"]):
        return (
            " The file has the network as a layer of another model: load it with "
            "keras.saving.load_model, and take that layer."
        )
    if differences["missing"] or differences["unexpected"]:
        return ""
    others = [text.split(" ", 1)[0] for text in differences["of another shape"]]
    if others and all(name.startswith(head) for name in others):
        return " For another number of classes, build with `include_top=False` and add a head."
    if others and all(name in ("to_patch_embedding.0.0.weight", "stem/0") for name in others):
        return (
            " The stem belongs to one number of channels: given as `weights`, only a file of RGB "
            "fits others."
        )
    axial = ("proj_h", "proh_w", "/width/", "/height/")
    if others and all(any(part in name for part in axial) for name in others):
        return (
            " The axial kernels belong to one input size: build with the file's `input_shape`, or "
            "give the file as `weights`, which resamples them."
        )
    return ""
