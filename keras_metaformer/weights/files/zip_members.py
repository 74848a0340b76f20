"""Where the members of a zip archive lie in its file, checked before they are used.

`.pth` and `.npz` files are zip archives whose members are mostly stored as they
are, so that an array can be mapped straight from the file. `zipfile` reads the
directory at the end of the archive; this module checks it against the headers in
front of the members and against the size of the file.
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from keras_metaformer.weights.files.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800


@dataclass(frozen=True)
class Member:
    """One file in an archive: `stored` bytes at `start`, `size` once unpacked."""

    info: zipfile.ZipInfo
    start: int
    stored: int
    size: int

    @property
    def is_compressed(self) -> bool:
        """Whether the bytes at `start` have to be unpacked."""
        return self.info.compress_type != zipfile.ZIP_STORED


def read_members(mapped: mmap.mmap) -> dict[str, Member]:
    """Read and check the directory of a zip archive.

    Args:
        mapped: the whole file.

    Returns:
        The members by name, in the order of the file.

    Raises:
        CheckpointError: if the archive is cut or damaged, or has members that are
            encrypted, share a name, overlap, lead outside, or are packed with
            anything but deflate.
    """
    try:
        # The map, not a file object: reading from it cannot ask for more bytes
        # than there are, whatever the directory claims.
        archive = zipfile.ZipFile(cast(IO[bytes], mapped))
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
        ValueError,
        struct.error,
    ) as error:
        raise CheckpointError(
            f"the zip archive is cut or damaged ({error or type(error).__name__})"
        ) from error
    members: dict[str, Member] = {}
    # Sorted by position, each member must end before the next one begins.
    end_of_previous = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.orig_filename
        if name in members:
            raise CheckpointError(f"the archive has two members named {name[:80]!r}")
        if name != info.filename or "\\" in name or ".." in name.split("/"):
            raise CheckpointError(f"the member name {name[:80]!r} is not a plain path")
        if name.startswith("/") or name[1:2] == ":":
            raise CheckpointError(f"the member {name[:80]!r} lies outside the archive")
        if info.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"the member {name[:80]!r} is encrypted")
        if info.header_offset < end_of_previous:
            raise CheckpointError(f"the member {name[:80]!r} overlaps another one")
        member = _locate(mapped, info, name)
        end_of_previous = member.start + member.stored
        if end_of_previous > archive.start_dir:
            raise CheckpointError(
                f"the member {name[:80]!r} is cut: it should end at byte "
                f"{end_of_previous}, the archive's directory begins at "
                f"{archive.start_dir}"
            )
        members[name] = member
    return members


def _locate(mapped: mmap.mmap, info: zipfile.ZipInfo, name: str) -> Member:
    """Find where the bytes of a member begin, from the header in front of them."""
    header_end = info.header_offset + _LOCAL_HEADER.size
    if info.header_offset < 0 or header_end > len(mapped):
        raise CheckpointError(f"the member {name[:80]!r} lies beyond the file's end")
    signature, _, flags, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack(
        mapped[info.header_offset : header_end]
    )
    try:
        name_in_header = mapped[header_end : header_end + name_length].decode(
            "utf-8" if flags & _UTF8_NAME else "cp437"
        )
    except UnicodeDecodeError:
        name_in_header = None
    if (
        signature != b"PK\x03\x04"
        or name_in_header != name
        or method != info.compress_type
        or flags & _ENCRYPTED
    ):
        raise CheckpointError(
            f"the header of the member {name[:80]!r} and the archive's directory "
            "disagree"
        )
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(
            f"the member {name[:80]!r} is packed with method {method}; expected "
            "stored (0) or deflate (8)"
        )
    if method == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise CheckpointError(f"the member {name[:80]!r} states two different sizes")
    return Member(
        info=info,
        start=header_end + name_length + extra_length,
        stored=info.compress_size,
        size=info.file_size,
    )


def unpack_into(
    file: BinaryIO, member: Member, target: memoryview, whole: bool = True
) -> None:
    """Unpack a compressed member into memory that is already there.

    Args:
        file: the archive.
        member: the member to unpack.
        target: writable bytes, filled completely.
        whole: whether they take the whole member; then its CRC-32 is checked.

    Raises:
        CheckpointError: if the packed bytes are damaged or end too soon.
    """
    name = member.info.filename[:80]
    filled = 0
    checksum = 0
    try:
        for chunk in _unpack(file, member):
            chunk = chunk if whole else chunk[: len(target) - filled]
            if filled + len(chunk) > len(target):
                raise CheckpointError(f"the member {name!r} is larger than it states")
            target[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if filled == len(target) and not whole:
                return
    except zlib.error as error:
        raise CheckpointError(f"the member {name!r} is damaged ({error})") from error
    if filled != len(target):
        raise CheckpointError(f"the member {name!r} is smaller than it states")
    if checksum != member.info.CRC:
        raise CheckpointError(f"the member {name!r} is damaged: its CRC-32 differs")


def _unpack(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Unpack a member in pieces of at most 1 MiB, whatever its bytes ask for."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    # Read, not mapped: the packed bytes need not stay in memory beside the array.
    file.seek(member.start)
    for position in range(0, member.stored, 2**16):
        packed = file.read(min(2**16, member.stored - position))
        while packed:
            yield inflater.decompress(packed, 2**20)
            packed = inflater.unconsumed_tail
        if inflater.eof:
            return
    yield inflater.flush()
