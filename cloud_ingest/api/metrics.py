"""Samples in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable

from cloud_ingest.signals import Sample

_PREFIX = "metercarbon_"


def exposition(samples: Iterable[Sample]) -> str:
    """Text of all samples; those of one name follow each other, as the format wants."""
    lines: list[str] = []
    described: set[str] = set()
    for sample in sorted(samples, key=lambda sample: (sample.name, sample.label)):
        name = _PREFIX + sample.name + ("_total" if sample.kind == "counter" else "")
        if name not in described:
            described.add(name)
            lines.append(f"# HELP {name} {_escaped(sample.help)}")
            lines.append(f"# TYPE {name} {sample.kind}")
        label = _escaped(sample.label).replace('"', '\\"')
        labels = f'{{label="{label}"}}' if sample.label else ""
        lines.append(f"{name}{labels} {sample.value:g}" if sample.value % 1 else f"{name}{labels} {int(sample.value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
