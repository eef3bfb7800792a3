"""The whole of /metrics over every recorded page: what a change does to the output is seen in the review.

`make goldens` writes tests/golden/ again. Process metrics and versions are left out, times are fixed.
"""

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import publish
from exporter.core import dcgm, engines
from exporter.core.exposition import ExpositionError
from exporter.core.model import PodRef
from exporter.core.model_engines import EngineScrape, EngineTarget
from exporter.core.node import NodeMemory, step
from exporter.core.snapshot import Collector
from tests.exporter.build import START, inputs, sample

FIXTURES = Path(__file__).parents[1] / "fixtures"
ENGINES = sorted((FIXTURES / "engines").glob("*.txt"))
DCGM = sorted((FIXTURES / "dcgm").glob("*.prom"))
ALL_SIGNALS = "gpu-all-signals"
BUSY = FIXTURES / "engines" / "vllm-0.32.0-busy-queue.txt"

FORMATS = pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])


def read(path, target):
    """What sources/engines.py makes of the page."""
    try:
        answer = engines.read(path.read_bytes())
    except ExpositionError as error:
        return EngineScrape(target, START, 0.01, error=error.reason, message=f"{target.url}: {error}")
    return EngineScrape(target, START, 0.01, *answer)


def whole(openmetrics, scrape, gpus):
    url = scrape.target.url
    good = {} if scrape.error else {url: scrape}
    said = inputs(
        samples=gpus,
        targets=(scrape.target,),
        scrapes={url: scrape},
        last_good=good,
        scrape_errors={(url, scrape.error): 1} if scrape.error else {},
        collectors=(Collector("engines", not scrape.error, 0.01, START if good else None, scrape.message),),
    )
    snapshot, _ = step(NodeMemory(), said, START)
    text = publish.render(snapshot, START + 0.5, 1_700_000_000.0, openmetrics).decode()
    shown = {
        one.name: one.value
        for family in (parse_openmetrics if openmetrics else parse_text)(text)
        for one in family.samples
    }
    assert shown["plimsoll_build_info"] == 1
    return re.sub(r"(?<=plimsoll_build_info)\{.*\}", "{...}", text)


def name(stem, openmetrics):
    return f"{stem}.{'openmetrics' if openmetrics else 'prom'}"


@FORMATS
@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.stem)
def test_golden_engine(path, openmetrics, golden):
    """A server's page, on a box of whose GPUs nothing is known."""
    scrape = read(path, EngineTarget("http://127.0.0.1:8000/metrics"))
    golden(name(path.stem, openmetrics), whole(openmetrics, scrape, []))


@FORMATS
@pytest.mark.parametrize("path", DCGM, ids=lambda path: path.stem)
def test_golden_dcgm(path, openmetrics, golden):
    """dcgm-exporter's page alone, with a server in one of the pods that it names."""
    target = EngineTarget("http://10.0.0.7:8000/metrics", PodRef("inference", "llama70b-0", "vllm"))
    gpus = dcgm.scrape(path.read_bytes(), START).samples
    golden(name(path.stem, openmetrics), whole(openmetrics, read(BUSY, target), gpus))


@FORMATS
def test_golden_all_signals(openmetrics, golden):
    """A GPU of which everything could be read, and the server on it."""
    scrape = read(BUSY, EngineTarget("http://127.0.0.1:8000/metrics"))
    golden(name(ALL_SIGNALS, openmetrics), whole(openmetrics, scrape, [sample()]))


def test_golden_outputs_all_have_their_test():
    kept = {path.name for path in (Path(__file__).parents[1] / "golden").iterdir() if path.is_file()}
    stems = [*(path.stem for path in (*ENGINES, *DCGM)), ALL_SIGNALS]
    assert kept == {name(stem, openmetrics) for stem in stems for openmetrics in (False, True)}
