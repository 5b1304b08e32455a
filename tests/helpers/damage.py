"""Damage to the bytes of a file."""


def flipped(data):
    """The bytes with one bit in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def halved(data):
    """The first half of the bytes."""
    return data[: len(data) // 2]


def mutate(rng, data, tokens):
    """The bytes with one to eight changes drawn by `random.Random`: bits, cuts, copies, tokens."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 8, 40])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.choice(tokens)
        elif kind == 4:
            token = rng.choice(tokens)
            data[at : at + len(token)] = token
        elif kind == 5:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + length]
        else:
            del data[at:]
    return bytes(data)
