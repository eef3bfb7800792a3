"""The Xid table: every code has a row, and every row can be acted on."""

import re

import pytest

from exporter.core import xid
from exporter.core.health import ACTIONS

#: All codes that NVIDIA's catalogue (2025-10) and the driver's header name for what data-centre GPUs report.
CODES = (
    {8, 11, 13, 25, 31, 32, 37, 38, 39, 40, 41, 43, 44, 45, 46, 48, 54}
    | {60, 61, 62, 63, 64, 66, 67, 68, 69, 74, 78, 79, 80}
    | {92, 93, 94, 95, 108, 109, 110, 119, 120, 121, 122, 123, 124, 125, 136, 137}
    | set(range(140, 177))
)  # fmt: skip


def test_every_code_has_one_row() -> None:
    assert len(CODES) == 83
    assert set(xid.XIDS) == CODES


@pytest.mark.parametrize("row", xid.XIDS.values(), ids=lambda row: str(row.code))
def test_a_row_can_be_acted_on(row: xid.Xid) -> None:
    assert row.kind in xid.CLASSES
    assert row.action in ACTIONS
    assert re.fullmatch(r"[a-z][a-z0-9_]+", row.name)
    assert row.reason[0].isupper()
    assert not row.reason.endswith(".")
    assert row.source
    # What has no consequence asks for nothing, and the other way round.
    assert (row.kind == "info") == (row.action == "none")


def test_names_are_unique() -> None:
    assert len({row.name for row in xid.XIDS.values()}) == len(xid.XIDS)


@pytest.mark.parametrize(
    ("code", "kind", "action"),
    [
        (79, "lost", "reboot_node"),  # NVIDIA: RESTART_BM
        (48, "critical", "reset_gpu"),  # NVIDIA: WORKFLOW_XID_48
        (54, "critical", "check_cabling"),  # NVIDIA: CHECK_MECHANICALS
        (63, "degraded", "drain"),  # NVIDIA: IGNORE, takes effect at the next reset
        (64, "critical", "reset_gpu"),  # NVIDIA: RESET_GPU
        (94, "degraded", "restart_app"),  # NVIDIA: RESTART_APP
        (95, "critical", "reset_gpu"),  # NVIDIA: RESET_GPU
        (119, "critical", "reset_gpu"),  # NVIDIA: RESET_GPU
        (13, "application", "restart_app"),  # k8s-device-plugin ignores it
        (31, "application", "restart_app"),  # k8s-device-plugin ignores it
        (43, "application", "restart_app"),  # k8s-device-plugin ignores it
        (45, "application", "restart_app"),  # follows another Xid or a killed process
        (154, "info", "none"),  # the recovery action itself is read
    ],
)
def test_rows_that_others_build_on(code: int, kind: str, action: str) -> None:
    assert (xid.of(code).kind, xid.of(code).action) == (kind, action)


def test_a_code_that_is_not_listed_is_not_taken_for_harmless() -> None:
    assert xid.of(9999) is xid.UNLISTED
    assert xid.UNLISTED.kind == "degraded"


HEAD = "code\tname\tclass\taction\treason\tsource\n"


@pytest.mark.parametrize(
    "text",
    [
        "code\tname\n",
        HEAD + "1\ta\twhatever\tnone\tText\tsource\n",
        HEAD + "1\ta\tinfo\tnone\tText\tsource\n" * 2,
        HEAD + "x\ta\tinfo\tnone\tText\tsource\n",
    ],
    ids=["head", "class", "twice", "code"],
)
def test_a_bad_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the table is ours; that it is refused is what counts
        xid.load(text)
