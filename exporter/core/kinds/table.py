"""The form of the tables in this package: which metric of which inference server holds which of our numbers.

May not be in here: names of metrics (a module a server has them), behaviour (engines.py, engine_values.py).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

#: one: the engine's sample. add: the sum of its samples, which are parts of a whole. by: its samples by their
#: `label`, or their sum under `key`. off: whether its sample is 0. sum: over the samples of the whole server, which
#: its first engine carries. tokens: a product of labels of the engine's info sample. labels: what its info sample
#: says of its configuration. text: its sample, as the text of `key`. newest: how many names the label lists in the
#: sample with the highest value. histogram: the engine's histogram. histograms: the sum of its histograms.
How = Literal["one", "add", "by", "off", "sum", "tokens", "labels", "text", "newest", "histogram", "histograms"]
HISTOGRAMS: tuple[How, ...] = ("histogram", "histograms")


class Named(NamedTuple):
    """A family, and which of its samples are meant."""

    names: tuple[str, ...]  # newest first; the first that the page has is read, the others are never added to it
    where: Mapping[str, tuple[str, ...]] = {}  # label -> the values it may have; "" is also a label that is not there


class Row(NamedTuple):
    """Where one field of model_engines.EngineReading comes from.

    Of several rows with one field, the first whose family the page has is read; fields that are mappings (finished,
    config) are put together from all of them.
    """

    field: str
    how: How
    names: tuple[str, ...]  # as in Named
    source: str  # since when, and who says so
    where: Mapping[str, tuple[str, ...]] = {}
    plus: tuple[Named, ...] = ()  # added where the page has them
    times: tuple[Named, ...] = ()  # multiplied by, each is needed
    label: str = ""
    key: str = ""
    keys: Mapping[str, str] = {}  # of the configuration: our key -> the server's label
    unless: Mapping[str, str] = {}  # our key -> the label that overrules what it says
    products: tuple[tuple[str, ...], ...] = ()  # labels to multiply: the first whose labels are all numbers is taken
    scale: float = 1.0  # their unit in ours
    least: float = 0.0  # outside of these two, the number is not what the name says: missing
    most: float = 1e15  # a double counts exactly to 9e15
    signed: bool = False  # the server writes numbers below zero for "unknown"
    required: bool = False  # without this family the page is blind
    expected: bool = False  # every version that we know has it: without it, the names have drifted
    silent: bool = False  # reads 0 while the engine has produced nothing and the family is declared without a sample
    naming: bool = True  # a series of it tells that there is such an engine


class Kind(NamedTuple):
    """One kind of server."""

    name: str
    model_label: str  # "": it does not name its model
    engine_label: str  # several engines behind one URL (data parallelism) differ in it; "": there is only one
    rows: tuple[Row, ...]
    foreign_labels: frozenset[str] = frozenset()  # a series with one of these is a gateway's, about other servers
    counters: tuple[str, ...] = ()  # fields that tell whether an engine has produced anything; (): cannot be told
    copies: tuple[str, ...] = ()  # labels of processes that tell of the same work: the lowest of them speaks
    counted_late: bool = False  # tokens are counted when a request ends: no progress for a while tells nothing


class Stranger(NamedTuple):
    """A page that is known, and is no engine's."""

    name: str
    families: tuple[str, ...]
    reason: str  # of exposition_errors.REASONS, which has the fix
    why: str
    source: str
