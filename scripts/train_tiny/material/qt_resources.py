"""Unpacks the images of Qt resource files: `qt_resources.py OUT_FOLDER FILE.rcc...`"""

import pathlib
import struct
import sys
import zlib

COMPRESSED, FOLDER, ZSTD = 1, 2, 4


def entries(data):
    """(path, bytes) of each file in a .rcc file's bytes; files compressed with zstd are left out."""
    if data[:4] != b"qres":
        raise ValueError(f"not a Qt resource file (starts with {data[:4]!r}, expected b'qres')")
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    node_size = 14 if version < 2 else 22
    pending = [(0, "")]
    while pending:
        index, parent = pending.pop()
        name, flags = struct.unpack_from(">IH", data, tree + index * node_size)
        path = parent
        if index:
            length, = struct.unpack_from(">H", data, names + name)
            start = names + name + 6
            path = f"{parent}/{data[start:start + 2 * length].decode('utf-16-be')}"
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", data, tree + index * node_size + 6)
            pending += [(first + k, path) for k in range(count)]
            continue
        start, = struct.unpack_from(">I", data, tree + index * node_size + 10)
        start += contents
        length, = struct.unpack_from(">I", data, start)
        body = data[start + 4:start + 4 + length]
        if not flags & ZSTD:
            yield path, zlib.decompress(body[4:]) if flags & COMPRESSED else body


def main(out, files):
    out, count = pathlib.Path(out), 0
    for file in files:
        for path, body in entries(pathlib.Path(file).read_bytes()):
            if path.lower().endswith((".jpg", ".jpeg", ".png", ".webp")) and ".." not in path:
                target = out / path.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(body)
                count += 1
    print(f"{count} images")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
