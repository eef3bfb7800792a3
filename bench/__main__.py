"""Runs the benchmarks that are named, or all.

`python -m bench [parser scrape large freshness getmetrics decide mig xid]`
"""

import sys
from collections.abc import Callable

from bench import decide, freshness, getmetrics, large, mig, parser, scrape, xid

BENCHMARKS: dict[str, Callable[[], object]] = {
    "parser": parser.main,
    "scrape": scrape.main,
    "large": large.main,
    "freshness": freshness.main,
    "getmetrics": getmetrics.main,
    "decide": decide.main,
    "mig": mig.main,
    "xid": xid.main,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"bench: no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
        return 2
    for name in names or BENCHMARKS:
        print(f"\n## {name}\n", flush=True)
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
