"""Writes what is generated: the gRPC code in */pb/ and docs/metrics.md. `--check` compares instead.

python tools/generate.py           writes
python tools/generate.py --check   exits 1 and names the files that differ from what would be written
"""

import sys
import tempfile
from pathlib import Path

from exporter.core.catalog import EXPORTER, SCALER, Family

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"exporter/pb": ("signals", "podresources"), "scaler/pb": ("externalscaler",)}


def grpc_code(out: Path) -> None:
    """protoc's output for every contract in proto/, under `out`."""
    from grpc_tools import protoc  # noqa: PLC0415 -- a dev dependency that reading the catalogue does not need

    for package, names in PACKAGES.items():
        # The virtual path makes the generated imports say `from exporter.pb import ...`.
        outputs = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        files = [f"{package}/{name}.proto" for name in names]
        if protoc.main(["protoc", f"-I{package}={ROOT / 'proto'}", *outputs, *files]) != 0:
            raise SystemExit(f"tools/generate.py: protoc refused proto/ for {package}; its message is above")


def metrics_page() -> str:
    """docs/metrics.md, from the catalogue."""

    def table(families: tuple[Family, ...]) -> list[str]:
        rows = [f"| `{f.name}` | {f.type} | {', '.join(f.labels)} | {f.help} |" for f in families]
        return ["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]

    return "\n".join(
        [
            "# Metrics",
            "",
            "Made from `exporter/core/catalog.py` by `make gen`; do not edit. A series that is not there is *unknown*:",
            "no number is published for what could not be read. `mig_instance` is set on MIG instances alone.",
            "",
            "## Exporter (port 9480)",
            "",
            *table(EXPORTER),
            "",
            "## Scaler (port 9482)",
            "",
            *table(SCALER),
            "",
        ]
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        grpc_code(out)
        (out / "docs").mkdir()
        (out / "docs/metrics.md").write_text(metrics_page())
        made = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    stale = [name for name, content in made.items() if not _same(ROOT / name, content)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name}: not what `make gen` writes; run `make gen` and commit the result")  # noqa: T201 -- a command's output
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_bytes(made[name])
        print(f"wrote {name}")  # noqa: T201 -- a command's output
    return 0


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
