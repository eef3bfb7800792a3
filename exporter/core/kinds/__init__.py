"""Which metric of which inference server holds which of our numbers: data, a module a kind of server.

May not be in here: behaviour (engines.py reads by these tables). Another server is a module here, a fixture and its
expected reading; a version with new names is a name in a row, and a fixture.
"""

from exporter.core.kinds.llamacpp import LLAMACPP
from exporter.core.kinds.sglang import SGLANG
from exporter.core.kinds.strangers import STRANGERS
from exporter.core.kinds.table import Kind
from exporter.core.kinds.tgi import TGI
from exporter.core.kinds.triton import TRITON
from exporter.core.kinds.trtllm import TRTLLM
from exporter.core.kinds.vllm import VLLM

#: In the order in which a page is held against them. No two have a family in common.
KINDS: tuple[Kind, ...] = (VLLM, SGLANG, TGI, TRITON, TRTLLM, LLAMACPP)

#: Kinds that count a request's tokens when it ends: while a long one runs, a counter that stands still tells nothing.
COUNTED_LATE: frozenset[str] = frozenset(kind.name for kind in KINDS if kind.counted_late)

__all__ = ["COUNTED_LATE", "KINDS", "STRANGERS", "Kind"]
