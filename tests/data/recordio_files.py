"""RecordIO files with any contents."""

import struct

import numpy as np

MAGIC = struct.pack("<I", 0xCED7230A)


def part(data: bytes, kind: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | len(data)) + data + bytes(-len(data) % 4)


def record(image: bytes, label: float = 0, labels: tuple = ()) -> bytes:
    return struct.pack("<IfQQ", len(labels), label, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def write(folder, records: list[bytes], index: bool = True):
    offsets = np.cumsum([0, *map(len, records)])
    folder.joinpath("train.rec").write_bytes(b"".join(records))
    if index:
        folder.joinpath("train.idx").write_text("".join(f"{i}\t{at}\n" for i, at in enumerate(offsets[:-1])))
    return folder
