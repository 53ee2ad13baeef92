"""The table of ratios in docs/performance.md, from the figures of a machine. `python benchmarks/report.py FILE`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.alternate import Report, Row, from_json, spread

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def main() -> None:
    """Replaces the table of this kind of machine."""
    parser = argparse.ArgumentParser(description="Write the table of figures into docs/performance.md.")
    parser.add_argument("figures", type=Path, help="JSON written by benchmarks/run.py or benchmarks/gpu.py")
    parser.add_argument("--page", type=Path, default=PAGE, help="default docs/performance.md")
    arguments = parser.parse_args()
    documents = json.loads(arguments.figures.read_text(encoding="utf-8"))
    start, end = marks(documents)
    page = arguments.page.read_text(encoding="utf-8")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: {arguments.page} lacks the marks {start} and {end}")
    arguments.page.write_text(f"{before}{start}\n{tables(documents)}\n{end}{after}", encoding="utf-8")
    print(f"written: {arguments.page}")


def marks(documents: dict[str, dict[str, object]]) -> tuple[str, str]:
    """Lines of the page around the table of this kind of machine."""
    kind = "GPU figures" if list(documents) == ["gpu"] else "figures"
    return f"<!-- {kind}: start -->", f"<!-- {kind}: end -->"


def tables(documents: dict[str, dict[str, object]]) -> str:
    """One table over all comparisons, and the conditions under it."""
    seconds = {name: document["seconds"] for name, document in documents.items()}
    keep = ("benchmark", "machine", "settings", "rows", "facts")
    reports = [from_json({key: document[key] for key in keep}) for document in documents.values()]
    lines = ["| what | figures: median (least … most) | figure | goal | |", "|---|---|---|---|---|"]
    lines += [line(row) for report in reports for row in report.rows]
    lines += ["", *(conditions(report, seconds[report.benchmark]) for report in reports)]
    return "\n".join(lines)


def line(row: Row) -> str:
    """A row of the table."""
    ways = row.ratio or tuple(row.values)[:1]
    figures = "; ".join(f"{way} {spread(row.values[way])}" for way in ways)
    goal = "" if row.goal is None else f"{row.goal.sign} {row.goal.value:g}"
    reached = {None: "", True: "reached", False: "not reached"}[row.reached()]
    ratio = spread(row.figure()) + (" ×" if row.ratio else "")
    subject = row.subject + (f"; {row.note}" if row.note else "")
    return f"| {subject} | {figures} {row.unit} | {ratio} | {goal} | {reached} |"


def conditions(report: Report, seconds: object) -> str:
    """How a comparison was run."""
    about = report.machine
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items() if value not in (None, False))
    return (
        f"- `benchmarks/{report.benchmark}.py`: {about['name']}, {about['cores']} cores, torch {about['torch']}, "
        f"Python {about['python']}, load {about['load']} at the end, {seconds} s; {settings}"
    )


if __name__ == "__main__":
    main()
