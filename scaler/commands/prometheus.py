"""Asks a Prometheus that the operator named on the command line for what was recorded of a fleet.

May not be in here: what its answer means (simulate/history_prometheus.py), passwords (a proxy in front of it has them).
"""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from scaler.commands import CommandError
from scaler.commands.files import LARGEST
from scaler.simulate.history_prometheus import QUERY

TIMEOUT = 30.0  # s without a byte
LONGEST = 120.0  # s in all
MOST_POINTS = 11_000  # of one series: Prometheus refuses more
_CHUNK = 1 << 20


def query(selector: str) -> str:
    """The PromQL, with the model's own matchers such as pod=~"llama-.*" among its braces."""
    return QUERY.removesuffix("}") + f",{selector}}}" if selector else QUERY


def fetch(url: str, selector: str, seconds: float, step: float) -> bytes:
    """The body of /api/v1/query_range of the last `seconds`. Raises CommandError."""
    if not _is_url(url):
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
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as response:  # noqa: S310 -- the scheme was checked
                return _body(response, url, deadline)
        except urllib.error.HTTPError as error:
            body = _body(error, url, deadline)
            # Prometheus tells of a bad query in JSON, with status 4xx; a status without is of something else.
            if body.lstrip()[:1] != b"{":
                raise CommandError(
                    f"--prometheus-url {url}: answers with status {error.code}; name the address of a Prometheus that "
                    "needs no password"
                ) from None
            return body
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise CommandError(f"--prometheus-url {url}: cannot be reached ({cause}); check the address") from None


def decoded(data: bytes, place: str, fix: str) -> Mapping[str, Any]:
    """Raises CommandError."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{place}: is no JSON ({error}); {fix}") from None
    if not isinstance(answer, dict):
        raise CommandError(f"{place}: holds no object; {fix}")
    return answer


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not any(char.isspace() for char in text)


def _body(response: Any, url: str, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise CommandError(f"--prometheus-url {url}: answers with more than {LARGEST >> 20} MiB; ask for less")
        if time.monotonic() > deadline:
            raise CommandError(f"--prometheus-url {url}: takes more than {LONGEST:g} s; ask for less")
    return b"".join(parts)
