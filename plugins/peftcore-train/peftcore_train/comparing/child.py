"""A process of a comparison: ``python -m peftcore_train.comparing.child MODULE:FUNCTION TEXT...``.

It prints what the function returns, and the memory that it took, as JSON on stdout. When its input
ends, because it is told to or because the process that started it is gone, it stops as by SIGTERM.
"""

import json
import os
import signal
import sys
import threading

from peftcore import PeftcoreError, resolve
from peftcore_train.memory import taken


def main(function: str, *args: str) -> int:
    """Call a function and print what it returns."""
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    answer, sys.stdout = sys.stdout, sys.stderr
    try:
        result = resolve(function)(*args)
    except PeftcoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"result": result, "memory": taken()}), file=answer, flush=True)
    return 0


def _stop_with_the_parent() -> None:
    # not through sys.stdin, whose lock the end of the interpreter would want
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
