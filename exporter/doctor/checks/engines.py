"""The inference engines that the operator has named, and those that were discovered.

May not be in here: how a page is read (core/engines.py).
"""

import functools
from collections.abc import Iterator, Mapping

from exporter.core.engine_memory import KINDS
from exporter.core.model_engines import Engine
from exporter.doctor.look import Check, Look, Said, fail, ok, skipped, split, warn

#: What a reading should have -> what cannot be told without it. What waits and runs is required of every page, but of
#: several engines behind one URL one may lack it.
_WANTED: Mapping[str, str] = {
    "waiting": "whether requests wait",
    "running": "whether it works",
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
            found = "" if look.settings.kubernetes_pods == "off" else ", and none is discovered"
            yield skipped(f"no engines are named (--engines, --engines.file){found}")

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
        drifted = look.probe.snapshot.scrapes[url].lacking if url in look.probe.snapshot.scrapes else ()
        if not engines:
            yield skipped("it was not read", url)
        elif lacking or drifted:
            lost = "; ".join(_WANTED[name] for name in lacking)
            found = [f"{', '.join(lacking)} missing: not known is {lost}"] if lacking else []
            if drifted:
                found.append(f"the page lacks what every server of its kind has: {', '.join(drifted)}")
            fix = "update the server, or this program where the server is newer; not with --disable-log-stats"
            yield warn("; ".join(found), fix, url)
        else:
            yield ok("all", url)


@_named
def gpus(look: Look) -> Iterator[Said]:
    """Is it known on which GPUs every engine runs?"""
    for url in look.probe.targets:
        engines = _engines(look, url)
        known = {key for engine in engines for key in engine.hardware.gpus}
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


@_named
def memory(look: Look) -> Iterator[Said]:
    """Is it known what the memory of every engine's GPUs is used for?"""
    for url in look.probe.targets:
        engines = _engines(look, url)
        kinds = [kind for kind in KINDS if any(kind in engine.memory_bytes for engine in engines)]
        if not engines:
            yield skipped("it was not read", url)
        elif not any(engine.hardware.gpus for engine in engines):
            yield skipped("its GPUs are not known (engines.gpus)", url)
        elif len(engines) == 1 and "other" not in kinds:
            fix = "name the GPUs of every engine; where engines share them: hostPID: true and --kubernetes.pods"
            yield warn("what its processes hold is not told", fix, url)
        else:
            yield ok(f"told: {', '.join(kinds)}" if kinds else "not told of each of several engines", url)
