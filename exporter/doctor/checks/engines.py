"""The inference engines that the operator has named.

May not be in here: how a page is read (core/engines.py).
"""

import functools
from collections.abc import Iterator, Mapping

from exporter.core.model import Engine
from exporter.doctor.look import Check, Look, Said, fail, ok, skipped, split, warn

#: What a reading should have -> what cannot be told without it. What waits and runs is required of every page.
_WANTED: Mapping[str, str] = {
    "kv_usage": "the pressure on the KV cache",
    "kv_capacity_tokens": "how much the KV cache holds",
    "generation_tokens_total": "whether the engine makes progress (a wedged one is not found out)",
    "finished": "how many requests it can carry",
}


def _named(check: Check) -> Check:
    @functools.wraps(check)
    def guarded(look: Look) -> Iterator[Said]:
        if look.probe.targets:
            yield from check(look)
        else:
            yield skipped("no engines are named (--engines, --engines.file)")

    return guarded


def _engines(look: Look, url: str) -> list[Engine]:
    """The engines behind a URL that have been read."""
    return [engine for engine in look.probe.snapshot.engines if engine.target.url == url and engine.at is not None]


@_named
def page(look: Look) -> Iterator[Said]:
    """Does every engine answer, and is it recognised?"""
    for url in look.probe.targets:
        scrape = look.probe.snapshot.scrapes.get(url)
        if scrape is None:
            yield fail(f"no answer within {look.probe.seconds:.0f} s", "check the server's load", url)
        elif scrape.error:
            # Nothing listens: the engine may be about to start, and a DaemonSet names the same port on every node.
            cause, fix = split(scrape.message.removeprefix(f"{url}: "))
            yield (warn if scrape.error == "refused" else fail)(cause, fix, url)
        else:
            models = sorted({reading.model for reading in scrape.readings})
            yield ok(f"{scrape.kind}, {', '.join(models)}, in {scrape.seconds * 1e3:.0f} ms", url)


@_named
def numbers(look: Look) -> Iterator[Said]:
    """Does every engine tell all that is asked of it?"""
    for url in look.probe.targets:
        engines = _engines(look, url)
        lacking = [name for name in _WANTED if any(getattr(engine.reading, name) is None for engine in engines)]
        if not engines:
            yield skipped("it was not read", url)
        elif lacking:
            lost = "; ".join(_WANTED[name] for name in lacking)
            fix = "update the server; it must not run with --disable-log-stats"
            yield warn(f"{', '.join(lacking)} missing: not known is {lost}", fix, url)
        else:
            yield ok("all", url)


@_named
def gpus(look: Look) -> Iterator[Said]:
    """Is it known on which GPUs every engine runs?"""
    for url in look.probe.targets:
        engines = _engines(look, url)
        known = {key for engine in engines for key in engine.gpus}
        seen = {gpu.info.key for gpu in look.probe.snapshot.gpus}
        if not engines:
            yield skipped("it was not read", url)
        elif not look.probe.snapshot.gpus:
            yield skipped("no GPUs are seen", url)
        elif strange := sorted(key.uuid for key in known - seen):
            yield warn(f"{', '.join(strange)}: no GPU that is seen", "mend gpus: of this entry in --engines.file", url)
        elif not known:
            fix = "let the kubelet tell (--kubelet.socket) with namespace: and pod: of its entry, or write gpus: there"
            yield warn("not known: its health is unknown", fix, url)
        else:
            yield ok(f"{len(known)} {'GPU' if len(known) == 1 else 'GPUs'}", url)
