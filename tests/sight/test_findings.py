"""Findings from observations that are made by hand: what is one, what is not, and where it is."""

from __future__ import annotations

import json
import linecache
from dataclasses import replace

import pytest

from noria.sight.findings import KINDS, Thresholds, find
from noria.sight.findings.finding import Finding
from noria.sight.observation import (
    Block,
    CodeFigures,
    ConnectionFigures,
    Distribution,
    ErrorFigures,
    ExecutorFigures,
    GcFigures,
    LoopFigures,
    Observation,
    Place,
    SlowCall,
    TaskFigures,
    TimerFigures,
)

DEFAULTS = Thresholds()
MS = 1_000_000
SECOND = 1_000_000_000
BEGIN = 50 * SECOND

RUN = Place("Runner.run", "/usr/lib/python3.13/asyncio/runners.py", 118)
HANDLER = Place("handle", "/app/server.py", 12, "time.sleep(1)")
DECODE = Place("JSONDecoder.raw_decode", "/usr/lib/python3.13/json/decoder.py", 361)
IMPORT = Place("_find_and_load", "<frozen importlib._bootstrap>", 1360)
STREAMS = Place("StreamReaderProtocol.data_received", "/usr/lib/python3.13/asyncio/streams.py", 278)


def observed(**loop) -> Observation:
    """An observation of 10 s of one loop that was half busy."""
    fields = {"begin": BEGIN, "end": BEGIN + 10 * SECOND, "busy": 5 * SECOND, "waiting": 5 * SECOND}
    return Observation(loops=[LoopFigures(id=0, **{**fields, **loop})])


def spread(*durations: int) -> Distribution:
    found = Distribution()
    for each in sorted(durations):
        found.count += 1
        found.total += each
        found.longest = max(found.longest, each)
        found.buckets.append((each, 1))
    return found


def block(duration=400 * MS, stack=(RUN, HANDLER), **more) -> Block:
    fields = {"started": BEGIN + SECOND, "stack": list(stack), "task": "Task-1"}
    fields["samples"] = [(fields["stack"][-1], 20)]
    return Block(duration=duration, **{**fields, **more})


def only(observation: Observation, thresholds=DEFAULTS) -> Finding:
    found = find(observation, thresholds)
    assert len(found) == 1, found
    finding = found[0]
    assert finding.kind in KINDS
    assert finding.title
    assert finding.evidence
    assert finding.advice
    json.dumps(finding.as_dict())
    return finding


def test_a_loop_without_faults_has_no_finding():
    assert find(observed()) == []
    assert find(Observation()) == []


# Blocked loops.


def test_a_blocked_loop_is_found_at_the_programs_line():
    finding = only(observed(blocks=[block(stack=(RUN, HANDLER, DECODE), gil_held=True)]))
    assert finding.kind == "loop-blocked"
    assert finding.place == HANDLER
    assert any("JSONDecoder.raw_decode" in each for each in finding.evidence)
    assert finding.data["longest"] == 400 * MS


def test_blocks_of_one_function_are_one_finding_at_its_most_frequent_line():
    other = replace(HANDLER, line=14)
    blocks = [
        block(started=BEGIN + SECOND),
        block(started=BEGIN + 2 * SECOND, stack=(RUN, other), samples=[(other, 50), (HANDLER, 1)]),
    ]
    finding = only(observed(blocks=blocks))
    assert finding.place == other
    assert finding.data["blocks"] == 2
    assert "2 times" in finding.evidence[0]


def test_a_generator_expression_belongs_to_its_function():
    inner = replace(HANDLER, function="handle.<locals>.<genexpr>")
    blocks = [block(started=BEGIN + SECOND), block(started=BEGIN + 2 * SECOND, stack=(RUN, inner))]
    assert only(observed(blocks=blocks)).data["blocks"] == 2


def test_the_advice_depends_on_what_the_line_calls():
    def advice(source: str, **fields) -> str:
        place = replace(HANDLER, source=source)
        return only(observed(blocks=[block(stack=(RUN, place), **fields)])).advice

    assert "asyncio.sleep" in advice("time.sleep(1)")
    assert "asyncio.Lock" in advice("with self.lock:")
    assert "process" in advice("data = json.loads(text)")
    assert "backtracks" in advice("if PATTERN.match(line):")
    assert "GIL" in advice("x = compress(data)", gil_held=True)
    assert "to_thread" in advice("x = compute(data)", cpu=390 * MS)
    assert "Wait without blocking" in advice("call(data)", cpu=MS)
    assert "to_thread" in advice("call(data)")  # whether the thread computed is unknown


def test_the_limit_is_the_observations_or_the_thresholds():
    observation = observed(blocks=[block(duration=70 * MS)])
    assert find(observation) == []
    assert only(observation, Thresholds(block=0.05)).kind == "loop-blocked"
    observation.max_block = 60 * MS
    assert only(observation).kind == "loop-blocked"


def test_a_thread_that_waits_for_a_cpu_is_not_blocked():
    assert find(observed(blocks=[block(runqueue=350 * MS)])) == []
    assert only(observed(blocks=[block(runqueue=250 * MS)])).kind == "loop-blocked"


def test_a_thread_that_another_one_keeps_from_running_is_not_blocked():
    # It did not run, and the watchdog, which needs the GIL, too, has hardly seen it.
    assert find(observed(blocks=[block(cpu=5 * MS, samples=[(HANDLER, 1)])])) == []
    sleeping = block(cpu=5 * MS, samples=[(HANDLER, 20)])
    assert only(observed(blocks=[sleeping])).kind == "loop-blocked"
    held = block(cpu=5 * MS, samples=[(HANDLER, 1)], gil_held=True)
    assert only(observed(blocks=[held])).kind == "loop-blocked"


def test_imports_may_block_while_the_program_starts():
    stack = (RUN, HANDLER, IMPORT, Place("<module>", "/app/models.py", 1))
    assert find(observed(blocks=[block(stack=stack, importing=20)])) == []
    assert find(observed(blocks=[block(stack=stack, samples=[])])) == []
    late = block(stack=stack, importing=20, started=BEGIN + 8 * SECOND)
    assert only(observed(blocks=[late])).kind == "loop-blocked"
    # Whether most of it was imports, not where it was seen first.
    assert find(observed(blocks=[block(importing=11)])) == []
    assert only(observed(blocks=[block(stack=stack, importing=9)])).kind == "loop-blocked"


def test_a_long_turn_of_short_handlers_is_not_a_blocked_loop():
    short = SlowCall("callback", HANDLER, BEGIN + SECOND + 10 * MS, 3 * MS)
    assert find(observed(blocks=[block()], slow=[short])) == []
    long = replace(short, duration=390 * MS)
    assert only(observed(blocks=[block()], slow=[long])).kind == "loop-blocked"
    # The list keeps the longest calls only: nothing is known of a shorter block.
    longer = SlowCall("callback", HANDLER, BEGIN + 5 * SECOND, SECOND)
    assert only(observed(blocks=[block()], slow=[longer])).kind == "loop-blocked"


def test_a_short_handler_that_waited_for_a_cpu_is_not_a_blocked_loop():
    calls = [SlowCall("callback", HANDLER, BEGIN + SECOND + 10 * MS, 150 * MS)]
    busy = {"duration": 3 * SECOND, "cpu": SECOND}
    assert find(observed(blocks=[block(**busy, runqueue=2 * SECOND)], slow=calls)) == []
    assert only(observed(blocks=[block(**busy)], slow=calls)).kind == "loop-blocked"
    calls = [replace(calls[0], duration=900 * MS)]
    assert only(observed(blocks=[block(**busy, runqueue=2 * SECOND)], slow=calls))


def test_a_turn_of_several_long_handlers_is_a_blocked_loop():
    calls = [SlowCall("task", HANDLER, 100 * MS + number * 50 * MS, 50 * MS) for number in range(8)]
    blocks = [block(started=100 * MS, cpu=400 * MS)]
    assert only(observed(blocks=blocks, slow=calls)).kind == "loop-blocked"
    # The thread was not on a CPU: other processes took the time.
    assert find(observed(blocks=[block(started=100 * MS, cpu=90 * MS)], slow=calls)) == []


def test_a_long_turn_of_many_handlers_that_computed_is_a_finding_of_its_own():
    other = Place("on_tick", "/app/ticks.py", 5)
    short = SlowCall("callback", HANDLER, BEGIN + SECOND + 10 * MS, 3 * MS)
    many = block(
        cpu=390 * MS, handlers=3000, events_waiting=2900, samples=[(HANDLER, 9), (other, 3)]
    )
    finding = only(observed(blocks=[many], slow=[short]))
    assert (finding.kind, finding.place) == ("loop-blocked", HANDLER)
    assert "3,000 handlers in one turn" in finding.title
    assert "75%" in finding.evidence[2]
    assert "ready at once" in finding.advice
    # It computed little, or the turn's handlers are not known.
    assert find(observed(blocks=[replace(many, cpu=150 * MS)], slow=[short])) == []
    assert find(observed(blocks=[replace(many, handlers=0)], slow=[short])) == []
    # Late timers, and tasks that wake themselves, are findings that explain it.
    late = TimerFigures(fired=20, lateness=spread(*[300 * MS] * 20))
    assert only(observed(blocks=[many], slow=[short], timers=late)).kind == "timers-late"


def test_a_task_that_computes_at_several_lines_never_yields():
    other = replace(HANDLER, line=14)
    samples = [(HANDLER, 9), (other, 3)]
    finding = only(observed(blocks=[block(duration=2 * SECOND, samples=samples)]))
    assert finding.kind == "task-never-yields"
    assert finding.place == HANDLER
    assert "lines 12, 14" in finding.evidence[-1]
    one_line = block(duration=2 * SECOND, samples=[(HANDLER, 12)])
    assert only(observed(blocks=[one_line])).kind == "loop-blocked"
    no_task = block(duration=2 * SECOND, samples=samples, task="")
    assert only(observed(blocks=[no_task])).kind == "loop-blocked"


def test_a_thread_that_waits_for_the_gil_or_for_a_new_thread_is_no_finding():
    seen = block(cpu=10 * MS)
    assert only(observed(blocks=[seen])).kind == "loop-blocked"
    assert find(observed(blocks=[replace(seen, gil_wait=seen.duration // 2)])) == []
    start = Place("Thread.start", "/usr/lib/python3.13/threading.py", 990)
    assert find(observed(blocks=[replace(seen, stack=[*seen.stack, start])])) == []


def test_a_block_that_the_watchdog_has_not_seen_is_none_on_a_busy_machine():
    unseen = block(duration=450 * MS, cpu=0, samples=[])
    assert only(observed(blocks=[unseen])).kind == "loop-blocked"
    assert find(observed(blocks=[unseen], cpu=SECOND, runqueue=4 * SECOND)) == []


def test_without_a_watchdog_the_longest_calls_tell():
    call = SlowCall("task", HANDLER, BEGIN + SECOND, 500 * MS)
    finding = only(observed(slow=[call]))
    assert (finding.kind, finding.place) == ("loop-blocked", HANDLER)
    assert find(observed(slow=[replace(call, duration=150 * MS)])) == []


def test_collections_are_the_cause_of_a_block_and_of_late_timers():
    pauses = spread(*[300 * MS] * 4)
    gc = GcFigures([0, 0, 4], 100, pauses, [CodeFigures(1, "gc", HANDLER, 4, 1200 * MS, 300 * MS)])
    gc.slow = [SlowCall("gc", HANDLER, BEGIN + SECOND + 5 * MS, 300 * MS)]
    late = TimerFigures(fired=20, lateness=spread(*[250 * MS] * 20))
    finding = only(observed(gc=gc, blocks=[block(duration=310 * MS)], timers=late))
    assert (finding.kind, finding.place) == ("gc-pauses", HANDLER)
    assert any("consequence" in each for each in finding.evidence)


def test_a_collection_that_waited_for_a_cpu_is_no_finding():
    pauses = spread(400 * MS, *[10 * MS] * 5)
    times = {"run": 70 * MS, "longest_run": 25 * MS}
    observation = observed(busy=SECOND, waiting=0, gc=GcFigures(pauses=pauses, **times))
    assert find(observation) == []
    observation.loops[0].gc.run = observation.loops[0].gc.longest_run = 0
    assert only(observation).kind == "gc-pauses"


def test_collections_of_other_threads_are_compared_with_all_time():
    pauses = spread(*[10 * MS] * 100)
    idle = observed(busy=SECOND // 10, waiting=9 * SECOND, gc=GcFigures(pauses=pauses))
    assert find(idle) == []  # 1 s of 10 s
    busy = observed(busy=2 * SECOND, waiting=8 * SECOND, gc=GcFigures(pauses=pauses))
    assert "50% of the loop's busy time" in only(busy).title
    assert only(idle, Thresholds(gc_share=0.05)).data["share"] == 0.1


def test_the_collections_of_a_short_lived_loop_are_no_finding():
    # pytest collects garbage explicitly, and each test may have a loop.
    pauses = spread(120 * MS, 80 * MS)
    for length, kinds in ((300 * MS, []), (1200 * MS, ["gc-pauses"])):
        times = {"end": BEGIN + length, "busy": 250 * MS, "waiting": length - 250 * MS}
        found = find(observed(gc=GcFigures(pauses=pauses), **times))
        assert [finding.kind for finding in found] == kinds


def test_short_collections_are_no_finding():
    gc = GcFigures([200, 20, 2], 1000, spread(*[2 * MS] * 200))
    assert find(observed(gc=gc)) == []


# Tasks.

WORK = Place("work", "/app/work.py", 20)


def task(number=1, coroutine=WORK, **fields) -> TaskFigures:
    return TaskFigures(number, f"Task-{number}", coroutine, **fields)


YIELDS = Place("work", "/app/work.py", 23, "await asyncio.sleep(0)")
SLEEP = Place("sleep", "/usr/lib/python3.13/asyncio/tasks.py", 699)


def polling(count: int, steps: int, busy: int) -> list[TaskFigures]:
    return [
        task(
            number,
            steps=steps,
            busy=busy,
            self_wakes=steps - 1,
            longest_step=busy // steps,
            waiting_at=[YIELDS, SLEEP],
        )
        for number in range(1, count + 1)
    ]


def test_tasks_that_take_turns_with_themselves_starve_another():
    victim = task(99, Place("beat", "/app/beat.py", 5), steps=20, scheduled=20 * 200 * MS)
    finding = only(observed(tasks=[*polling(100, 40, 45 * MS), victim]))
    assert (finding.kind, finding.place) == ("task-starved", YIELDS)
    assert "Task-99" in finding.title
    victim.scheduled = 20 * MS
    assert find(observed(tasks=[*polling(100, 40, 45 * MS), victim])) == []


def test_a_task_that_waits_for_a_cpu_like_all_others_is_not_starved():
    victim = task(99, Place("beat", "/app/beat.py", 5), steps=20, scheduled=20 * 200 * MS)
    tasks = [*polling(100, 40, 45 * MS), victim]
    busy_machine = {"cpu": SECOND, "runqueue": 4 * SECOND}
    assert find(observed(tasks=tasks, **busy_machine)) == []
    victim.scheduled *= 2
    assert only(observed(tasks=tasks, **busy_machine)).kind == "task-starved"


def test_a_task_that_polls_is_a_storm():
    tasks = polling(1, 400_000, SECOND)
    finding = only(observed(tasks=tasks, events=500_000))
    assert (finding.kind, finding.place) == ("self-wake-storm", YIELDS)
    # A long step is a blocked loop, or it waited for a CPU.
    tasks[0].longest_step = 300 * MS
    assert only(observed(tasks=tasks, events=500_000)).kind == "self-wake-storm"
    long = observed(tasks=tasks, events=500_000, blocks=[block(duration=300 * MS)])
    assert only(long).kind == "loop-blocked"
    # A few sleep(0) among much else, and pieces of work, are not.
    assert find(observed(tasks=tasks, events=5_000_000)) == []
    assert find(observed(tasks=polling(1, 4_000, 4 * SECOND), events=5_000)) == []


def test_tasks_that_ended_before_they_were_seen_polled_at_their_only_await(tmp_path):
    program = tmp_path / "poll.py"
    program.write_text(
        "import asyncio\n"
        "@decorated\n"
        "async def work():  # await nothing\n"
        "    while not found:\n"
        "        await asyncio.sleep(0)\n"
        "\n"
        "async def other():\n"
        "    await work()\n"
        "    await work()\n"
    )

    def place(line: int) -> int:
        coroutine = Place("work", str(program), line)
        tasks = [
            replace(each, waiting_at=[], coroutine=coroutine)
            for each in polling(1, 400_000, SECOND)
        ]
        found = only(observed(tasks=tasks, events=500_000)).place
        assert found is not None
        return found.line

    assert place(2) == place(3) == 5
    assert place(7) == 7
    program.unlink()
    linecache.checkcache()
    assert place(2) == 2


def test_an_orphaned_task_is_found():
    lost = task(orphaned=True, waiting_since=BEGIN + SECOND, waiting_at=[YIELDS])
    finding = only(observed(tasks=[lost]))
    assert (finding.kind, finding.place) == ("task-waits-long", YIELDS)
    assert find(observed(tasks=[replace(lost, main=True)])) == []
    assert find(observed(tasks=[replace(lost, orphaned=False)])) == []
    assert find(observed(tasks=[replace(lost, ended=BEGIN + SECOND + 100 * MS)])) == []


def test_a_lock_that_is_held_long_is_found():
    waits = task(waiting_for="Lock", waiting_since=BEGIN + SECOND, waiting_at=[YIELDS])
    assert find(observed(tasks=[waits])) == []
    finding = only(observed(tasks=[waits, replace(waits, id=2)]), Thresholds(lock_wait=5))
    assert (finding.kind, finding.data["tasks"]) == ("task-waits-long", 2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("task never retrieved", "exception-never-retrieved"),
        ("future never retrieved", "exception-never-retrieved"),
        ("task destroyed pending", "task-destroyed-pending"),
        ("callback", "exception-in-callback"),
    ],
)
def test_unhandled_errors_are_found(kind: str, expected: str):
    finding = only(observed(errors=[ErrorFigures("KeyError", "'XYZ'", HANDLER, 3, kind=kind)]))
    assert (finding.kind, finding.place, finding.severity) == (expected, HANDLER, "error")
    assert finding.data["count"] == 3
    assert finding.title.startswith(f"a {kind.split()[0]} ")


def test_a_cancelled_handler_of_a_stream_is_no_fault():
    error = ErrorFigures("CancelledError", "", HANDLER, 80, kind="callback")
    assert find(observed(errors=[error])) == []


def test_a_task_that_was_destroyed_is_not_also_an_orphan():
    lost = task(orphaned=True, waiting_since=BEGIN + SECOND, waiting_at=[YIELDS])
    error = ErrorFigures("", "", YIELDS, kind="task destroyed pending")
    assert only(observed(tasks=[lost], errors=[error])).kind == "task-destroyed-pending"


# Timers.


def test_late_timers_are_found_with_the_code_that_fills_the_queue():
    timers = TimerFigures(fired=20, lateness=spread(*range(100 * MS, 2100 * MS, 100 * MS)))
    codes = [
        CodeFigures(1, "callback", HANDLER, calls=2000, busy=4 * SECOND, longest=3 * MS),
        CodeFigures(2, "callback", RUN, calls=20, busy=MS),
    ]
    finding = only(observed(timers=timers, codes=codes))
    assert (finding.kind, finding.place) == ("timers-late", HANDLER)
    # Of a few, or a little: nothing.
    assert find(observed(timers=TimerFigures(fired=5, lateness=spread(*[SECOND] * 5)))) == []
    assert find(observed(timers=TimerFigures(fired=50, lateness=spread(*[20 * MS] * 50)))) == []


def test_timers_that_are_late_for_want_of_a_cpu_are_no_finding():
    timers = TimerFigures(fired=20, lateness=spread(*[300 * MS] * 20))
    assert find(observed(timers=timers, blocks=[block(duration=310 * MS, runqueue=290 * MS)])) == []
    finding = only(observed(timers=timers, blocks=[block(duration=190 * MS, runqueue=100 * MS)]))
    assert finding.kind == "timers-late"
    assert find(observed(timers=timers, cpu=SECOND, runqueue=3 * SECOND)) == []
    assert only(observed(timers=timers, cpu=SECOND, runqueue=SECOND)).kind == "timers-late"


def test_late_timers_are_the_consequence_of_a_block():
    timers = TimerFigures(fired=20, lateness=spread(*[300 * MS] * 20))
    finding = only(observed(timers=timers, blocks=[block()]))
    assert finding.kind == "loop-blocked"
    assert "consequence" in finding.evidence[-1]


def test_a_storm_of_sleeping_tasks_is_found_at_their_await():
    tasks = [
        task(n, steps=100, waiting_for="sleep", waiting_at=[YIELDS, SLEEP]) for n in range(1, 301)
    ]
    done = CodeFigures(1, "timer", replace(SLEEP, function="_set_result"), calls=30_000)
    storm = {
        "timers": TimerFigures(fired=30_000, by_code=[done]),
        "tasks": tasks,
        "events": 60_000,
        "busy": 9 * SECOND,
        "waiting": SECOND,
    }
    finding = only(observed(**storm))
    assert (finding.kind, finding.place) == ("timer-storm", YIELDS)
    assert find(observed(**{**storm, "events": 600_000})) == []
    assert find(observed(**{**storm, "busy": SECOND, "waiting": 9 * SECOND})) == []


def test_a_storm_of_call_later_is_found_at_the_callback():
    code = CodeFigures(1, "timer", HANDLER, calls=50_000)
    timers = TimerFigures(fired=50_000, by_code=[code])
    finding = only(observed(timers=timers, events=60_000, busy=9 * SECOND, waiting=SECOND))
    assert (finding.kind, finding.place) == ("timer-storm", HANDLER)


# Connections.


def connection(fd=7, **fields) -> ConnectionFigures:
    begun = {"opened": BEGIN + SECOND, "peer": f"127.0.0.1:{40000 + fd}", "protocol": "app.Chat"}
    return ConnectionFigures(fd, **{**begun, **fields})


def test_reading_that_stays_paused_is_found_where_it_was_paused():
    paused = connection(longest_reading_pause=2 * SECOND, most_unread=5000, paused_at=HANDLER)
    finding = only(observed(connections=[paused]))
    assert (finding.kind, finding.place) == ("reader-paused", HANDLER)
    assert find(observed(connections=[replace(paused, most_unread=0)])) == []
    assert find(observed(connections=[replace(paused, longest_reading_pause=500 * MS)])) == []


def test_a_blocked_loop_does_not_pause_readers():
    paused = connection(longest_reading_pause=1100 * MS, most_unread=5000, paused_at=HANDLER)
    assert only(observed(connections=[paused], blocks=[block()])).kind == "loop-blocked"


def test_data_that_no_code_reads_is_found_at_the_task_that_has_the_connection():
    full = connection(
        longest_reading_pause=2 * SECOND, buffered=150_000, most_unread=5000, user=YIELDS
    )
    finding = only(observed(connections=[full]))
    assert (finding.kind, finding.place) == ("unread-data", YIELDS)
    raw = connection(longest_unread=2 * SECOND, most_unread=500, opened_at=HANDLER, user=STREAMS)
    finding = only(observed(connections=[raw]))
    assert (finding.kind, finding.place) == ("unread-data", HANDLER)


def test_a_client_that_does_not_read():
    slow = connection(longest_writing_pause=2 * SECOND, most_unsent=100_000, written_at=HANDLER)
    finding = only(observed(connections=[slow]))
    assert (finding.kind, finding.place) == ("slow-client", HANDLER)
    growing = replace(slow, written_while_paused=20 * 2**20, most_unsent=21 * 2**20)
    finding = only(observed(connections=[growing]))
    assert (finding.kind, finding.place) == ("send-buffer-growing", HANDLER)
    assert "21 MiB" in finding.title


def test_a_client_in_this_process_whose_peer_does_not_read_is_a_consequence():
    full = connection(
        longest_reading_pause=2 * SECOND, buffered=150_000, user=YIELDS, local="127.0.0.1:80"
    )
    client = connection(
        fd=8, longest_writing_pause=2 * SECOND, peer="127.0.0.1:80", local=full.peer
    )
    assert only(observed(connections=[client, full])).kind == "unread-data"


def test_connections_that_only_grow_in_number_leak():
    leaked = [
        connection(fd, opened=BEGIN + fd * 100 * MS, opened_at=HANDLER) for fd in range(10, 90)
    ]
    finding = only(observed(connections=leaked))
    assert (finding.kind, finding.place) == ("connection-leak", HANDLER)
    assert finding.data["open"] == 80
    # A pool that was filled at once, connections with a task, and those that are closed, do not.
    pool = [replace(each, opened=BEGIN + each.fd * MS) for each in leaked]
    assert find(observed(connections=pool)) == []
    assert find(observed(connections=[replace(each, user=YIELDS) for each in leaked])) == []
    closed = [replace(each, closed=each.opened + SECOND) for each in leaked]
    assert find(observed(connections=closed)) == []
    assert find(observed(connections=leaked[:10])) == []


RECEIVED = Place("Client.data_received", "/venv/lib/python3.13/site-packages/http/client.py", 40)


def test_connections_of_a_librarys_protocol_leak_if_they_are_not_used_again():
    leaked = [
        connection(
            fd,
            opened=BEGIN + fd * 100 * MS,
            last_received=BEGIN + fd * 100 * MS + MS,
            opened_at=HANDLER,
            handler=RECEIVED,
            peer="192.0.2.1:80",
        )
        for fd in range(10, 90)
    ]
    finding = only(observed(connections=leaked))
    assert (finding.kind, finding.place) == ("connection-leak", HANDLER)
    assert "AsyncClient" in finding.advice
    # A pool that grew with the load has used all of them after the last one was opened.
    pool = [replace(each, last_received=BEGIN + 9200 * MS + each.fd * MS) for each in leaked]
    assert find(observed(connections=pool)) == []
    # A pool keeps connections to many hosts; subscribers wait for messages once all are connected.
    hosts = [replace(each, peer=f"192.0.2.{each.fd}:80") for each in leaked]
    assert find(observed(connections=hosts)) == []
    subscribers = observed(connections=leaked, end=BEGIN + 30 * SECOND)
    assert find(subscribers) == []
    assert find(observed(connections=[replace(each, user=YIELDS) for each in leaked])) == []


def test_a_slow_client_of_a_librarys_protocol_is_found_at_the_task_or_the_line_that_writes():
    slow = connection(
        longest_writing_pause=2 * SECOND,
        most_unsent=100_000,
        written_at=HANDLER,
        handler=RECEIVED,
    )
    assert only(observed(connections=[slow])).place == HANDLER
    assert only(observed(connections=[replace(slow, user=YIELDS)])).place == YIELDS
    # A task of the library waits for the program's.
    assert only(observed(connections=[replace(slow, user=RECEIVED)])).place == HANDLER
    assert only(observed(connections=[replace(slow, written_at=None)])).place == RECEIVED


# The executor, system calls.


def test_jobs_that_wait_for_a_worker_are_found_with_the_job_that_occupies_them():
    executor = ExecutorFigures(
        max_workers=2,
        submitted=16,
        waiting=spread(*range(0, 1600 * MS, 100 * MS)),
        by_code=[CodeFigures(1, "job", HANDLER, 16, 4 * SECOND)],
    )
    finding = only(observed(executor=executor))
    assert (finding.kind, finding.place) == ("executor-full", HANDLER)
    executor.waiting = spread(*[10 * MS] * 16)
    assert find(observed(executor=executor)) == []


def test_many_small_sends_of_one_handler_are_found():
    many = connection(sends=10_000, repeated_sends=9_900, bytes_out=10_000, sender=HANDLER)
    finding = only(observed(connections=[many]))
    assert (finding.kind, finding.place) == ("many-system-calls", HANDLER)
    assert find(observed(connections=[replace(many, bytes_out=10**7)])) == []
    protocol = replace(many, sender=Place("app.Chat"), handler=HANDLER)
    assert only(observed(connections=[protocol])).place == HANDLER
    # Datagrams cannot be joined.
    assert find(observed(connections=[replace(many, datagrams=True)])) == []
    # One send for each event, however small.
    assert find(observed(connections=[replace(many, repeated_sends=100)])) == []


def test_errors_come_before_warnings():
    slow = connection(longest_writing_pause=2 * SECOND, most_unsent=100_000, written_at=HANDLER)
    error = ErrorFigures("KeyError", "'XYZ'", HANDLER, kind="callback")
    found = find(observed(connections=[slow], errors=[error]))
    assert [each.severity for each in found] == ["error", "warning"]
