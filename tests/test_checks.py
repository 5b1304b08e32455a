"""What the package's checks of arguments share."""

import keras
import pytest

from keras_smlp import checks

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Äpfel und 梨/ü.jpg", "Äpfel und 梨/ü.jpg"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\udcff\u202e.jpg", "\\udcff\\u202e.jpg"),
        ("x" * 100 + "y" * 1000 + "z" * 100, "x" * 100 + " ... " + "z" * 100),
    ],
)
def test_names_from_outside_are_shown_escaped_and_shortened(name, text):
    assert checks.shown(name) == text


def test_a_map_of_policies_without_entries_is_one():
    policies = keras.dtype_policies.DTypePolicyMap("bfloat16")
    assert checks.check_policy(policies) is policies
