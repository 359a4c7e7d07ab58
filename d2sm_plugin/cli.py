"""Frame of the command line tools: errors as one line, and the exit status."""

from __future__ import annotations

import io
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from d2sm_plugin.errors import D2SMError, OtherRankError
from d2sm_plugin.extras import remedy

#: Exit status of what was asked to stop, as shells give it for Ctrl-C.
INTERRUPTED = 130
#: Exit status where the reader of standard output has gone, as after ``| head``.
UNREAD = 141


def run_tool(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run ``main`` on the command line and leave the process.

    A :class:`D2SMError` becomes ``error: ...`` on one line of stderr and exit status 2, and so does a package that
    is not installed; Ctrl-C becomes status 130, and standard output that nobody reads any more status 141. Any other
    exception is a defect of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a σ may be more than the encoding of a file or pipe can take
    try:
        status = main(None)
        sys.stdout.flush()
    except OtherRankError:
        status = 2
    except D2SMError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print("error: " + " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        status = 2
    except ModuleNotFoundError as error:
        line = remedy(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        status = INTERRUPTED
    except BrokenPipeError:
        if not _unread():
            raise
        status = UNREAD
    sys.exit(status or 0)


def _unread() -> bool:
    """Tell if nobody reads standard output any more, and lead what is left of it nowhere."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes once more as it ends
    return True
