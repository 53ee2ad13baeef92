"""docs/protocols.md: for each protocol its facts, its departures, and the published rows it may be compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from evaluate.common.protocol import current_version, kind_of_protocol, list_protocols
from evaluate.common.registry import descriptions
from evaluate.tables.facts import FOLDER, OUR_CHOICE, FactSheet, read_facts
from evaluate.tables.published import Published, read_published

_HEAD = """# Protocols

Written by `python -m evaluate.tables.protocol_facts --write docs/protocols.md`; a test fails if it isn't current. Each
value is that of the source named beside it; `here` shows ours where it departs. The facts are in
`configs/evaluate/facts`, and `tests/protocols` compares them with the resolved settings: Detectron2's and MMEngine's
config, optimizer groups as built, transforms as composed, schedules. Published rows are compared with ours only where
nothing departs.
"""


def names_with_facts() -> list[str]:
    """Protocols about which there are facts, kind by kind."""
    names = [file.stem for kind in descriptions() for file in list_protocols(kind)]
    return [name for name in names if (FOLDER / f"{name}.yaml").is_file()]


def protocols_page(names: Iterable[str]) -> str:
    """Markdown text about the protocols `names`."""
    published = read_published()
    parts = [_HEAD]
    for name in names:
        rows = [number for number in published if number.protocol == name]
        parts.append("\n".join(_section(name, read_facts(name), rows)) + "\n")
    return "\n".join(parts)


def _section(name: str, sheet: FactSheet, published: Sequence[Published]) -> list[str]:
    lines = [f"## {name}", "", f"{kind_of_protocol(name).capitalize()}, version {current_version(name)}."]
    lines[-1] += " Sources: " + "; ".join(f"*{key}*: {source}" for key, source in sheet.sources.items()) + "."
    departing = any(fact.departs for fact in sheet.facts)
    lines += ["", f"| setting | value | {'here | ' if departing else ''}source |", f"|---|---|{'---|' * departing}---|"]
    for fact in sheet.facts:
        here = f"{_shown(fact.ours) if fact.departs else ''} | " if departing else ""
        lines.append(f"| `{fact.key}` | {_shown(fact.value)} | {here}{fact.source} |")
    departures = [f"`{fact.key}`: {fact.why} (*{fact.source}*)" for fact in sheet.facts if fact.departs]
    departures += [f"{each.text} (*{each.source}*)" for each in sheet.departures]
    if set(sheet.sources.values()) == {OUR_CHOICE}:
        lines += ["", "The recipe is our choice; no source states it."]
    elif not departures:
        lines += ["", "Departs in nothing known."]
    else:
        lines += ["", "Departs:", "", *(f"- {text}" for text in departures)]
    return [*lines, "", *_rows(published)]


def _rows(published: Sequence[Published]) -> list[str]:
    if not published:
        return ["No published numbers."]
    lines = ["Published rows:", "", "| row | numbers | compare | source and remark |", "|---|---|---|---|"]
    groups: dict[tuple[str, str, bool, bool, str], list[Published]] = {}
    for number in published:
        key = (number.row, number.source, number.exact, number.unconfirmed, number.note)
        groups.setdefault(key, []).append(number)
    for (row, source, exact, unconfirmed, note), numbers in groups.items():
        values = ", ".join(f"{number.metric} {number.value:g}" for number in numbers)
        compare = "yes" if exact and not unconfirmed else "no" + (", unconfirmed" if unconfirmed else "")
        lines.append(f"| {row} | {values} | {compare} | {source}{f': {note}' if note else ''} |")
    return lines


def _shown(value: Any) -> str:
    """A plain value for a cell: JSON, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
