"""Every check, in the order of the report. docs/doctor.md is the same table for people.

May not be in here: the checks themselves.
"""

from typing import NamedTuple

from exporter.doctor.checks import dcgm, driver, engines, exporter, gpus, kmsg, kubelet, kubernetes
from exporter.doctor.look import Check, Look
from exporter.doctor.report import Result


class Row(NamedTuple):
    id: str  # topic.name; it stays what it is once it was released
    check: Check  # the question that it answers is its docstring


CHECKS: tuple[Row, ...] = (
    Row("driver.library", driver.library),
    Row("driver.nvml", driver.nvml),
    Row("driver.version", driver.version),
    Row("driver.devices", driver.devices),
    Row("driver.container", driver.container),
    Row("driver.gpus", driver.gpus),
    Row("gpus.verdict", gpus.verdict),
    Row("gpus.parts", gpus.parts),
    Row("gpus.xids", gpus.xids),
    Row("gpus.recovery", gpus.recovery),
    Row("gpus.processes", gpus.processes),
    Row("gpus.mig", gpus.mig),
    Row("kmsg.log", kmsg.log),
    Row("kubelet.socket", kubelet.socket),
    Row("kubelet.offers", kubelet.offers),
    Row("kubelet.devices", kubelet.devices),
    Row("dcgm.page", dcgm.page),
    Row("dcgm.gpus", dcgm.gpus),
    Row("dcgm.counters", dcgm.counters),
    Row("kubernetes.pods", kubernetes.pods),
    Row("engines.page", engines.page),
    Row("engines.numbers", engines.numbers),
    Row("engines.gpus", engines.gpus),
    Row("engines.memory", engines.memory),
    Row("exporter.ports", exporter.ports),
    Row("exporter.state", exporter.state),
    Row("exporter.boot", exporter.boot),
    Row("exporter.memory", exporter.memory),
)


def look_at(look: Look) -> tuple[Result, ...]:
    """What every check says. One that crashes is a failure of its own."""
    results: list[Result] = []
    for row in CHECKS:
        try:
            said = list(row.check(look))
        except Exception as error:
            fix = "please report it with the output of --json"
            results.append(Result(row.id, "", "fail", f"the check crashed ({type(error).__name__}: {error})", fix))
            continue
        results += [Result(row.id, each.subject, each.status, each.found, each.fix) for each in said]
    return tuple(results)
