"""The log of a run: on the screen in lines, in its file with the tracebacks."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path

from basicsr.utils.logger import initialized_logger

from d2sm_plugin.files import cannot_write

LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
HOST_LOGGER = "basicsr"  # the host's parts log here
_WARNINGS_LOGGER = "py.warnings"  # where Python sends warnings


@contextmanager
def run_log(first_rank: bool) -> Iterator[logging.Logger]:
    """Log to the terminal for the time of a run; :func:`log_to_file` adds the file once there is a folder for it.

    Python's warnings, and what other threads raise, are logged too.

    Args:
        first_rank: whether this process reports; the others log errors alone.
    """
    loggers = [logging.getLogger(name) for name in (HOST_LOGGER, _WARNINGS_LOGGER)]
    logger = loggers[0]
    initialized_logger[HOST_LOGGER] = True  # or the host would add handlers of its own
    _remove_handlers(logger)
    for handled in loggers:
        handled.propagate = False
        handled.setLevel(logging.INFO if first_rank else logging.ERROR)
    console = logging.StreamHandler()
    console.setFormatter(_Short(LOG_FORMAT))
    _add_handler(console)
    hook, threading.excepthook = threading.excepthook, _log_thread
    logging.captureWarnings(True)
    try:
        yield logger
    finally:
        logging.captureWarnings(False)
        threading.excepthook = hook
        for handled in loggers:
            _remove_handlers(handled)


def log_to_file(folder: Path, kind: str, name: str) -> None:
    """Write what is logged from now on to ``KIND_NAME_TIME.log`` in a folder as well.

    Raises:
        DataError: when the file cannot be made.
    """
    file = folder / f"{kind}_{name}_{time.strftime('%Y%m%d_%H%M%S')}.log"
    try:
        handler = _LogFile(file, encoding="utf-8")
    except OSError as error:
        raise cannot_write(file, error) from error
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    _add_handler(handler)


def log_traceback(error: BaseException) -> None:
    """Write what ended a run to its log file, with the traceback; the screen gets the one line by other ways."""
    info = (type(error), error, error.__traceback__)
    record = logging.LogRecord(HOST_LOGGER, logging.ERROR, "", 0, "The run ended with an error:", (), info)
    for handler in logging.getLogger(HOST_LOGGER).handlers:
        if isinstance(handler, _LogFile):
            handler.handle(record)


class _Short(logging.Formatter):
    """Formatter that leaves out tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)
        record.exc_info = record.exc_text = None
        return super().format(record)


class _LogFile(logging.FileHandler):
    """A file that may become full: this is said once, and the run goes on, as its weights matter more."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name is logging's
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            logging.getLogger(HOST_LOGGER).error(
                f"{cannot_write(self.baseFilename, error)}; the run goes on without it"
            )

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before
            super().close()


def _add_handler(handler: logging.Handler) -> None:
    for name in (HOST_LOGGER, _WARNINGS_LOGGER):
        logging.getLogger(name).addHandler(handler)


def _remove_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def _log_thread(raised: threading.ExceptHookArgs) -> None:
    name = raised.thread.name if raised.thread is not None else "a thread"
    error = raised.exc_value if raised.exc_value is not None else raised.exc_type()
    info = (raised.exc_type, error, raised.exc_traceback)
    logging.getLogger(HOST_LOGGER).error(f"{name}: {raised.exc_type.__name__}: {raised.exc_value}", exc_info=info)
