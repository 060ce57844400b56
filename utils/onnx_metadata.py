"""The metadata of an ONNX file, read without the network in it and without the onnx package.

An ONNX file is a protocol buffer: fields with a number, a type and a content. Each field 14 of a model is one of its
metadata_props, with a key (1) and a value (2); see onnx.proto of https://github.com/onnx/onnx.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.checkpoint import EARLIER_FORMATS, FORMAT, DamagedCheckpointError, describe_error, require_checkpoint
from utils.errors import UserError

METADATA_PROPS, KEY, VALUE = 14, 1, 2
INTEGER, BYTES, FIXED = 0, 2, {1: 8, 5: 4}  # types of a field; those of a fixed size, in bytes


def read_our_metadata(path: Path, flag: str = "--checkpoint") -> dict[str, str]:
    """The metadata of an ONNX file that export_inference.py of this version wrote.

    Args:
        path: The file.
        flag: What gave it, for the message.

    Raises:
        DamagedCheckpointError: It is cut short, or no ONNX file.
        UserError: There is no such file, or it is of an earlier version or not one of ours.
    """
    metadata = read_onnx_metadata(path, flag)
    version = metadata.get("format")
    if version in EARLIER_FORMATS:
        raise UserError(f"{path}: of an earlier version ({version}, this is {FORMAT}); export it again")
    if version != FORMAT or not {"crc32", "tsr_matte"} <= metadata.keys():
        raise UserError(f"{path}: not an ONNX file of TSR-Matte ({FORMAT}); give one that export_inference.py wrote")
    return metadata


def read_onnx_metadata(path: Path, flag: str = "--checkpoint") -> dict[str, str]:
    """The metadata of an ONNX file by key; of the rest nothing is read, however large it is.

    Args:
        path: The file.
        flag: What gave it, for the message.

    Raises:
        DamagedCheckpointError: It is cut short, or no ONNX file.
        UserError: There is no such file.
    """
    require_checkpoint(path, flag)
    found = {}
    try:
        with open(path, "rb") as file:
            for number, stop in _fields(file, os.fstat(file.fileno()).st_size):
                if number == METADATA_PROPS:
                    pair = {n: file.read(end - file.tell()).decode() for n, end in _fields(file, stop)}
                    found[pair[KEY]] = pair.get(VALUE, "")
    except (OSError, ValueError, LookupError) as error:
        raise DamagedCheckpointError(f"{path}: damaged or not an ONNX file ({describe_error(error)})") from error
    return found


def _fields(file: BinaryIO, stop: int) -> Iterator[tuple[int, int]]:
    """The fields up to a place in the file: number, and where it ends; the file stands where its content begins."""
    while file.tell() < stop:
        number, kind = divmod(_integer(file), 8)
        if kind == INTEGER:
            _integer(file)
            end = file.tell()
        else:
            end = (_integer(file) if kind == BYTES else FIXED[kind]) + file.tell()
        if number == 0 or end > stop:
            raise ValueError("no fields")
        yield number, end
        file.seek(end)


def _integer(file: BinaryIO) -> int:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for place in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends too early")
        value |= (byte[0] & 127) << place
        if byte[0] < 128:
            return value
    raise ValueError("a number without an end")
