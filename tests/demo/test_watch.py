"""What the demo shows of the exporter is what the exporter's page says."""

import pytest

from scaler.demo.watch import Gpu, read

PAGE = """\
# TYPE plimsoll_engine_requests_waiting gauge
plimsoll_engine_requests_waiting{pod="a"} 3
plimsoll_engine_requests_waiting{pod="b"} 4
# TYPE plimsoll_engine_requests_running gauge
plimsoll_engine_requests_running{pod="a"} 1
# TYPE plimsoll_gpu_health_state gauge
plimsoll_gpu_health_state{gpu="0",state="healthy"} 1
plimsoll_gpu_health_state{gpu="0",state="lost"} 0
plimsoll_gpu_health_state{gpu="1",state="healthy"} 0
plimsoll_gpu_health_state{gpu="1",state="lost"} 1
plimsoll_gpu_health_state{gpu="2",state="healthy"} 1
# TYPE plimsoll_gpu_health_reason gauge
plimsoll_gpu_health_reason{gpu="1",reason="xid_79",action="reset_gpu"} 1
"""


def test_engines_are_summed_and_gpus_have_one_state() -> None:
    seen = read(PAGE)
    assert (seen.waiting, seen.running, seen.engines) == (7, 1, 1)
    assert seen.gpus == {
        "0": Gpu("healthy"),
        "1": Gpu("lost", (("xid_79", "reset_gpu"),)),
        "2": Gpu("healthy"),
    }
    assert seen.summary() == "2 healthy 1 lost"


def test_what_is_no_exposition_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        read("no snapshot yet; ask again\n")
