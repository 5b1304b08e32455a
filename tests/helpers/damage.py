"""Damage to the bytes of a file."""


def flipped(data):
    """The bytes with one bit in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def halved(data):
    """The first half of the bytes."""
    return data[: len(data) // 2]
