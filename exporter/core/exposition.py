"""Metrics text (Prometheus 0.0.4 and 1.0.0, OpenMetrics) -> the samples of the few families that are wanted.

May not be in here: what any metric means, and tolerance. A page that is not whole, or whose wanted part is not
beyond doubt, is refused as a whole with one ExpositionError that names a reason; lines that are not wanted are
not looked at.

This is the exporter's hot path. An engine's page has some 600 lines of which 17 are wanted, so `Wanted` compiles
one regular expression that hops from line to line inside the regex engine and stops at wanted lines only: no
other line ever becomes a Python object. Label sets are the same in every family and at every scrape, so the
last thousand of them are remembered.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, NoReturn

_REPORT = "report it to the server's makers, with the page"

#: Every reason for which a page is refused, and what to do about it.
REASONS: Mapping[str, str] = {
    "body_too_large": "point the URL at one server's metrics page",
    "line_too_long": "point the URL at a metrics page",
    "too_many_samples": "point the URL at one server's metrics page",
    "too_many_labels": "drop labels of this metric at the server",
    "label_too_long": "shorten the label's value at the server",
    "not_utf8": "point the URL at a metrics page",
    "html": "point the URL at the metrics page, not at a web page",
    "truncated": "look for a proxy or a server that ends its answers early",
    "syntax": _REPORT,
    "order": _REPORT,
    "duplicate": _REPORT,
    "negative": _REPORT,
    "not_finite": _REPORT,
    "too_many_engines": "point the URL at one server's metrics page",
    "blind": "start the server with its metrics on (vLLM: without --disable-log-stats)",
}


class ExpositionError(Exception):
    """A page that gives no numbers. `reason` is a key of REASONS; str() is one line: place, cause, fix."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(f"{cause}; {REASONS[reason]}")
        self.reason = reason


class Limits(NamedTuple):
    """What a page may hold at most; a breach refuses it. Sizes are bytes.

    `*_info` families put a server's configuration into the labels of one sample (vLLM 0.32's cache_config_info
    has 37, among them lists of layers), so they have limits of their own; the line's limit holds for them too.
    """

    body: int = 8 << 20
    line: int = 64 << 10
    samples: int = 50_000
    labels: int = 32
    label_bytes: int = 256
    info_labels: int = 128
    info_label_bytes: int = 4096


LIMITS = Limits()


#: Name, labels, value. The mapping is shared between samples and pages: it is not to be changed.
Sample = tuple[str, Mapping[str, str], float]


class Family(NamedTuple):
    """One wanted family.

    complete: something follows it in the body, or "# EOF" was seen. An incomplete family may lack samples, since
    the body can have been cut at the end of a line: nothing may be folded over its samples.
    """

    name: str  # as it was wanted, whichever format declared it
    type: str  # as declared; "untyped" if it was not
    samples: list[Sample]
    complete: bool


class _Entry(NamedTuple):
    """What is to be done with a wanted sample."""

    family: str
    sample: str
    least: float
    info: bool


_LOWEST = -sys.float_info.max
_INF = float("inf")
_SIMPLE = frozenset(("counter", "gauge", "info", "stateset", "untyped", "unknown"))
_HISTOGRAM = frozenset(("histogram",))
#: What OpenMetrics takes off a family's name in TYPE, and the type that it must have then.
_SHORTENED = (("_total", frozenset(("counter",))), ("_info", frozenset(("info",))))
_SUFFIXES = (b"", b"_bucket", b"_count", b"_created", b"_info", b"_sum", b"_total")


class Wanted:
    """The allow-list: families by the name that the text format 0.0.4 gives them. Built once, used often.

    histograms: families whose samples are _bucket, _count and _sum. signed: families that may be below zero.
    """

    def __init__(self, families: Iterable[str], histograms: Iterable[str] = (), signed: Iterable[str] = ()) -> None:
        plain, folded, negative = tuple(families), tuple(histograms), frozenset(signed)
        names = [(name, name) for name in plain]
        names += [(name, name + suffix) for name in folded for suffix in ("_bucket", "_count", "_sum")]
        #: By what a sample's line starts with, the newline before it included.
        self.samples = {
            b"\n" + sample.encode(): _Entry(
                family, sample, _LOWEST if family in negative else 0.0, family.endswith("_info")
            )
            for family, sample in names
        }
        #: Name in a TYPE line -> the family, and the types that it may have.
        self.declarations = {name.encode(): (name, _SIMPLE) for name in plain}
        self.declarations |= {name.encode(): (name, _HISTOGRAM) for name in folded}
        for name in plain:
            for suffix, types in _SHORTENED:
                if name.endswith(suffix):
                    self.declarations.setdefault(name.removesuffix(suffix).encode(), (name, types))
        # Every branch starts with a letter or a set, none with a group: a line is left after one look at it.
        # The later branches are for what is legal but rare: blanks where none need be, and quoted names.
        self.scan = re.compile(
            rb"\n(?:%s(?![a-zA-Z0-9_:])|#(?: (?:TYPE(?: (?:%s(?![a-zA-Z0-9_:])|[ \t\"])|\t)|EOF|[ \t])|\t)|[ \t{]).*"
            % (_any_of(name[1:] for name in self.samples), _any_of(self.declarations))
        )


def _any_of(names: Iterable[bytes]) -> bytes:
    """A pattern for any of the names, as a tree: a line is left at the first letter that no name has."""
    tree: dict[bytes, list[bytes]] = {}
    for name in sorted(set(names)):
        tree.setdefault(name[:1], []).append(name[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in tree.items() if first]
    pattern = b"(?:%s)" % b"|".join(branches) if len(branches) > 1 else b"".join(branches)
    return b"(?:%s)?+" % pattern if branches and b"" in tree else pattern


_NUMBER = rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_TIMESTAMP = rb"(?:[ \t]++-?[0-9]++(?:\.[0-9]++)?)?"
_VALUE = re.compile(rb"[ \t]*+(%s)%s[ \t]*" % (_NUMBER, _TIMESTAMP))
_NOT_FINITE = re.compile(rb"[ \t]*+[+-]?(?:nan|inf|infinity)%s[ \t]*" % _TIMESTAMP, re.IGNORECASE)

_TEXT = r'[^"\\\n]*+(?:\\[\\"n][^"\\\n]*+)*+'
_LABEL = rf'([a-zA-Z_][a-zA-Z0-9_]*+|"{_TEXT}")[ \t]*+=[ \t]*+"({_TEXT})"'
_PAIR = re.compile(_LABEL)
#: Labels from after "{" up to "}".
_LABELS = re.compile(rf"[ \t]*+(?:{_LABEL}(?:[ \t]*+,[ \t]*+{_LABEL})*+[ \t]*+,?[ \t]*+)?\}}")
_ESCAPE = re.compile(r"\\(.)")
_EXEMPLAR = re.compile(rb" # \{%s[ \t]++%s%s[ \t]*$" % (_LABELS.pattern.encode(), _NUMBER, _TIMESTAMP))
_NAMED = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(\{?+)(.*)")
#: {"name",label="value"} of format 1.0.0: the name, and the rest after the comma or from the brace on.
_QUOTED_NAME = re.compile(rb'\{[ \t]*+"([^"\\]*+)"[ \t]*+(?:,|(?=\}))(.*)')

#: Bytes of the longest label text that is remembered: with 1,024 of them, some 10 MB at the very worst.
_REMEMBERED = 2048


class _Labels(NamedTuple):
    values: Mapping[str, str]
    series: frozenset[tuple[str, str]]  # a frozenset remembers its hash
    longest: int  # bytes of the longest name or value


def _parse_labels(raw: bytes) -> _Labels:
    text = raw.decode()
    if _LABELS.fullmatch(text) is None:
        raise ValueError
    pairs: list[tuple[str, str]] = _PAIR.findall(text)
    if "\\" in text or text.count('"') > 2 * len(pairs):
        pairs = [(_unescaped(name.strip('"')), _unescaped(value)) for name, value in pairs]
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError
    parts = [*values, *values.values()]
    longest = max(map(len, parts if text.isascii() else map(str.encode, parts)), default=0)
    return _Labels(values, frozenset(pairs), longest)


remembered_labels = lru_cache(maxsize=1024)(_parse_labels)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def _split(rest: bytes) -> tuple[_Labels, bytes]:
    """Labels and number of a sample from after its "{". Raises ValueError."""
    end = rest.rfind(b"}") + 1
    number = _VALUE.fullmatch(rest, end)
    if number is None:
        raise ValueError
    return remembered_labels(rest[:end]) if end <= _REMEMBERED else _parse_labels(rest[:end]), number[1]


def parse(body: bytes, wanted: Wanted, limits: Limits = LIMITS) -> dict[str, Family]:
    """The wanted families that the body declares or has samples of, by name. Raises ExpositionError, nothing else."""
    _check(body, limits)
    return _Page(b"\n" + body, wanted, limits).read()


def _check(body: bytes, limits: Limits) -> None:
    """What can be told without a look at any line. Raises ExpositionError."""
    if len(body) > limits.body:
        raise ExpositionError("body_too_large", f"the page has {len(body)} bytes, {limits.body} are allowed")
    if body[:256].lstrip()[:1] == b"<":
        raise ExpositionError("html", "the page is HTML or XML")
    # An answer without a length that is cut short is no error in HTTP: only the last newline tells.
    if not body.endswith(b"\n"):
        raise ExpositionError("truncated", "the page ends inside a line" if body else "the page is empty")
    start = 0
    while len(body) - start > limits.line:
        newline = body.rfind(b"\n", start, start + limits.line + 1)
        if newline < 0:
            raise ExpositionError("line_too_long", f"line {_line(body, start)} has more than {limits.line} bytes")
        start = newline + 1
    # The shortest sample has four bytes. Lines that are no samples have a limit too, as they cost time as well.
    if len(body) > 4 * limits.samples:
        lines = body.count(b"\n")
        comments = body.count(b"\n#") + body.startswith(b"#") if lines > limits.samples else 0
        if lines - comments > limits.samples or lines > 4 * limits.samples:
            raise ExpositionError("too_many_samples", f"the page has more than {limits.samples} samples")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise ExpositionError("not_utf8", f"line {_line(body, error.start)} is not UTF-8 text") from None


def _line(text: bytes, position: int) -> int:
    return text.count(b"\n", 0, position) + 1


class _Page:
    """One pass over a page. `text` is the body with a newline before it, so that every line starts with one."""

    def __init__(self, text: bytes, wanted: Wanted, limits: Limits) -> None:
        self._text = text
        self._wanted = wanted
        self._limits = limits
        self._short = min(5 * limits.labels, limits.label_bytes)  # a label takes five bytes: below, none breaks a limit
        self._families: dict[str, Family] = {}
        self._group = Family("", "", [], True)  # the family in whose group the pass is
        self._written = b""  # the group's name as this page writes it
        self._end = 0  # of the group's last line so far
        self._eof = False

    def read(self) -> dict[str, Family]:
        entries = self._wanted.samples
        seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        count = 0
        for match in self._wanted.scan.finditer(self._text):
            line, start = match[0], match.start()
            name, _, rest = line.partition(b"{")
            entry = entries.get(name)
            if entry is None:
                found = self._rare(line, start)
                if found is None:
                    continue
                entry, rest = found
            family, sample, least, info = entry
            if family != self._group.name:
                if family in self._families:
                    self._refuse("order", f"{family} is in several places of the page", start)
                self._open(Family(family, "untyped", [], True), family.encode())
            elif start != self._end and self._others(self._end, start):
                self._refuse("order", f"{family} is in several places of the page", start)
            self._end = start + len(line)

            if len(rest) > self._short:
                # Before they are taken apart, as thousands cost milliseconds. A label has at most two `="`.
                self._check_count(sample, rest.count(b'="') // 2, info, start)
            try:
                labels, number = _split(rest)
            except ValueError:
                labels, number = self._doubtful(sample, rest, start)
            if len(rest) > self._short:
                self._check_count(sample, len(labels.values), info, start)
                self._check_longest(sample, labels.longest, info, start)
            value = float(number)
            if not least <= value < _INF:
                reason = "negative" if _LOWEST <= value < 0 else "not_finite"
                self._refuse(reason, f"{sample} has the value {_clip(number)}", start)
            count += 1
            seen.add((sample, labels.series))
            if len(seen) != count:
                self._refuse("duplicate", f"{sample} is there twice with the same labels", start)
            self._group.samples.append((sample, labels.values, value))

        if self._group.name and not self._eof and not self._others(self._end, len(self._text)):
            self._families[self._group.name] = self._group._replace(complete=False)
        return self._families

    def _open(self, family: Family, written: bytes) -> None:
        self._families[family.name] = self._group = family
        self._written = written

    def _rare(self, line: bytes, start: int) -> tuple[_Entry, bytes] | None:
        """A line that is not simply name{...: a sample as entry and text after "{"; None if it was none."""
        text = line.strip(b" \t\n")
        if text.startswith(b"#"):
            words = text.split()
            if words[:2] == [b"#", b"TYPE"] and len(words) > 2:
                self._declaration(words[2].strip(b'"'), b" ".join(words[3:]).decode(), start, start + len(line))
            elif line == b"\n# EOF":
                self._eof = True
                if start + len(line) != len(self._text) - 1:
                    self._refuse("syntax", "text after # EOF", start)
            return None
        if text.startswith(b"{"):
            quoted = _QUOTED_NAME.fullmatch(text)
            if quoted is None:
                self._refuse("syntax", f"no name in {_clip(text)}", start)
            text = quoted[1] + b"{" + quoted[2]
        named = _NAMED.fullmatch(text)
        entry = self._wanted.samples.get(b"\n" + named[1]) if named else None
        if named is None or entry is None:
            return None
        return entry, named[3] if named[2] else b"}" + named[3]

    def _declaration(self, name: bytes, kind: str, start: int, end: int) -> None:
        family, types = self._wanted.declarations.get(name, ("", _SIMPLE))
        if not family or (kind not in types and name != family.encode()):
            return  # the second: a family of its own that looks like OpenMetrics' short name of a wanted one
        if kind not in types:
            self._refuse("syntax", f"{family} has the type {_clip(kind.encode())}", start)
        if family in self._families:
            after = self._families[family].samples
            self._refuse("order", f"{family} is declared {'after its samples' if after else 'twice'}", start)
        self._open(Family(family, kind, [], True), name)
        self._end = end

    def _others(self, start: int, end: int) -> bool:
        """Whether these lines hold anything that is not of the group: the sign that the group is over."""
        while 0 <= start < end - 1:
            stop = self._text.find(b"\n", start + 1, end)
            words = self._text[start + 1 : stop if stop >= 0 else end].split(None, 3)
            if words and not self._is_own(words):
                return True
            start = stop
        return False

    def _is_own(self, words: list[bytes]) -> bool:
        """Whether a line may stand inside the group: a comment, its own HELP or UNIT, a sample of it."""
        if words[0].startswith(b"#"):
            spoken = words[0] == b"#" and len(words) > 2 and words[1] in (b"HELP", b"TYPE", b"UNIT")
            return not spoken or (words[1] != b"TYPE" and words[2] == self._written)
        name = words[0].partition(b"{")[0]
        return name.startswith(self._written) and name[len(self._written) :] in _SUFFIXES

    def _doubtful(self, sample: str, rest: bytes, start: int) -> tuple[_Labels, bytes]:
        """A sample that has an OpenMetrics exemplar, which is not read, or is broken, which is refused."""
        try:
            return _split(_EXEMPLAR.sub(b"", rest))
        except ValueError:
            end = rest.rfind(b"}") + 1
            reason = "not_finite" if _NOT_FINITE.fullmatch(rest, end) else "syntax"
            self._refuse(reason, f"{sample} cannot be read at {_clip(rest)}", start)

    def _check_count(self, sample: str, count: int, info: bool, start: int) -> None:
        most = self._limits.info_labels if info else self._limits.labels
        if count > most:
            self._refuse("too_many_labels", f"{sample} has {count} labels or more, {most} are allowed", start)

    def _check_longest(self, sample: str, size: int, info: bool, start: int) -> None:
        most = self._limits.info_label_bytes if info else self._limits.label_bytes
        if size > most:
            self._refuse("label_too_long", f"{sample} has a label of {size} bytes, {most} are allowed", start)

    def _refuse(self, reason: str, what: str, position: int) -> NoReturn:
        raise ExpositionError(reason, f"line {_line(self._text, position)}: {what}")


def _clip(raw: bytes) -> str:
    """What an error may show of a page: short, printable, one line."""
    return ascii(raw[:40].decode(errors="replace").strip(" \t")) + ("..." if len(raw) > 40 else "")
