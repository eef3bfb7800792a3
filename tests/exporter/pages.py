"""Metrics pages for tests: the captured ones, and ones that are made of them."""

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

FIXTURES = Path(__file__).parents[1] / "fixtures" / "engines"
PAGES = sorted(path.name for path in FIXTURES.glob("*.txt"))

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def page(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def busy_dp2() -> bytes:
    """The captured page of two idle engines behind one URL, with a number of its own in every vLLM sample."""
    lines: list[str] = []
    for number, line in enumerate(page("vllm-0.32.0-dp2-idle.txt").decode().splitlines(), start=1):
        sample = re.fullmatch(r"(vllm:(?!cache_config_info|engine_sleep_state)\S+\{.*\}) \S+", line)
        lines.append(f"{sample[1]} {number}.0" if sample else line)
        gauge = re.fullmatch(r"# TYPE (vllm:(?:num_requests_(?:running|waiting)|kv_cache_usage_perc)) gauge", line)
        if gauge:
            scale = 0.01 if "usage" in line else 1
            lines += [
                f'{gauge[1]}{{engine="{engine}",model_name="tiny"}} {(number + engine) * scale}' for engine in (0, 1)
            ]
    return "\n".join(lines).encode() + b"\n"


def multiplied(body: bytes, engines: int) -> bytes:
    """One well-formed page of a server with so many engines: every series once for each, families kept together."""
    lines: list[bytes] = []
    group: list[bytes] = []
    for line in [*body.splitlines(), b"#"]:
        if not line.startswith(b"#"):
            group.append(line)
            continue
        lines += [_of_engine(sample, number) for number in range(engines) for sample in group]
        group = []
        lines.append(line)
    return b"\n".join(lines[:-1]) + b"\n"


def _of_engine(sample: bytes, number: int) -> bytes:
    if b'engine="0"' in sample:
        return sample.replace(b'engine="0"', b'engine="%d"' % number)
    name, brace, rest = sample.partition(b"{")
    if brace:
        return b'%s{replica="%d",%s' % (name, number, rest)
    name, _, value = sample.rpartition(b" ")
    return b'%s{replica="%d"} %s' % (name, number, value)


def by_client_library(body: bytes, names: Iterable[bytes], openmetrics: bool = False) -> Series:
    """What prometheus_client reads: every sample of these names. Raises ValueError."""
    families = (openmetrics_families if openmetrics else text_families)(body.decode())
    wanted = {name.decode().strip() for name in names}
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name in wanted
    }
