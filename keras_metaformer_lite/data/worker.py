"""The process that prepares images for training; started by `processes.py`.

    python -P worker.py

It reads messages from its standard input and answers each on its standard output. The
first has the parent's number and the folders to import from, the second the pickle of
what is to be called, each further one what to call it with. A message is the number of
its parts, their lengths, then a pickle and the arrays that go with it. The input ends
with the parent, however that ended, and this process with it.

Run by its path, and importing no more than Python's own library before the folders are
known.
"""

import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

_COUNT = struct.Struct("<Q")
#: Seconds between two looks at whether the parent is still there. Its pipe tells at
#: once, unless a process that the parent forked holds a copy.
_WATCH = 1.0


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message, arrays without copying them."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    sizes = [len(content), *(part.nbytes for part in raw)]
    stream.write(_COUNT.pack(len(sizes)))
    stream.write(b"".join(map(_COUNT.pack, sizes)))
    for part in (content, *raw):
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO, allocate: Callable[[int], Any] = bytearray) -> Any:
    """Read a message.

    Args:
        stream: of `send`.
        allocate: gives the memory of an array, by its bytes.

    Raises:
        EOFError: if the other side is gone.
    """
    (count,) = _COUNT.unpack(_read(stream, _COUNT.size))
    sizes = [_COUNT.unpack(_read(stream, _COUNT.size))[0] for _ in range(count)]
    content = _read(stream, sizes[0])
    buffers = [_read(stream, size, allocate) for size in sizes[1:]]
    return pickle.loads(content, buffers=buffers)


def _read(
    stream: BinaryIO, size: int, allocate: Callable[[int], Any] = bytearray
) -> Any:
    content = allocate(size)
    view, done = memoryview(content), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other side of the pipe is gone")
        done += count
    return content


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def main() -> None:
    """Serve until the input ends."""
    # Ctrl-C reaches every process of the terminal: the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # What libraries print goes to the errors.
    try:
        parent, folders = receive(requests)
        if os.name == "posix":
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        # At the end: nothing beside the user's files stands in for a library.
        sys.path += [folder for folder in folders if folder not in sys.path]
        call = None
        while True:
            message = receive(requests)
            try:
                # The first call's pickle is opened here, where its errors are told.
                if call is None:
                    call, answer = pickle.loads(message), None
                else:
                    answer = call(message)
            except Exception as error:
                kind = f"{type(error).__module__}.{type(error).__qualname__}"
                send(answers, (False, (kind, str(error), traceback.format_exc())))
            else:
                send(answers, (True, answer))
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
