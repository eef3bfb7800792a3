"""Numbers of bytes as people write them for Kubernetes: 16Gi, 16e9, 131072.

May not be in here: what is counted.
"""

import re

#: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_FORM = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?(?:[eE][0-9]{1,2})?)(k|M|G|T|Ki|Mi|Gi|Ti)?")
#: Bytes. A node has less than a thousandth of it.
_MOST = 1e16


def parse(text: str) -> float:
    """Bytes, above 0. Raises ValueError("what is wrong; fix")."""
    match = _FORM.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
    if not 0 < value <= _MOST:
        raise ValueError(f"{ascii(text)[:80]} is no number of bytes; write for example 16060522496 or 14.9Gi")
    return value
