"""Writes down every NVML call of this process: its name, what it was asked of, what came back, how long it took.

    tracer = Tracer()
    tracer.install()          # before exporter.sources is imported: it keeps pynvml's functions
    ...
    tracer.calls()            # rows for a capture

Nothing that names a board stands in the rows: UUIDs, serial numbers and PCI addresses are replaced by GPU-0, PCI-0 and
so on, the same name for the same thing, and bytes that are no text by how many they are.
"""

import ctypes
import functools
import re
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pynvml

FIELD_VALUES = "nvmlDeviceGetFieldValues"
#: Calls whose answer is a handle: it is named after what it was asked for.
_HANDLES: Mapping[str, Callable[[Sequence[Any], "Tracer"], str]] = {
    "nvmlDeviceGetHandleByIndex": lambda arguments, _: f"gpu {arguments[0]}",
    "nvmlDeviceGetHandleByIndex_v2": lambda arguments, _: f"gpu {arguments[0]}",
    "nvmlDeviceGetMigDeviceHandleByIndex": lambda arguments, self: f"{self.subject(arguments[0])} mig {arguments[1]}",
    "nvmlEventSetCreate": lambda *_: "event set",
}
_ERRORS = {
    number: name.removeprefix("NVML_ERROR_")
    for name, number in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(number, int)
}
#: NVML_VALUE_TYPE_* -> its name and the member of the union that is set.
_VALUE_TYPES = (
    ("double", "dVal"),
    ("uint", "uiVal"),
    ("ulong", "ulVal"),
    ("ulonglong", "ullVal"),
    ("slonglong", "sllVal"),
    ("int", "siVal"),
    ("ushort", "usVal"),
)
#: Of nvmlPciInfo_t only these say nothing about which board it is; of a process only what it uses.
_KEPT = {"busId", "busIdLegacy", "pciDeviceId", "pciSubSystemId"}
_PROCESS = {"pid": "PID"}
#: Text that tells one board from another. A MIG device of an old driver is MIG-GPU-<uuid>/<gi>/<ci>.
_UUID = re.compile(r"\b(?:MIG-)?(GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_PCI = re.compile(r"\b[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-9a-fA-F])?\b")


class Names:
    """What stands for whatever names a board: the same for the same thing."""

    def __init__(self) -> None:
        self.real: dict[str, str] = {}  # what was replaced -> by what
        self._lock = threading.Lock()

    def of(self, kind: str, real: str, subject: str = "") -> str:
        """What stands for `real`: numbered as its GPU where it is known whose it is, else (x0, x1) as it was seen."""
        with self._lock:
            if real not in self.real:
                number = "-".join(re.findall(r"\d+", subject)) or f"x{len(self.real)}"
                self.real[real] = f"{kind}-{number}"
            return self.real[real]

    def text(self, text: str, subject: str = "") -> str:
        """The text, which tells of the subject, without anything that names a board."""
        text = _UUID.sub(lambda found: self.of(found[1], found[0], subject), text)
        return _PCI.sub(lambda found: self.of("PCI", found[0].upper().split(".")[0][-10:], subject), text)

    def left_in(self, text: str) -> list[str]:
        """What would give a board away in a text that is to be published."""
        serials = [real for real, name in self.real.items() if name.startswith("SERIAL-") and len(real) > 4]
        return [found[0] for found in _UUID.finditer(text)] + [real for real in serials if real in text]


class Row:
    """One call with its arguments: the answers that differ, and how long each call took."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.took: list[int] = []  # microseconds


class Tracer:
    """Every call of pynvml's functions, from the moment of install() on. Used by any thread."""

    def __init__(self) -> None:
        self.names = Names()
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._subjects: dict[int, str] = {}  # a handle's address -> what it stands for
        self._inside = threading.local()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Put a witness before each of pynvml's functions."""
        for name, function in list(vars(pynvml).items()):
            if name.startswith("nvml") and isinstance(function, types.FunctionType):
                setattr(pynvml, name, self._witnessed(name, function))

    def calls(self) -> list[dict[str, Any]]:
        """A row for each call and its arguments: call, of, arguments, answers (those that differ), microseconds.

        A field of nvmlDeviceGetFieldValues has a row of its own, without a time: the time is that of the whole call.
        """
        with self._lock:
            rows = [(of, call, arguments, row) for (call, of, arguments), row in self._rows.items()]
            return [
                {"call": call, "of": of, "arguments": arguments, "answers": row.answers[:], "microseconds": row.took[:]}
                for of, call, arguments, row in sorted(rows, key=lambda row: row[0])
            ]

    def subject(self, handle: Any) -> str:
        """What a handle stands for; "" if it is none."""
        if not isinstance(handle, ctypes._Pointer | ctypes.c_void_p):
            return ""
        return self._subjects.get(_address(handle), "unknown handle")

    def _witnessed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if getattr(self._inside, "call", False):  # pynvml's own call of another
                return function(*arguments, **named)
            self._inside.call = True
            began = time.perf_counter_ns()
            try:
                result = function(*arguments, **named)
            except pynvml.NVMLError as error:
                took = time.perf_counter_ns() - began
                answer = {"error": _ERRORS.get(error.value, "?"), "number": error.value}
                self._note(name, arguments, answer, took)
                raise
            finally:
                self._inside.call = False
            took = time.perf_counter_ns() - began
            if name in _HANDLES:
                self._subjects[_address(result)] = _HANDLES[name](arguments, self)
            self._note(name, arguments, self._answer(name, arguments, result), took)
            return result

        return call

    def _note(self, name: str, arguments: Sequence[Any], answer: Any, nanoseconds: int) -> None:
        of = self.subject(arguments[0]) if arguments else ""
        shown = ", ".join(_shown(argument) for argument in (arguments[1:] if of else arguments))
        with self._lock:
            for what, said in answer.pop("fields", {}).items():
                self._row(name, of, what, said)
            self._row(name, of, shown, answer or {"value": 0}).took.append(nanoseconds // 1000)

    def _row(self, name: str, of: str, arguments: str, answer: Any) -> Row:
        row = self._rows.setdefault((name, of, arguments), Row())
        if answer not in row.answers:
            row.answers.append(answer)
        return row

    def _answer(self, name: str, arguments: Sequence[Any], result: Any) -> Any:
        of = self.subject(arguments[0]) if arguments else ""
        if name == "nvmlDeviceGetSerial":
            return {"value": self.names.of("SERIAL", str(result), of)}
        if name == FIELD_VALUES:
            return {"fields": dict(_field(value) for value in result)}
        filled = [_structure(argument) for argument in arguments]
        filled = [self._plain(structure, of) for structure in filled if structure is not None]
        return {"value": filled[0] if filled else self._plain(result, of)}

    def _plain(self, value: Any, of: str) -> Any:
        """The value, which tells of `of`, as JSON has it, without anything that names a board."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.names.text(value, of)
        if isinstance(value, bytes):
            return f"{len(value)} bytes"
        if subject := self.subject(value):
            return subject
        if isinstance(value, ctypes.Structure):
            return self._members({name: getattr(value, name) for name, *_ in value._fields_}, of)
        if isinstance(value, ctypes.Array):
            return self._plain(list(value), of) if value._type_ is not ctypes.c_ubyte else f"{len(value)} bytes"
        if isinstance(value, list | tuple):
            return [self._plain(item, of) for item in value]
        if hasattr(value, "__dict__"):  # pynvml's "friendly" objects
            return self._members(vars(value), of)
        return type(value).__name__

    def _members(self, members: Mapping[str, Any], of: str) -> dict[str, Any]:
        pci = "pciDeviceId" in members
        plain = {}
        for name, value in members.items():
            if pci and name not in _KEPT:
                continue
            if name in _PROCESS:
                plain[name] = self.names.of(_PROCESS[name], str(value))
            else:
                # Text in a structure is bytes; what is no text (a cluster's UUID) is not shown.
                text = pci and isinstance(value, bytes)
                plain[name] = self._plain(value.decode("ascii", "replace") if text else value, of)
        return plain


def _field(value: Any) -> tuple[str, dict[str, Any]]:
    """One value of nvmlDeviceGetFieldValues: what was asked, and what came back."""
    asked = f"field {value.fieldId}" + (f" scope {value.scopeId}" if value.scopeId else "")
    if value.nvmlReturn:
        return asked, {"error": _ERRORS.get(value.nvmlReturn, "?"), "number": value.nvmlReturn}
    if not 0 <= value.valueType < len(_VALUE_TYPES):
        return asked, {"type": value.valueType}
    kind, member = _VALUE_TYPES[value.valueType]
    return asked, {"type": kind, "value": getattr(value.value, member)}


def _structure(argument: Any) -> ctypes.Structure | None:
    """The structure that the call filled, if this argument is one."""
    inner = getattr(argument, "_obj", argument)  # byref(...) keeps what it refers to
    return inner if isinstance(inner, ctypes.Structure) else None


def _shown(argument: Any) -> str:
    if isinstance(argument, list | tuple):
        return f"{len(argument)} fields"
    structure = _structure(argument)
    return type(structure).__name__ if structure is not None else str(argument)


def _address(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
