"""Tasks as a tree: below each task those that it awaits."""

from __future__ import annotations

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
    children: dict[int, list[TaskItem]] = {}
    for item in items:
        children.setdefault(parents.get(item.task.id, 0), []).append(item)
    wanted = _wanted(items, parents, by_id, table)
    rows: list[Row[TaskItem]] = []
    # A stack, not recursion: chains of tasks are longer than Python's stack is deep.
    stack = [(item, "", "") for item in reversed(_siblings(children, 0, wanted, table))]
    while stack:
        item, branch, below = stack.pop()
        rows.append(Row(item.key, item, branch, not wanted[item.task.id]))
        siblings = _siblings(children, item.task.id, wanted, table)
        for position in range(len(siblings) - 1, -1, -1):
            last = position == len(siblings) - 1
            stack.append((siblings[position], below + branches[last], below + branches[2 + last]))
    return rows


def _siblings(
    children: dict[int, list[TaskItem]],
    parent: int,
    wanted: dict[int, bool],
    table: Table[TaskItem],
) -> list[TaskItem]:
    found = [item for item in children.get(parent, ()) if item.task.id in wanted]
    return table.sorted(found) if len(found) > 1 else found


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
