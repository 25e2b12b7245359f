"""A process observed at several moments, built by hand: two loops with something of everything."""

from __future__ import annotations

from noria.sight.observation import (
    Block,
    CodeFigures,
    ConnectionFigures,
    Distribution,
    ErrorFigures,
    ExecutorFigures,
    FileFigures,
    GcFigures,
    LoopFigures,
    Observation,
    Place,
    Sample,
    SlowCall,
    TaskFigures,
    TimerFigures,
)

MS = 1_000_000
SECOND = 1_000 * MS
START = 5_000 * SECOND  # CLOCK_MONOTONIC when the program began
CHAT = "/srv/chat/server.py"


def place(function: str, line: int = 0, source: str = "", file: str = CHAT) -> Place:
    """Return a place in the sample program."""
    return Place(function, file, line, source)


def distribution(*values: tuple[int, int]) -> Distribution:
    """Return a distribution of (duration in ns, count)."""
    return Distribution(
        sum(count for _, count in values),
        sum(duration * count for duration, count in values),
        max((duration for duration, count in values if count), default=0),
        [(duration * 17 // 16, count) for duration, count in values if count],
    )


def _tasks(now: int, step: int) -> list[TaskFigures]:
    serve = place("serve", 212, "await server.serve_forever()")
    read = place(
        "StreamReader.readuntil",
        662,
        "await self._wait_for_data('readuntil')",
        "/usr/lib/python3.13/asyncio/streams.py",
    )
    handle = place("Room.handle", 88, "line = await reader.readline()")
    tasks = [
        TaskFigures(
            1,
            "main",
            place("main", 230),
            "waiting",
            START,
            steps=3,
            busy=2 * MS,
            main=True,
            last_step=START + 2 * MS,
            waiting_since=START + 2 * MS,
            waiting_at=[place("main", 238, "async with asyncio.TaskGroup() as group:"), serve],
            waiting_for="Future",
            scheduled=40_000,
        ),
        TaskFigures(
            2,
            "broadcast",
            place("Room.broadcast", 120),
            "running",
            START + MS,
            awaited_by=[1],
            steps=9_000 + 420 * step,
            busy=300 * MS + 310 * MS * step,
            scheduled=20 * MS * step,
            longest_step=38 * MS,
            last_step=now - MS,
            self_wakes=12,
            waiting_at=[place("Room.broadcast", 127, "payload = json.dumps(self.history)")],
        ),
        TaskFigures(
            3,
            "heartbeat",
            place("heartbeat", 150),
            "waiting",
            START + MS,
            awaited_by=[1],
            steps=50 + step,
            busy=3 * MS,
            scheduled=MS,
            last_step=now - 400 * MS,
            waiting_since=now - 400 * MS,
            waiting_for="sleep",
            waiting_at=[place("heartbeat", 153, "await asyncio.sleep(1)")],
        ),
        TaskFigures(
            4,
            "Task-9",
            place("store_messages", 60),
            "waiting",
            START + MS,
            awaited_by=[1],
            steps=700,
            busy=90 * MS,
            scheduled=7 * MS,
            last_step=now - 42 * SECOND,
            waiting_since=now - 42 * SECOND,
            waiting_for="Queue.get",
            waiting_at=[place("store_messages", 64, "message = await queue.get()")],
        ),
        TaskFigures(
            5,
            "save-snapshot",
            place("save", 180),
            "scheduled",
            now - 3 * SECOND,
            awaited_by=[4],
            steps=14 + step,
            busy=6 * MS,
            scheduled=300 * MS * (step + 1),
            last_step=now - 200 * MS,
            waiting_at=[place("save", 186, "await loop.run_in_executor(None, write, data)")],
        ),
        TaskFigures(
            6,
            "lost",
            place("notify", 201),
            "waiting",
            START + SECOND,
            steps=1,
            busy=MS,
            last_step=START + SECOND,
            waiting_since=START + SECOND,
            waiting_for="Future",
            orphaned=True,
            waiting_at=[place("notify", 204, "await answer")],
        ),
        TaskFigures(
            7,
            "Task-3",
            place("warm_up", 20),
            "done",
            START,
            ended=START + SECOND,
            steps=4,
            busy=12 * MS,
        ),
    ]
    tasks += [
        TaskFigures(
            100 + number,
            f"client-{number:02}",
            place("Room.handle", 80),
            "waiting",
            START + number * SECOND,
            steps=100 * number + step * (number % 4),
            busy=number * MS + step * (number % 4) * MS,
            scheduled=number * 100_000,
            longest_step=MS,
            last_step=now - number * 50 * MS,
            waiting_since=now - number * 50 * MS,
            waiting_for="StreamReader",
            waiting_at=[handle, read],
        )
        for number in range(1, 31)
    ]
    return tasks


def _connections(now: int, step: int) -> list[ConnectionFigures]:
    found = [
        ConnectionFigures(
            10 + number,
            START + number * SECOND,
            peer=f"192.0.2.{number}:{50_000 + 37 * number}",
            local="198.51.100.7:8888",
            protocol="StreamReaderProtocol",
            tls="TLSv1.3" if number % 3 else "",
            bytes_in=4_000 * number + 900 * step * (number % 4),
            bytes_out=60_000 * number + 20_000 * step * (number % 5),
            receives=90 * number,
            sends=80 * number,
            last_received=now - number * 50 * MS,
            last_sent=now - number * 30 * MS,
            user=place("Room.handle", 88),
        )
        for number in range(1, 27)
    ]
    found[4].unread, found[4].unread_since = 131_072, now - 12 * SECOND
    found[4].reading_paused_since = now - 12 * SECOND
    found[4].paused_at = place("Room.flood_control", 99, "writer.transport.pause_reading()")
    found[7].unread, found[7].unread_since = 2_048, now - 1_500 * MS
    found[9].unsent, found[9].unsent_in_kernel = 3 << 20, 1 << 20
    found[9].writing_paused_since = now - 4 * SECOND
    found[9].written_at = place("Room.broadcast", 131, "writer.write(payload)")
    found.append(
        ConnectionFigures(
            60,
            START + 2 * SECOND,
            peer="203.0.113.9:5432",
            local="198.51.100.7:40112",
            protocol="asyncpg.protocol.Protocol",
            bytes_in=9_000_000 + 65_000 * step,
            bytes_out=400_000 + 1_000 * step,
            last_received=now - 5 * MS,
            opened_at=place("open_pool", 33, "await asyncpg.create_pool(dsn)"),
        )
    )
    found.append(
        ConnectionFigures(
            9, START, START + 30 * SECOND, peer="192.0.2.99:40001", bytes_in=77, bytes_out=12
        )
    )
    return found


def _codes(step: int) -> list[CodeFigures]:
    return [
        CodeFigures(
            11,
            "task",
            place("Room.broadcast", 120),
            9_000 + 420 * step,
            300 * MS + 310 * MS * step,
            38 * MS,
        ),
        CodeFigures(
            12,
            "task",
            place("Room.handle", 80),
            40_000 + 3_800 * step,
            800 * MS + 64 * MS * step,
            4 * MS,
        ),
        CodeFigures(
            13,
            "protocol",
            place("StreamReaderProtocol", 200, "", "/usr/lib/python3.13/asyncio/streams.py"),
            50_000 + 4_100 * step,
            200 * MS + 22 * MS * step,
            MS,
        ),
        CodeFigures(
            14,
            "callback",
            place("Future.set_result", 0, "", ""),
            20_000 + 900 * step,
            20 * MS + MS * step,
            90_000,
        ),
        CodeFigures(
            15,
            "timer",
            place("Cache.expire", 44, "", "/srv/chat/cache.py"),
            50 + step,
            500 * MS + 11 * MS * step,
            212 * MS,
        ),
    ]


def _samples(now: int) -> list[Sample]:
    samples = []
    for number in range(40):
        wave = (number * 7) % 23
        begin = now - (40 - number) * SECOND
        samples.append(
            Sample(
                begin,
                begin + SECOND,
                busy=(15 + 3 * wave) * 10 * MS,
                turns=2_000,
                events=4_000 + 300 * wave,
                steps=1_000,
                system_calls=9_000,
                bytes_in=90_000,
                bytes_out=1_400_000,
                longest_turn=(2 + wave) * MS,
                longest_queue_delay=(1 + wave) * MS,
                gc=2 * MS,
            )
        )
    return samples


def _main_loop(now: int, step: int) -> LoopFigures:
    """Return the loop of the main thread after *step* seconds more."""
    connections = _connections(now, step)
    return LoopFigures(
        0,
        "epoll",
        "MainThread",
        True,
        begin=now - (40 + step) * SECOND,
        end=now,
        busy=17 * SECOND + 430 * MS * step,
        waiting=23 * SECOND + 570 * MS * step,
        turns=80_000 + 2_100 * step,
        waits=80_000 + 2_000 * step,
        polls=9_000 + 310 * step,
        empty_polls=700 + 25 * step,
        events=320_000 + 9_300 * step,
        callbacks=60_000 + 1_000 * step,
        steps=110_000 + 4_200 * step,
        io=150_000 + 4_100 * step,
        wakeups=300 + 6 * step,
        records=2_000_000 + 40_000 * step,
        dropped=0 if step < 3 else 1_234,
        system_calls={
            "waits": 89_000 + 2_310 * step,
            "receives": 160_000 + 4_500 * step,
            "empty_receives": 5_000,
            "sends": 140_000 + 4_000 * step,
            "accepts": 60,
            "controls": 900 + step,
            "bytes_in": 11_000_000 + 98_000 * step,
            "bytes_out": 60_000_000 + 1_450_000 * step,
        },
        turn=distribution(
            (40_000, 50_000 + 1_000 * step),
            (120_000, 20_000 + 800 * step),
            (410_000, 8_000 + 250 * step),
            (1_900_000, 1_900 + 45 * step),
            (12 * MS, 90 + 4 * step),
            (212 * MS, 1 + step // 2),
        ),
        queue_delay=distribution(
            (18_000, 200_000 + 6_000 * step),
            (95_000, 90_000 + 2_500 * step),
            (800_000, 29_000 + 760 * step),
            (9 * MS, 900 + 40 * step),
            (205 * MS, 5 + step),
        ),
        handler=distribution((9_000, 300_000), (MS, 20_000), (212 * MS, 1)),
        tasks_alive=36,
        tasks_created=400 + 2 * step,
        codes=_codes(step),
        slow=[
            SlowCall(
                "timer",
                place("Cache.expire", 44, "", "/srv/chat/cache.py"),
                now - 9 * SECOND,
                212 * MS,
                events_waiting=64,
            ),
            SlowCall(
                "task",
                place("Room.broadcast", 127),
                now - 2 * SECOND,
                38 * MS,
                task=2,
                events_waiting=12,
            ),
        ],
        tasks=_tasks(now, step),
        connections=connections,
        connections_opened=190 + step,
        connections_open=sum(not connection.closed for connection in connections),
        timers=TimerFigures(
            31,
            2_000 + 52 * step,
            distribution(
                (60_000, 1_500 + 30 * step),
                (300_000, 400 + 15 * step),
                (2_200_000, 90 + 6 * step),
                (190 * MS, 10 + step),
            ),
            [
                CodeFigures(
                    15,
                    "timer",
                    place("Cache.expire", 44, "", "/srv/chat/cache.py"),
                    50 + step,
                    500 * MS + 11 * MS * step,
                    212 * MS,
                ),
                CodeFigures(16, "timer", place("heartbeat", 150), 50 + step, 3 * MS, 80_000),
                CodeFigures(
                    17,
                    "timer",
                    place("Limiter.refill", 12, "", "/srv/chat/limits.py"),
                    1_900 + 50 * step,
                    30 * MS + MS * step,
                    200_000,
                ),
            ],
        ),
        files=FileFigures(
            900 + 12 * step, 2, 3, distribution((70_000, 800 + 9 * step), (6 * MS, 90 + 3 * step))
        ),
        executor=ExecutorFigures(
            4,
            8,
            17,
            4,
            600 + 9 * step,
            580 + 8 * step,
            distribution((50_000, 300 + step), (40 * MS, 200 + 5 * step), (1_400 * MS, 20 + step)),
            distribution((4 * MS, 400 + 5 * step), (90 * MS, 150 + 3 * step)),
            [
                CodeFigures(21, "job", place("write", 170), 400 + 6 * step, 9 * SECOND, 310 * MS),
                CodeFigures(
                    22,
                    "job",
                    place("hash_password", 15, "", "/srv/chat/users.py"),
                    180 + 2 * step,
                    16 * SECOND,
                    120 * MS,
                ),
            ],
        ),
        gc=GcFigures(
            [900 + 20 * step, 80 + 2 * step, 3],
            40_000,
            distribution((400_000, 950 + 21 * step), (15 * MS, 30 + step)),
        ),
        blocks=[
            Block(
                now - 9 * SECOND,
                212 * MS,
                task="",
                events_waiting=64,
                delay_share=0.41,
                stack=[
                    place(
                        "Runner.run",
                        118,
                        "return self._loop.run_until_complete(task)",
                        "/usr/lib/python3.13/asyncio/runners.py",
                    ),
                    place(
                        "Cache.expire",
                        47,
                        "self.entries = copy.deepcopy(kept)",
                        "/srv/chat/cache.py",
                    ),
                    place("deepcopy", 137, "y = copier(x, memo)", "/usr/lib/python3.13/copy.py"),
                ],
                cpu=209 * MS,
            ),
        ],
        errors=[
            ErrorFigures(
                "KeyError",
                "'nick'",
                place("Room.join", 71),
                3,
                now - 20 * SECOND,
                "task never retrieved",
            ),
        ],
        samples=_samples(now),
    )


def _worker_loop(now: int, step: int) -> LoopFigures:
    """Return a small loop in another thread."""
    return LoopFigures(
        1,
        "epoll",
        "metrics",
        True,
        begin=now - (40 + step) * SECOND,
        end=now,
        busy=200 * MS + 5 * MS * step,
        waiting=39_800 * MS + 995 * MS * step,
        turns=400 + 10 * step,
        waits=400 + 10 * step,
        events=800 + 20 * step,
        io=400 + 10 * step,
        steps=400 + 10 * step,
        system_calls={"waits": 400 + 10 * step, "receives": 400 + 10 * step},
        turn=distribution((90_000, 400 + 10 * step)),
        queue_delay=distribution((20_000, 800 + 20 * step)),
        tasks_alive=1,
        tasks=[
            TaskFigures(
                500,
                "push",
                place("push", 9, "", "/srv/chat/metrics.py"),
                "waiting",
                START,
                steps=400 + 10 * step,
                busy=100 * MS,
                last_step=now - 70 * MS,
            )
        ],
    )


def sample_observation(step: int = 0) -> Observation:
    """Return the sample process *step* seconds after the first observation."""
    now = START + (100 + step) * SECOND
    return Observation(
        4711,
        "python -m chat --port 8888",
        "3.13.0",
        "0.9.0",
        now,
        1_700_000_000 * SECOND + step * SECOND,
        loops=[_main_loop(now, step), _worker_loop(now, step)],
    )


class ScriptedSource:
    """A source of sample observations: each call is one second later.

    `error` is raised instead if it is set; `has_ended` is what `ended` returns.
    """

    def __init__(self) -> None:
        self.step = 0
        self.error: Exception | None = None
        self.has_ended = False
        self.closed = False
        self.dumped = ""

    def observe(self) -> Observation:
        """Return the next observation."""
        if self.error is not None:
            raise self.error
        observation = sample_observation(self.step)
        self.step += 1
        return observation

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self.has_ended

    def dump(self, path: str) -> int:
        """Remember the path."""
        self.dumped = path
        return 12_345

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
