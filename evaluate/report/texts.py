"""The transfer table as text."""

from __future__ import annotations

from evaluate.report.transfer_table import Cell, TransferTable


def markdown(table: TransferTable) -> str:
    """For people; `mean ± standard deviation (n runs)` where a cell has several results."""
    lines = ["| backbone | " + " | ".join(column.title for column in table.columns) + " |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for y, row in enumerate(table.rows):
        numbers = [_number(table.cells.get((y, x))) for x in range(len(table.columns))]
        lines.append(f"| {row.name} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def _number(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.std is None:
        return f"{cell.mean:.1f}"
    return f"{cell.mean:.1f} ± {cell.std:.1f} ({len(cell.values)} runs)"
