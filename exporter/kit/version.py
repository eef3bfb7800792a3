"""The version that both programs report, from the installed distribution (pyproject.toml holds it).

May not be in here: anything else.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("plimsoll")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+unknown"
