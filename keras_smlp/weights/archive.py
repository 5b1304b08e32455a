"""Zip archives, which `.pth` and `.keras` files are: no entry is larger than the file can hold."""

import contextlib
import io
import os
import zipfile

from keras_smlp.weights.stored import Refused, open_regular, show

MAX_ENTRIES = 100_000
START = 64  # bytes by which a format is recognized
CHUNK = 8 << 20  # bytes asked of the disk at once, the zip directory included
# what compressed entries may inflate to: floating-point weights hardly shrink
MOST_TIMES = 4
MOST_BYTES = 64 << 20


class BoundedFile(io.BufferedReader):
    """A file that never allocates what a number inside it asks for."""

    def read(self, size=-1, /):
        bounded = size is not None and 0 <= size <= CHUNK
        data = super().read(size if bounded else CHUNK + 1)
        if len(data) > CHUNK:
            raise Refused("has a zip directory that is too large.")
        return data


class Archive(contextlib.AbstractContextManager):
    """An open zip archive whose directory has been checked.

    Args:
        path: Path of the file.
        check_start: Function of the file's first bytes, which raises if they are none of the
            format.
        check_names: Function of the list of the entries' names, likewise.
        compressed: Boolean. Whether entries may be compressed. Defaults to `False`.

    Attributes:
        entries: Dict from name to `zipfile.ZipInfo`.
    """

    def __init__(self, path, check_start, check_names, compressed=False):
        with contextlib.ExitStack() as stack:
            self.file = stack.enter_context(BoundedFile(open_regular(path)))
            check_start(self.file.read(START))
            self.zip = stack.enter_context(zipfile.ZipFile(self.file))
            check_names(self.zip.namelist())
            size = os.fstat(self.file.fileno()).st_size
            self.entries = entries_of(self.zip.infolist(), size, compressed)
            self.stack = stack.pop_all()

    def __exit__(self, *_):
        self.stack.close()

    def chunks(self, info):
        """The bytes of an entry, a chunk at a time; at their end the checksum is compared."""
        with self.zip.open(info) as entry:
            while data := entry.read(CHUNK):
                yield data

    def verify(self, info):
        """Compares an entry's checksum, without keeping the entry."""
        for _ in self.chunks(info):
            pass

    def read(self, info, begin=0, end=None):
        """The bytes of an entry, or those from `begin` to `end`, once all were compared."""
        end = info.file_size if end is None else end
        data, at = bytearray(end - begin), 0
        for chunk in self.chunks(info):
            first, last = max(begin, at), min(end, at + len(chunk))
            if first < last:
                data[first - begin : last - begin] = chunk[first - at : last - at]
            at += len(chunk)
        return data

    def open(self, info):
        """An entry as a file to seek in; without comparing its checksum."""
        if info.compress_type != zipfile.ZIP_STORED:
            return io.BytesIO(self.read(info))
        self.zip.open(info).close()  # compares what stands before the entry with the directory
        self.file.seek(info.header_offset + 26)
        lengths = self.file.read(4)  # of the name and of what follows it
        start = (
            info.header_offset
            + 30
            + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
        )
        return io.BufferedReader(Window(self.file, start, info.file_size))


class Window(io.RawIOBase):
    """A stretch of an open file, as a file of its own."""

    def __init__(self, file, start, size):
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def readinto(self, buffer):
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.at)]
        self.file.seek(self.start + self.at)
        count = self.file.readinto(view)
        self.at += count
        return count


def entries_of(infos, file_size, compressed):
    """The entries by name, none of which claims more than a file of this size can hold."""
    if len(infos) > MAX_ENTRIES:
        raise Refused(f"has more than {MAX_ENTRIES} entries.")
    entries, stored, total = {}, 0, 0
    for info in infos:
        name = show(info.filename)
        if info.flag_bits & 0x61:  # encrypted, a patch, strongly encrypted
            raise Refused(f"has the encrypted entry {name}.")
        if info.compress_type == zipfile.ZIP_STORED:
            is_compressed = info.compress_size != info.file_size
        else:
            is_compressed = not compressed or info.compress_type != zipfile.ZIP_DEFLATED
        if is_compressed:
            raise Refused(f"has the compressed entry {name}: PyTorch and Keras compress none.")
        if info.filename in entries:
            raise Refused(f"has two entries {name}.")
        entries[info.filename] = info
        stored, total = stored + info.compress_size, total + info.file_size
    if stored > file_size:  # overlapping entries, or invented sizes
        raise Refused(f"has entries of {stored} bytes in a file of {file_size}.")
    if total > stored and total > MOST_TIMES * file_size + MOST_BYTES:
        raise Refused(f"has entries of {total} bytes, compressed in a file of {file_size}.")
    return entries
