"""Command line for any kind of probe, also one without a front door of its own."""

from __future__ import annotations

import sys

from core.errors import UserError
from evaluate.common.registry import descriptions
from evaluate.probes.base import Probe
from evaluate.probes.main import probe_main


def main() -> None:
    """Measures the probe that the first argument names."""
    probes = {kind: probe for kind, probe in descriptions().items() if isinstance(probe, Probe)}
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind in ("-h", "--help"):
        print("usage: python evaluate/probe.py KIND [--help] …\n\nkinds:")
        print("\n".join(f"  {name:12} {probe.summary}" for name, probe in probes.items()))
        return
    if kind not in probes:
        raise UserError(f"the first argument must be a kind of probe ({', '.join(probes)}), not {kind!r}")
    probe_main(probes[kind], sys.argv[2:])
