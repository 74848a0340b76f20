"""Speaks a worker's side of the protocol without computing anything.

    python scripted_worker.py NAME LOG BEHAVIOUR

Each turn appends "NAME start" and "NAME end" to LOG. BEHAVIOUR: "good"; "dies" at its
second turn; "killed" there, as by a system without memory; "hangs" there; "refuses" to
prepare, out of memory.
"""

import json
import os
import sys
import time


def main() -> None:
    name, log, behaviour = sys.argv[1:]
    turns = 0

    def note(what: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name} {what}\n")

    def answer(value: object) -> None:
        print(json.dumps(value), flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, dict):
            note("prepared")
            if behaviour == "refuses":
                answer({"error": {"status": "out of memory", "message": "no room"}})
                return
            answer({"build_s": 1.0, "compile_s": 2.0, "calls": 3, "versions": {}})
        elif request == "turn":
            turns += 1
            if turns == 2:
                if behaviour == "dies":
                    print("Fatal: lost my way", file=sys.stderr, flush=True)
                    os._exit(3)
                if behaviour == "killed":
                    os.kill(os.getpid(), 9)
                if behaviour == "hangs":
                    time.sleep(60)
            note("start")
            time.sleep(0.01)
            note("end")
            answer(
                {
                    "seconds": 0.01 * turns,
                    "processor_seconds": 0.02,
                    "waiting_load": 0.0,
                    "other_load": None,
                }
            )
        else:
            answer({"peak_memory": 2**30, "peak_device_memory": None})


if __name__ == "__main__":
    main()
