"""The pods of this node as Kubernetes tells of them: which engines there are, and how they started.

May not be in here: what a pod means (core/pods.py), whether an engine answers (engines.py).
"""

from collections.abc import Iterator

from exporter.doctor.look import Look, Said, fail, ok, skipped, split


def pods(look: Look) -> Iterator[Said]:
    """Are this node's engines discovered?"""
    asked = look.settings.kubernetes_pods
    if asked == "off":
        yield skipped("off (--kubernetes.pods=off): engines that are not named are not seen, nor are starts of pods")
        return
    collector = look.probe.collector("kubernetes")
    if collector is None:
        yield fail(
            f"no answer within {look.probe.seconds:.0f} s", "see that the API server or the kubelet can be reached"
        )
    elif not collector.success:
        yield fail(*split(collector.message))
    else:
        urls = len(look.probe.discovered)
        yield ok(f"answers ({asked}); {urls} {'engine' if urls == 1 else 'engines'} discovered on {look.settings.node}")
