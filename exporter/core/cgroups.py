"""Which container a process is in, by its /proc/<pid>/cgroup.

May not be in here: reading the file (sources/proc.py), whose container it is.

A container's id is 64 hex digits in a name of the path. Forms, the same in cgroup v1 and v2:

    /kubepods/besteffort/pod<uid>/<id>                                               cgroupfs driver
    /kubepods.slice/kubepods-<class>.slice/kubepods-<class>-pod<uid>.slice/cri-containerd-<id>.scope    systemd driver
    .../crio-<id>.scope/container, .../docker-<id>.scope, .../libpod-<id>.scope       other runtimes
    .../<anything>:cri-containerd:<id>                                               kubelet and containerd disagree
    /../cri-containerd-<id>.scope                                                    seen from another cgroup namespace

What runs in a container may make groups of its own below (systemd, docker in a pod): the first id counts, of those
after "kubepods" where there is one, since the node itself may be a container (kind).
"""

import re

_ID = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
_PODS = "kubepods"


def container_of(text: str) -> str | None:
    """The id of the container that the text of a cgroup file tells; "" is none; None: the text is no cgroup file's."""
    paths = [path for line in text.splitlines() if (path := _path(line)) is not None]
    if not paths:
        return None
    # v1 has a line for each hierarchy, and not every hierarchy has the container's groups.
    return next((found for path in sorted(paths, key=_is_of_no_pod) if (found := _first(path))), "")


def _path(line: str) -> str | None:
    number, _, rest = line.partition(":")
    _, colon, path = rest.partition(":")
    return path if colon and number.isascii() and number.isdigit() and path.startswith("/") else None


def _is_of_no_pod(path: str) -> bool:
    return _PODS not in path


def _first(path: str) -> str:
    names = path.split("/")
    begin = next((place for place, name in enumerate(names) if _PODS in name), 0)
    return next((match[1] for name in names[begin:] if (match := _ID.search(name))), "")
