"""Tasks as a tree: below each task those that it awaits."""

from __future__ import annotations

from typing import Any

from noria.sight.top.tables import Row, Table
from noria.sight.top.tasks import TaskItem

BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
ASCII_BRANCHES = ("|- ", "`- ", "|  ", "   ")


def task_tree(
    items: list[TaskItem], table: Table[TaskItem], ascii: bool = False
) -> list[Row[TaskItem]]:
    """Return all tasks that match the filter, and dimmed those that lead to them.

    A task that several tasks await stands below the first of them; each cycle is broken once.
    Siblings are sorted as the table is.
    """
    branches = ASCII_BRANCHES if ascii else BRANCHES
    by_id = {item.task.id: item for item in items}
    parents = _parents(by_id)
    wanted = _wanted(items, parents, by_id, table)
    children: dict[int, list[TaskItem]] = {}
    for item in items:
        if item.task.id in wanted:
            children.setdefault(parents.get(item.task.id, 0), []).append(item)
    order = _order(items, parents, table)
    for siblings in children.values():
        siblings.sort(key=lambda item: order[item.task.id], reverse=table.descending)
    rows: list[Row[TaskItem]] = []
    # A stack, not recursion: chains of tasks are longer than Python's stack is deep.
    stack = [(item, "", "") for item in reversed(children.get(0, []))]
    while stack:
        item, branch, below = stack.pop()
        rows.append(Row(item.key, item, branch, not wanted[item.task.id]))
        siblings = children.get(item.task.id, [])
        for position in range(len(siblings) - 1, -1, -1):
            last = position == len(siblings) - 1
            stack.append((siblings[position], below + branches[last], below + branches[2 + last]))
    return rows


def _order(
    items: list[TaskItem], parents: dict[int, int], table: Table[TaskItem]
) -> dict[int, Any]:
    """Return what each task is sorted by: the first value, in the table's order, in its subtree."""
    value = table.indexes[table.sort].value
    order = {item.task.id: value(item) for item in items}
    for item in table.sorted(items):
        # Items are sorted: the first value that reaches an ancestor is its best.
        parent, best = parents.get(item.task.id, 0), order[item.task.id]
        while parent and _before(best, order[parent], table.descending):
            order[parent] = best
            parent = parents.get(parent, 0)
    return order


def _before(value: Any, other: Any, descending: bool) -> bool:
    return bool(value > other if descending else value < other)


def _parents(by_id: dict[int, TaskItem]) -> dict[int, int]:
    """Return the task below which each task stands; those without one are roots."""
    parents: dict[int, int] = {}
    for number, item in by_id.items():
        for parent in item.task.awaited_by:
            if parent in by_id and not _leads_to(parent, number, parents):
                parents[number] = parent
                break
    return parents


def _leads_to(start: int, end: int, parents: dict[int, int]) -> bool:
    while start != end:
        if start not in parents:
            return False
        start = parents[start]
    return True


def _wanted(
    items: list[TaskItem],
    parents: dict[int, int],
    by_id: dict[int, TaskItem],
    table: Table[TaskItem],
) -> dict[int, bool]:
    """Return the tasks to show: True if they match, False if they only lead to one that does."""
    if not table.filter:
        return dict.fromkeys(by_id, True)
    wanted: dict[int, bool] = {}
    for item in items:
        if not table.matches(item):
            continue
        wanted[item.task.id] = True
        parent = parents.get(item.task.id, 0)
        while parent and parent not in wanted:
            wanted[parent] = table.matches(by_id[parent])
            parent = parents.get(parent, 0)
    return wanted
