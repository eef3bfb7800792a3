"""Options and fixtures that all tests share."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.kit import log

GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write the golden outputs in tests/golden/ instead of comparing"
    )


@pytest.fixture(autouse=True)
def logging_of_its_own() -> Iterator[None]:
    """A program that a test runs in this process sets up logging to a stderr that is closed after the test."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, log.Formatter):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): text is what tests/golden/`name` holds; with --update-goldens it is written there."""
    update = request.config.getoption("--update-goldens")

    def compare(name: str, text: str) -> None:
        path = GOLDENS / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden output {path}; run pytest with --update-goldens and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}; if it is right: --update-goldens"

    return compare
