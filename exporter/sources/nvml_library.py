"""NVML as a whole: its library, its opening and closing, what it says of the node.

May not be in here: threads, anything about one GPU.
"""

import ctypes
import logging
import os
import stat
from collections.abc import Mapping

import pynvml

from exporter.sources.nvml_calls import DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH

log = logging.getLogger(__name__)

#: No node has more; NVML's count is not believed beyond.
MAX_GPUS = 128

_OFF = "or start with --gpu.source=off"
_CHECK = "check --nvml.library"
#: NVML's error when it cannot be opened -> what to do.
_FIXES: Mapping[int, str] = {
    4: "give this process access to /dev/nvidiactl and /dev/nvidia*",
    DRIVER_NOT_LOADED: f"load the NVIDIA driver (nvidia-smi must work) {_OFF}",
    12: f"install the NVIDIA driver, name the file with --nvml.library, {_OFF}",
    LIB_RM_VERSION_MISMATCH: "the driver was updated: restart this process, and the node if that does not help",
}


class Unavailable(Exception):
    """NVML cannot be opened. `fatal`: this process never can."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


def initialise(library: str) -> tuple[str, int]:
    """Load the library ("": the loader's) and open NVML: the driver's version and the number of GPUs.

    Raises Unavailable; NVML is not open then.
    """
    if library:
        _load(library)
    try:
        # Without the flag a node whose only GPU is gone would look like one without a driver.
        pynvml.nvmlInitWithFlags(pynvml.NVML_INIT_FLAG_NO_GPUS)
    except pynvml.NVMLError as error:
        raise _unavailable(error) from None
    try:
        return _node()
    except BaseException:
        shut_down()  # else the next opening would not be one
        raise


def shut_down() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        log.debug("nvmlShutdown: %s", error)


def _load(library: str) -> None:
    """pynvml would ask the loader; the file that the operator named goes before it. Raises Unavailable."""
    try:
        # The loader opens what it is given while all threads wait: a FIFO or a device would stop the whole process.
        # A name without a path is looked for in the loader's own directories.
        if "/" in library and not stat.S_ISREG(os.stat(library).st_mode):
            raise Unavailable(f"NVML: {library!r} is not a regular file; {_CHECK}")
        pynvml.nvmlLib = ctypes.CDLL(library)
    except (OSError, ValueError) as error:
        raise Unavailable(f"NVML: {library!r}: {error}; {_CHECK}") from None


def _node() -> tuple[str, int]:
    """Driver version and number of GPUs. Raises Unavailable."""
    try:
        version, count = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        raise _unavailable(error) from None
    except UnicodeDecodeError:
        raise Unavailable(f"NVML: the driver's version is no text; nvidia-smi must work here, {_OFF}") from None
    if count > MAX_GPUS:
        raise Unavailable(f"NVML: it says that there are {count} GPUs; nvidia-smi must work here, {_OFF}")
    return version, count


def _unavailable(error: "pynvml.NVMLError") -> Unavailable:
    fix = _FIXES.get(error.value, f"nvidia-smi must work here, {_OFF}")
    return Unavailable(f"NVML: {error}; {fix}", error.value == LIB_RM_VERSION_MISMATCH)
