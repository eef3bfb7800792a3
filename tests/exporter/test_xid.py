"""The Xid table: every code has a row, and every row can be acted on."""

import re

import pytest

from exporter.core import xid
from exporter.core.findings import ACTIONS

#: All codes that NVIDIA's catalogue (2025-10) and the driver's header name for what data-centre GPUs report. What the
#: catalogue calls unused it sends to support, which is what UNLISTED does.
CODES = (
    {8, 11, 13, 14, 25, 31, 32, 37, 38, 39, 40, 41, 43, 44, 45, 46, 48, 54, 60, 61, 62, 63, 64, 66, 67, 68, 69}
    | set(range(70, 73)) | set(range(74, 81)) | set(range(82, 87)) | {88, 89} | set(range(92, 111))
    | set(range(119, 138)) | set(range(139, 177))
)  # fmt: skip


def test_every_code_has_one_row() -> None:
    assert len(CODES) == 120
    assert set(xid.XIDS) == CODES


@pytest.mark.parametrize("row", xid.XIDS.values(), ids=lambda row: str(row.code))
def test_a_row_can_be_acted_on(row: xid.Xid) -> None:
    assert row.kind in xid.CLASSES
    assert row.action in ACTIONS
    assert re.fullmatch(r"[a-z][a-z0-9_]+", row.name)
    for text in (row.meaning, row.because):
        assert text[0].isupper()
        assert not text.endswith(".")
        assert text == text.strip()
    # What has no consequence asks for nothing, and the other way round.
    assert (row.kind == "info") == (row.action == "none")
    assert (row.kind in ("application",)) <= (row.action == "restart_app")
    if row.fatal_kind:
        assert row.fatal_kind in ("critical", "lost")
        assert row.fatal_action in ACTIONS
        assert xid.CLASSES.index(row.fatal_kind) < xid.CLASSES.index(row.kind)
    else:
        assert not row.fatal_action


@pytest.mark.parametrize("row", xid.XIDS.values(), ids=lambda row: str(row.code))
def test_a_row_says_whose_word_it_rests_on_and_who_disagrees(row: xid.Xid) -> None:
    assert row.source.startswith("NVIDIA ")
    agents = ("DCGM 4.6 health: ", "gpud: ", "EKS: ", "device plugin: ", "Meta GCM: ")
    assert row.source.endswith("; the other agents were not compared") or all(agent in row.source for agent in agents)


def test_codes_of_which_nvidia_alone_was_asked_follow_nvidia() -> None:
    alone = [row for row in xid.XIDS.values() if "not compared" in row.source]
    assert len(alone) == 37
    for row in alone:
        assert (": RESTART_APP, " in row.source, row.kind) in ((True, "application"), (False, "info"))
        assert (": IGNORE, " in row.source) == (row.kind == "info")


def test_every_row_has_a_reason_of_its_own() -> None:
    assert len({row.because for row in xid.XIDS.values()}) == len(xid.XIDS)
    assert len({row.meaning for row in xid.XIDS.values()}) == len(xid.XIDS)


def test_every_class_is_used() -> None:
    assert {row.kind for row in xid.XIDS.values()} == set(xid.CLASSES)


def test_what_nvlink_5_calls_fatal_is_critical() -> None:
    assert {row.code for row in xid.XIDS.values() if row.fatal_kind} == set(range(144, 150))
    assert xid.of(149).under("fatal") == ("xid_149_fatal", "critical", "reset_gpu")
    assert xid.of(148).under("fatal") == ("xid_148_fatal", "critical", "reset_gpu")
    assert xid.of(148).under("nonfatal") == ("xid_148", "info", "none")
    # All that the catalogue has of it is fatal.
    assert xid.of(150).under("fatal") == xid.of(150).under("") == ("xid_150", "critical", "reset_gpu")
    assert xid.of(149).under("nonfatal") == xid.of(149).under("") == ("xid_149", "degraded", "drain")
    assert xid.of(48).under("fatal") == ("xid_48", "memory", "reset_gpu")


def test_names_are_unique() -> None:
    assert len({row.name for row in xid.XIDS.values()}) == len(xid.XIDS)


@pytest.mark.parametrize(
    ("code", "kind", "action"),
    [
        (79, "lost", "reboot_node"),  # NVIDIA: RESTART_BM
        (48, "memory", "reset_gpu"),  # NVIDIA: WORKFLOW_XID_48; Xid 94 says whether it was contained
        (109, "critical", "reset_gpu"),  # NVIDIA: RESET_GPU; k8s-device-plugin ignores it
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
        (32, "degraded", "restart_app"),  # NVIDIA: RESTART_APP, but mostly the quality of PCI
        (74, "critical", "reset_gpu"),  # NVIDIA: WORKFLOW_NVLINK_ERR, also raised by the peers of a GPU that fails
        (155, "degraded", "contact_support"),  # NVIDIA: RESET_GPU, but links that go to sleep raise it
        (70, "application", "restart_app"),  # NVIDIA: RESTART_APP, like its copy engine 0
        (14, "info", "none"),  # NVIDIA: IGNORE
        (106, "info", "none"),  # NVIDIA: IGNORE
    ],
)
def test_rows_that_others_build_on(code: int, kind: str, action: str) -> None:
    assert (xid.of(code).kind, xid.of(code).action) == (kind, action)


def test_a_code_that_is_not_listed_is_not_taken_for_harmless() -> None:
    assert xid.of(9999) is xid.UNLISTED
    assert xid.UNLISTED.kind == "degraded"
    assert xid.of(9999).under("") == ("xid_unlisted", "degraded", "contact_support")


HEAD = "\t".join(xid.COLUMNS) + "\n"
REST = "\t\t\tMeaning\tBecause\tsource\n"


def test_a_table_is_read() -> None:
    row = xid.load(HEAD + "1\ta\tdegraded\tdrain\tcritical\treset_gpu\tMeaning\tBecause\tsource\n")[1]
    assert row == xid.Xid(1, "a", "degraded", "drain", "critical", "reset_gpu", "Meaning", "Because", "source")


@pytest.mark.parametrize(
    "text",
    [
        "code\tname\n",
        HEAD + "1\ta\twhatever\tnone" + REST,
        HEAD + "1\ta\tdegraded\tdrain\twhatever\treset_gpu\tMeaning\tBecause\tsource\n",
        HEAD + ("1\ta\tinfo\tnone" + REST) * 2,
        HEAD + "x\ta\tinfo\tnone" + REST,
        HEAD + "1\ta\tinfo\tnone\n",
    ],
    ids=["head", "class", "fatal class", "twice", "code", "short"],
)
def test_a_bad_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the table is ours; that it is refused is what counts
        xid.load(text)
