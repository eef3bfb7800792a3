"""Every recorded page reads as exactly this: nothing more, nothing less, in our units.

What the pages are: tests/fixtures/README.md. A histogram is written as how many edges it has, what was observed between
an edge and the one before it (0 is left out), and its sum.
"""

from typing import Any

import pytest
from msgspec.structs import asdict
from prometheus_client.parser import text_string_to_metric_families

from exporter.core.engines import read
from exporter.core.exposition import ExpositionError
from exporter.core.kinds import KINDS
from exporter.core.kinds.table import HISTOGRAMS
from exporter.core.model_engines import EngineReading, Histogram
from tests.exporter.pages import PAGES, page

INF = float("inf")

#: Page -> kind, and what is not missing of each reading.
READINGS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "dynamo-1.0-vllm-worker.txt": (
        "vllm",
        [
            {
                "model": "qwen3-32b",
                "engine": "0",
                "waiting": 5.0,
                "running": 32.0,
                "kv_usage": 0.75,
                "kv_capacity_tokens": 131072.0,
                "prompt_tokens_total": 210000.0,
                "generation_tokens_total": 98000.0,
                "finished": {"stop": 370.0, "length": 5.0, "abort": 0.0, "error": 0.0},
                "ttft": (23, {0.5: 300.0, 2.5: 107.0}, 412.5),
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "fp8",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "llamacpp-b10380-busy.txt": (
        "llamacpp",
        [
            {
                "model": "",
                "engine": "",
                "waiting": 46.0,
                "running": 4.0,
                "prompt_tokens_total": 6886.0,
                "generation_tokens_total": 3469.0,
            },
        ],
    ),
    "llamacpp-b4000-names.txt": (
        "llamacpp",
        [
            {
                "model": "",
                "engine": "",
                "waiting": 1.0,
                "running": 4.0,
                "kv_usage": 0.55,
                "prompt_tokens_total": 6886.0,
                "generation_tokens_total": 3469.0,
            },
        ],
    ),
    "sglang-0.4.9-names.txt": (
        "sglang",
        [
            {
                "model": "qwen3-32b",
                "engine": "",
                "waiting": 2.0,
                "running": 16.0,
                "kv_usage": 0.4,
                "prompt_tokens_total": 49200.0,
                "generation_tokens_total": 16000.0,
                "prefix_queries_total": 49200.0,
                "finished": {"finished": 120.0},
                "ttft": (19, {0.1: 82.0, 0.2: 38.0}, 22.25),
                "itl": (24, {0.015: 14000.0, 0.03: 1680.0}, 260.5),
                "e2e": (23, {4.0: 103.0, 8.0: 17.0}, 464.5),
            },
        ],
    ),
    "sglang-0.5.23-busy.txt": (
        "sglang",
        [
            {
                "model": "qwen3-32b",
                "engine": "",
                "waiting": 11.0,
                "running": 32.0,
                "kv_usage": 0.83,
                "kv_capacity_tokens": 170000.0,
                "prompt_tokens_total": 63800.0,
                "generation_tokens_total": 24576.0,
                "preemptions_total": 4.0,
                "prefix_queries_total": 49200.0,
                "prefix_hits_total": 12000.0,
                "finished": {"finished": 120.0},
                "ttft": (19, {0.1: 82.0, 0.2: 30.0, 0.6: 1.0, 1.0: 10.0}, 22.25),
                "itl": (24, {0.015: 14000.0, 0.03: 1680.0}, 260.5),
                "queue_time": (41, {0.005: 60.0, 1.0: 50.0, 10.0: 12.0}, 98.25),
                "e2e": (23, {2.0: 3.0, 4.0: 97.0, 8.0: 20.0}, 464.5),
                "config": {"block_tokens": "64"},
            },
        ],
    ),
    "sglang-0.5.23-decode.txt": (
        "sglang",
        [
            {
                "model": "qwen3-32b",
                "engine": "",
                "waiting": 15.0,
                "running": 64.0,
                "kv_usage": 0.97,
                "kv_capacity_tokens": 400000.0,
                "generation_tokens_total": 90000.0,
                "preemptions_total": 0.0,
                "prefix_queries_total": 49200.0,
                "prefix_hits_total": 12000.0,
                "finished": {"finished": 120.0},
                "ttft": (19, {0.1: 82.0, 0.2: 30.0, 0.6: 1.0, 1.0: 10.0}, 22.25),
                "itl": (24, {0.015: 14000.0, 0.03: 1680.0}, 260.5),
                "queue_time": (41, {0.005: 60.0}, 0.25),
                "e2e": (23, {2.0: 3.0, 4.0: 97.0, 8.0: 20.0}, 464.5),
                "config": {"block_tokens": "64"},
            },
        ],
    ),
    "sglang-0.5.23-dp2-all-ranks.txt": (
        "sglang",
        [
            {
                "model": "qwen3-32b",
                "engine": "0",
                "waiting": 3.0,
                "running": 8.0,
                "kv_usage": 0.5,
                "kv_capacity_tokens": 90000.0,
                "prompt_tokens_total": 30000.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 1.0,
                "queue_time": (41, {0.005: 40.0}, 0.125),
                "config": {"block_tokens": "1"},
            },
            {
                "model": "qwen3-32b",
                "engine": "1",
                "waiting": 0.0,
                "running": 6.0,
                "kv_usage": 0.25,
                "kv_capacity_tokens": 90000.0,
                "prompt_tokens_total": 21000.0,
                "generation_tokens_total": 8000.0,
                "preemptions_total": 0.0,
                "queue_time": (41, {0.001: 30.0}, 0.03125),
                "config": {"block_tokens": "1"},
            },
        ],
    ),
    "sglang-0.5.9-prefill.txt": (
        "sglang",
        [
            {
                "model": "qwen3-32b",
                "engine": "",
                "waiting": 11.0,
                "running": 0.0,
                "kv_usage": 0.11,
                "kv_capacity_tokens": 200000.0,
                "prompt_tokens_total": 80000.0,
                "preemptions_total": 0.0,
                "prefix_queries_total": 49200.0,
                "prefix_hits_total": 12000.0,
                "finished": {"finished": 120.0},
                "ttft": (19, {0.1: 82.0, 0.2: 30.0, 0.6: 1.0, 1.0: 10.0}, 22.25),
                "itl": (24, {0.015: 14000.0, 0.03: 1680.0}, 260.5),
                "queue_time": (41, {0.005: 60.0}, 0.25),
                "e2e": (23, {2.0: 3.0, 4.0: 97.0, 8.0: 20.0}, 464.5),
                "config": {"block_tokens": "64"},
            },
        ],
    ),
    "tgi-3.3-busy.txt": (
        "tgi",
        [
            {
                "model": "",
                "engine": "",
                "waiting": 6.0,
                "running": 12.0,
                "kv_capacity_tokens": 65536.0,
                "prompt_tokens_total": 24800.0,
                "generation_tokens_total": 10325.0,
                "rejections_total": 7.0,
                "finished": {"finished": 118.0, "error": 2.0, "abort": 1.0},
                "itl": (41, {0.019462: 118.0}, 2.5),
                "queue_time": (41, {0.000225: 90.0, 1.68341: 28.0}, 60.25),
                "e2e": (41, {3.78768: 100.0, 19.1751: 18.0}, 520.5),
            },
        ],
    ),
    "triton-25.06-trtllm-busy.txt": (
        "triton",
        [
            {
                "model": "tensorrt_llm",
                "engine": "1",
                "waiting": 11.0,
                "running": 24.0,
                "max_running": 64.0,
                "kv_usage": 0.875,
                "kv_capacity_tokens": 409600.0,
                "rejections_total": 5.0,
                "finished": {"finished": 120.0, "error": 3.0, "abort": 3.0},
                "ttft": (5, {0.1: 20.0, 0.5: 80.0, 2.0: 15.0, 5.0: 4.0, INF: 1.0}, 61.5),
                "config": {"block_tokens": "64"},
            },
        ],
    ),
    "trtllm-serve-1.3-busy.txt": (
        "trtllm",
        [
            {
                "model": "llama-3.1-8b",
                "engine": "",
                "waiting": 17.0,
                "running": 48.0,
                "max_running": 48.0,
                "kv_usage": 0.6875,
                "kv_capacity_tokens": 327680.0,
                "prompt_tokens_total": 64000.0,
                "generation_tokens_total": 20400.0,
                "prefix_queries_total": 64000.0,
                "prefix_hits_total": 24576.0,
                "prefix_hit_ratio": 0.375,
                "finished": {"stop": 88.0, "length": 12.0},
                "ttft": (23, {0.25: 70.0, 1.0: 30.0}, 37.5),
                "itl": (20, {0.025: 100.0}, 1.75),
                "queue_time": (22, {0.3: 80.0, 1.0: 20.0}, 24.5),
                "e2e": (22, {5.0: 90.0, 10.0: 10.0}, 365.5),
                "config": {"block_tokens": "32"},
            },
        ],
    ),
    "vllm-0.10.2-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0}, 0.03),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.12.0-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0, 0.05: 1.0}, 0.07),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "sleeping": False,
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.16.0-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0, 0.05: 1.0}, 0.07),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "sleeping": False,
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-after-load-idle.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 0.0,
                "running": 0.0,
                "waiting_by_reason": {"capacity": 0.0, "deferred": 0.0},
                "kv_usage": 0.0,
                "kv_capacity_tokens": 1048576.0,
                "prompt_tokens_total": 6400.0,
                "generation_tokens_total": 12800.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 6400.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 32.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {0.06: 1.0, 0.08: 3.0, 0.75: 4.0, 2.5: 12.0, 5.0: 12.0}, 62.29035711288452),
                "itl": (20, {0.01: 12768.0}, 15.90665458400099),
                "queue_time": (22, {0.3: 4.0, 0.8: 4.0, 1.5: 4.0, 2.0: 4.0, 2.5: 4.0, 5.0: 12.0}, 60.92806696100115),
                "e2e": (22, {0.8: 4.0, 1.5: 4.0, 2.0: 4.0, 2.5: 4.0, 5.0: 16.0}, 78.19725036621094),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "kv_cache_bytes": "1073741824",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-busy-queue.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 28.0,
                "running": 4.0,
                "waiting_by_reason": {"capacity": 28.0, "deferred": 0.0},
                "kv_usage": 0.002441704309608106,
                "kv_capacity_tokens": 1048576.0,
                "prompt_tokens_total": 800.0,
                "generation_tokens_total": 1349.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 800.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {0.06: 1.0, 0.08: 3.0}, 0.24107980728149414),
                "itl": (20, {0.01: 1345.0}, 2.1510279179999543),
                "queue_time": (22, {}, 0.0),
                "e2e": (22, {}, 0.0),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "kv_cache_bytes": "1073741824",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-dp2-idle.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 0.0,
                "running": 0.0,
                "waiting_by_reason": {},
                "kv_usage": 0.0,
                "kv_capacity_tokens": 8192.0,
                "prompt_tokens_total": 0.0,
                "generation_tokens_total": 0.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 0.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {}, 0.0),
                "itl": (20, {}, 0.0),
                "queue_time": (22, {}, 0.0),
                "e2e": (22, {}, 0.0),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
            {
                "model": "tiny",
                "engine": "1",
                "waiting": 0.0,
                "running": 0.0,
                "waiting_by_reason": {},
                "kv_usage": 0.0,
                "kv_capacity_tokens": 8192.0,
                "prompt_tokens_total": 0.0,
                "generation_tokens_total": 0.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 0.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {}, 0.0),
                "itl": (20, {}, 0.0),
                "queue_time": (22, {}, 0.0),
                "e2e": (22, {}, 0.0),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-idle.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 0.0,
                "running": 0.0,
                "waiting_by_reason": {"capacity": 0.0, "deferred": 0.0},
                "kv_usage": 0.0,
                "kv_capacity_tokens": 1048576.0,
                "prompt_tokens_total": 0.0,
                "generation_tokens_total": 0.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 0.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {}, 0.0),
                "itl": (20, {}, 0.0),
                "queue_time": (22, {}, 0.0),
                "e2e": (22, {}, 0.0),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "kv_cache_bytes": "1073741824",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-kv-pressure.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 13.0,
                "running": 5.0,
                "waiting_by_reason": {"capacity": 13.0, "deferred": 0.0},
                "kv_usage": 1.0,
                "kv_capacity_tokens": 3072.0,
                "prompt_tokens_total": 23550.0,
                "generation_tokens_total": 121969.0,
                "preemptions_total": 281.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 23550.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 150.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {0.02: 9.0, 0.04: 39.0, 0.06: 7.0, 0.08: 1.0, 2.5: 57.0, 5.0: 44.0}, 247.48644542694092),
                "itl": (
                    20,
                    {
                        0.01: 121531.0,
                        0.025: 6.0,
                        0.05: 6.0,
                        0.075: 87.0,
                        0.1: 28.0,
                        0.15: 21.0,
                        0.2: 22.0,
                        0.3: 58.0,
                        0.4: 6.0,
                        0.5: 3.0,
                        0.75: 34.0,
                        1.0: 9.0,
                        2.5: 1.0,
                    },
                    204.07810522999944,
                ),
                "queue_time": (
                    22,
                    {0.3: 54.0, 1.0: 3.0, 1.5: 12.0, 2.0: 21.0, 2.5: 18.0, 5.0: 42.0},
                    236.72556120300055,
                ),
                "e2e": (22, {1.0: 12.0, 1.5: 21.0, 2.0: 15.0, 2.5: 15.0, 5.0: 78.0, 10.0: 9.0}, 439.5657787322998),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.32.0-two-api-servers-idle.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 0.0,
                "running": 0.0,
                "waiting_by_reason": {},
                "kv_usage": 0.0,
                "kv_capacity_tokens": 8192.0,
                "prompt_tokens_total": 0.0,
                "generation_tokens_total": 0.0,
                "preemptions_total": 0.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 0.0,
                "prefix_hits_total": 0.0,
                "finished": {"stop": 0.0, "length": 0.0, "abort": 0.0, "error": 0.0, "repetition": 0.0},
                "ttft": (23, {}, 0.0),
                "itl": (20, {}, 0.0),
                "queue_time": (22, {}, 0.0),
                "e2e": (22, {}, 0.0),
                "sleeping": False,
                "config": {
                    "block_tokens": "128",
                    "gpu_memory_utilization": "0.92",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.33.0-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "waiting_by_reason": {"capacity": 20.0, "deferred": 0.0},
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "rejections_total": 0.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0, 0.05: 1.0}, 0.07),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "sleeping": False,
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.6.6-v0-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_hit_ratio": 0.25,
                "finished": {"length": 2.0},
                "ttft": (17, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (14, {0.01: 1.0, 0.025: 1.0, 0.05: 1.0}, 0.07),
                "queue_time": (16, {0.3: 1.0, 2.0: 1.0}, 2.1),
                "e2e": (16, {1.5: 1.0, 5.0: 1.0}, 4.6),
                "lora_waiting": 0.0,
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.8.5-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0}, 0.03),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
    "vllm-0.9.2-v1-names.txt": (
        "vllm",
        [
            {
                "model": "tiny",
                "engine": "0",
                "waiting": 20.0,
                "running": 4.0,
                "kv_usage": 0.87,
                "kv_capacity_tokens": 384.0,
                "prompt_tokens_total": 3600.0,
                "generation_tokens_total": 12000.0,
                "preemptions_total": 2.0,
                "prefix_queries_total": 3600.0,
                "prefix_hits_total": 1200.0,
                "finished": {"stop": 0.0, "length": 2.0, "abort": 0.0},
                "ttft": (23, {0.06: 1.0, 0.5: 1.0, 2.5: 1.0}, 2.5500000000000003),
                "itl": (20, {0.01: 1.0, 0.025: 1.0}, 0.03),
                "queue_time": (22, {2.0: 2.0}, 4.0),
                "e2e": (22, {5.0: 2.0}, 6.8),
                "config": {
                    "block_tokens": "16",
                    "gpu_memory_utilization": "0.9",
                    "cache_dtype": "auto",
                    "prefix_caching": "True",
                },
            },
        ],
    ),
}

#: Pages that are no engine's, or hide it, and a part of what is said of them.
BLIND = {
    "vllm-0.32.0-disable-log-stats.txt": "no series of a known server",
    "dynamo-1.0-trtllm-worker.txt": "Dynamo without its engine's series, which does not tell what waits",
}


def shown(value: Any) -> Any:
    if not isinstance(value, Histogram):
        return value
    own = [count - before for before, count in zip((0.0, *value.counts), value.counts, strict=False)]
    return len(value.edges), {edge: count for edge, count in zip(value.edges, own, strict=True) if count}, value.sum


def told(reading: EngineReading) -> dict[str, Any]:
    return {
        name: shown(value) for name, value in asdict(reading).items() if value not in (None, {}) or name == "waiting"
    }


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != {}}


@pytest.mark.parametrize("name", READINGS)
def test_a_page_reads_as_what_it_is(name: str) -> None:
    kind, readings = READINGS[name]
    answer = read(page(name))
    assert answer.kind == kind
    assert [told(reading) for reading in answer.readings] == [without_empty(fields) for fields in readings]
    assert answer.lacking == ()


@pytest.mark.parametrize("name", BLIND)
def test_a_page_without_an_engine_is_blind(name: str) -> None:
    with pytest.raises(ExpositionError, match=BLIND[name]) as caught:
        read(page(name))
    assert caught.value.reason == "blind"


def test_every_recorded_page_has_its_expected_reading() -> None:
    assert {*READINGS, *BLIND} == set(PAGES)
    assert {kind for kind, _ in READINGS.values()} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("name", [name for name in READINGS if not name.startswith("sglang-0.5.23-dp2")])
def test_histograms_are_what_the_client_library_reads(name: str) -> None:
    """Of pages with one engine: its buckets, summed over the label sets that are its parts, in seconds."""
    answer = read(page(name))
    if len(answer.readings) != 1:
        return
    families = {family.name: family for family in text_string_to_metric_families(page(name).decode())}
    (kind,) = (kind for kind in KINDS if kind.name == answer.kind)
    for row in kind.rows:
        family = next((families[known] for known in row.names if known in families), None)
        if row.how not in HISTOGRAMS or family is None:
            continue
        buckets: dict[float, float] = {}
        total = 0.0
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                edge = float(sample.labels["le"]) * row.scale
                buckets[edge] = buckets.get(edge, 0.0) + sample.value
            elif sample.name.endswith("_sum"):
                total += sample.value * row.scale
        assert getattr(answer.readings[0], row.field) == Histogram(tuple(buckets), tuple(buckets.values()), total)
