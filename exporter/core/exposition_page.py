"""One pass over a page: its wanted lines, in the order and the groups in which they have to be.

May not be in here: what a single line may look like (exposition_lines.py), what is wanted (exposition_wanted.py).
"""

from typing import NoReturn

from exporter.core.exposition_blocks import Family
from exporter.core.exposition_errors import ExpositionError, Limits, clip, line_number
from exporter.core.exposition_histograms import fold
from exporter.core.exposition_lines import EXEMPLAR, NAMED, NOT_FINITE, QUOTED_NAME, Labels, split
from exporter.core.exposition_wanted import LOWEST, SIMPLE, Entry, Wanted

_INF = float("inf")
_NEWLINE, _COMMENT = b"\n#"
#: What is neither blank nor printable ASCII: in front of a name, it hides a line from who does not strip it.
_NOISE = bytes(range(33)) + bytes(range(127, 256))
_SUFFIXES = (b"", b"_bucket", b"_count", b"_created", b"_info", b"_sum", b"_total")


class Page:
    """`text` is the body with a newline before it, so that every line starts with one."""

    def __init__(self, text: bytes, wanted: Wanted, limits: Limits) -> None:
        self._text = text
        self._wanted = wanted
        self._limits = limits
        self._short = min(5 * limits.labels, limits.label_bytes)  # a label takes five bytes: below, none breaks a limit
        self._families: dict[str, Family] = {}
        self._group = Family("", "", [], [], True)  # the family in whose group the pass is
        self._written = b""  # the group's name as this page writes it; not set while `_known`
        self._start = 0  # of the group
        self._end = 0  # of the group's last line so far
        self._known = False  # the group was read as a block that is known, so that `_seen` lacks its samples
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()  # samples of the group
        self._taken = 0  # samples so far
        self._eof = False

    def read(self) -> dict[str, Family]:
        """The families by name. Raises ExpositionError."""
        search, known, text, families = self._wanted.scan.search, self._wanted.blocks.read, self._text, self._families
        end = 0
        while found := search(text, end):
            start, end = found.span()
            if text[start + 1] != _COMMENT:
                end = text.find(b"\n", end)
                self._line(text[start:end], start)
                continue
            # A declaration, most likely, and the lines up to the next comment.
            end = text.find(b"#", end) - 1
            if end < 0 or text[end] != _NEWLINE:
                end = self._block_end(found.end())
            family = known(text[start:end], self._limits)
            if family is None or family.name in families:
                self._lines(start, end)
                self._learn(start, end)
            else:
                self._take(family, start, end)

        if self._group.name and not self._eof and not self._others(self._end, len(text)):
            families[self._group.name] = self._group._replace(complete=False)
        for name in self._wanted.histograms:
            if name in families and (samples := families[name].samples):
                families[name].histograms.extend(fold(samples))
                samples.clear()
        return families

    def _block_end(self, start: int) -> int:
        """Where the lines from `start` on end: at a comment, or at the page's last newline."""
        end = self._text.find(b"\n#", start)
        return end if end >= 0 else len(self._text) - 1

    def _take(self, family: Family, start: int, end: int) -> None:
        """A group that was read as a block."""
        self._families[family.name] = self._group = family
        self._written, self._start, self._end, self._known = b"", start, end, True
        self._count(_size(family), start)

    def _learn(self, start: int, end: int) -> None:
        """Remember the block that was just read line by line, if all of it is one family."""
        samples, blocks = self._group.samples, self._wanted.blocks
        if not samples or self._start != start or self._end != end:
            return
        text, entry = self._text[start:end], self._wanted.samples[b"\n" + samples[0][0].encode()]
        blocks.learn(text, self._group, entry.least, self._limits)
        if self._group.type == "histogram" and (family := blocks.read(text, self._limits)) is not None:
            self._taken -= len(samples)
            self._take(family, start, end)

    def _lines(self, start: int, end: int) -> None:
        for found in self._wanted.scan.finditer(self._text, start, end):
            at = self._text.find(b"\n", found.end(), end)
            self._line(self._text[found.start() : at if at >= 0 else end], found.start())

    def _line(self, line: bytes, start: int) -> None:
        name, _, rest = line.partition(b"{")
        entry = self._wanted.samples.get(name)
        if entry is None:
            found = self._rare(line, start)
            if found is None:
                return
            entry, rest = found
        family, sample, least, info = entry
        if family != self._group.name:
            if family in self._families:
                self._refuse("order", f"{family} is in several places of the page", start)
            self._open(Family(family, "untyped", [], [], True), family.encode(), start)
        elif start != self._end and self._others(self._end, start):
            self._refuse("order", f"{family} is in several places of the page", start)
        if self._known:  # and goes on: what was read as a block is needed line by line
            self._count(-_size(self._families.pop(family)), start)
            self._lines(self._start, self._end)
        self._end = start + len(line)

        if len(rest) > self._short:
            # Before they are taken apart, as thousands cost milliseconds. A label has at most two `="`.
            self._check_count(sample, rest.count(b'="') // 2, info, start)
        try:
            labels, number = split(rest)
        except ValueError:
            labels, number = self._doubtful(sample, rest, start)
        if len(rest) > self._short:
            self._check_count(sample, len(labels.values), info, start)
            self._check_longest(sample, labels.longest, info, start)
        value = float(number)
        if not least <= value < _INF:
            reason = "negative" if LOWEST <= value < 0 else "not_finite"
            self._refuse(reason, f"{sample} has the value {clip(number)}", start)
        if (sample, labels.series) in self._seen:
            self._refuse("duplicate", f"{sample} is there twice with the same labels", start)
        self._seen.add((sample, labels.series))
        self._group.samples.append((sample, labels.values, value))
        self._count(1, start)

    def _count(self, samples: int, start: int) -> None:
        self._taken += samples
        if self._taken > self._limits.wanted:
            self._refuse("too_many_samples", f"there are more than {self._limits.wanted} samples to be read", start)

    def _open(self, family: Family, written: bytes, start: int) -> None:
        self._families[family.name] = self._group = family
        self._written, self._start = written, start
        self._known, self._seen = False, set()

    def _rare(self, line: bytes, start: int) -> tuple[Entry, bytes] | None:
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
            quoted = QUOTED_NAME.fullmatch(text)
            if quoted is None:
                self._refuse("syntax", f"no name in {clip(text)}", start)
            text = quoted[1] + b"{" + quoted[2]
        named = NAMED.fullmatch(text) or NAMED.match(text.lstrip(_NOISE))
        entry = self._wanted.samples.get(b"\n" + named[1]) if named else None
        if named is None or entry is None:
            return None
        if named.string is not text or named[0] != text:
            self._refuse("syntax", f"{entry.sample} cannot be read at {clip(text)}", start)
        return entry, named[3] if named[2] else b"}" + named[3]

    def _declaration(self, name: bytes, kind: str, start: int, end: int) -> None:
        family, types = self._wanted.declarations.get(name, ("", SIMPLE))
        if not family or (kind not in types and name != family.encode()):
            return  # the second: a family of its own that looks like OpenMetrics' short name of a wanted one
        if kind not in types:
            self._refuse("syntax", f"{family} has the type {clip(kind.encode())}", start)
        if family in self._families:
            after = self._families[family].samples or self._families[family].histograms
            self._refuse("order", f"{family} is declared {'after its samples' if after else 'twice'}", start)
        self._open(Family(family, kind, [], [], True), name, start)
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
        written = self._written
        if self._known:
            written = self._text[self._start : self._end].split(None, 3)[2].strip(b'"')
        if words[0].startswith(b"#"):
            spoken = words[0] == b"#" and len(words) > 2 and words[1] in (b"HELP", b"TYPE", b"UNIT")
            return not spoken or (words[1] != b"TYPE" and words[2] == written)
        name = words[0].partition(b"{")[0]
        return name.startswith(written) and name[len(written) :] in _SUFFIXES

    def _doubtful(self, sample: str, rest: bytes, start: int) -> tuple[Labels, bytes]:
        """A sample that has an OpenMetrics exemplar, which is not read, or is broken, which is refused."""
        try:
            return split(EXEMPLAR.sub(b"", rest))
        except ValueError:
            end = rest.rfind(b"}") + 1
            reason = "not_finite" if NOT_FINITE.fullmatch(rest, end) else "syntax"
            self._refuse(reason, f"{sample} cannot be read at {clip(rest)}", start)

    def _check_count(self, sample: str, count: int, info: bool, start: int) -> None:
        most = self._limits.info_labels if info else self._limits.labels
        if count > most:
            self._refuse("too_many_labels", f"{sample} has {count} labels or more, {most} are allowed", start)

    def _check_longest(self, sample: str, size: int, info: bool, start: int) -> None:
        most = self._limits.info_label_bytes if info else self._limits.label_bytes
        if size > most:
            self._refuse("label_too_long", f"{sample} has a label of {size} bytes, {most} are allowed", start)

    def _refuse(self, reason: str, what: str, position: int) -> NoReturn:
        raise ExpositionError(reason, f"line {line_number(self._text, position)}: {what}")


def _size(family: Family) -> int:
    """Its lines that are samples."""
    return len(family.samples) + sum(len(h.edges) + 1 + (h.sum is not None) for _, h in family.histograms)
