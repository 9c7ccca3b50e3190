"""Where bits were made: runtime and processor. Another one may round the last bit otherwise.

Comes in: nothing. Goes out: a mapping to keep and compare. Imported by stream.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from pipeline.session import RUNTIME_VERSION


def fingerprint() -> dict[str, str]:
    """Give the version of the runtime and what the processor can do."""
    return {"onnxruntime": RUNTIME_VERSION, "machine": platform.machine(), "processor": _processor()}


def _processor() -> str:
    """Digest what the system says the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    told = [line for line in lines if line.startswith(("flags", "Features"))]
    return hashlib.sha256(told[0].encode()).hexdigest()[:16] if told else "unknown"
