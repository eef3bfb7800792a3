"""Asks a Prometheus that the operator named on the command line for what was recorded of a fleet.

May not be in here: what its answer means (simulate/history.py), passwords (a proxy in front of it has them).
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from scaler.commands import FAILED, CommandError
from scaler.commands.files import LARGEST
from scaler.simulate.history import QUERY

TIMEOUT = 30.0  # s without a byte
LONGEST = 120.0  # s in all
MOST_POINTS = 11_000  # of one series: Prometheus refuses more
_CHUNK = 1 << 20


def query(selector: str) -> str:
    """The PromQL, with the model's own matchers such as pod=~"llama-.*" among its braces."""
    return QUERY.removesuffix("}") + f",{selector}}}" if selector else QUERY


def fetch(url: str, selector: str, seconds: float, step: float) -> bytes:
    """The body of /api/v1/query_range of the last `seconds`. Raises CommandError."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise CommandError(f"--prometheus-url {url!a}: is no URL; write for example http://127.0.0.1:9090")
    if seconds / step > MOST_POINTS:
        raise CommandError(
            f"--range, --step: {seconds / step:.0f} points, {MOST_POINTS} are the most; write a longer --step"
        )
    end = time.time()
    asked = {"query": query(selector), "start": f"{end - seconds:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
    address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    deadline = time.monotonic() + LONGEST
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:  # noqa: S310 -- the scheme was checked
            return _body(response, url, deadline)
    except urllib.error.HTTPError as error:
        # Prometheus tells of a bad query in JSON, with status 4xx.
        return _body(error, url, deadline)
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        raise CommandError(f"--prometheus-url {url}: cannot be reached ({cause}); check the address", FAILED) from None


def decoded(data: bytes, place: str) -> Mapping[str, Any]:
    """Raises CommandError."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{place}: is no JSON ({error}); save the answer of /api/v1/query_range", FAILED) from None
    if not isinstance(answer, dict):
        raise CommandError(f"{place}: holds no object; save the answer of /api/v1/query_range as it came", FAILED)
    return answer


def _body(response: Any, url: str, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise CommandError(
                f"--prometheus-url {url}: answers with more than {LARGEST >> 20} MiB; ask for less", FAILED
            )
        if time.monotonic() > deadline:
            raise CommandError(f"--prometheus-url {url}: takes more than {LONGEST:g} s; ask for less", FAILED)
    return b"".join(parts)
