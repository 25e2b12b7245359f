"""What a page says of a model, beside its drawing."""

from dataclasses import dataclass

STEVENS = "Stevens, Fenner and Rudoff, UNIX Network Programming vol. 1, 3rd ed., section 6.2"


@dataclass(frozen=True)
class Page:
    """The words of one page. *calls*: each system call that it lives by, and what that does."""

    how: str
    calls: tuple[tuple[str, str], ...]
    use: str
    cannot: str
    source: str


_ACCEPT = ("accept4", "takes the next connection")
_RECV_NOW = ("recv", "copies what is there; never sleeps here")

PAGES = {
    "blocking": Page(
        how="The process calls recv and sleeps in it through both phases: until the kernel has "
        "data, and while they are copied. It is one call and one line of code, and during it the "
        "process can do nothing else. The next client is connected by the kernel, and waits "
        "unanswered in the listen queue until this one has left.",
        calls=(
            ("accept4", "sleeps until a connection is there"),
            ("recv", "sleeps until data are there, then copies them"),
            ("send", "sleeps until the kernel has room"),
        ),
        use="One peer at a time: a tool, a test, a child process for each connection.",
        cannot="Serve two connections at once, wait for several descriptors, run asyncio. Its "
        "timers and wake-ups are emulated: they run when a call happens to return.",
        source=f"{STEVENS}, figure 6.1; recv(2), accept(2)",
    ),
    "threaded": Page(
        how="As blocking, with a thread for each connection: each thread sleeps in its own recv, "
        "and the kernel's scheduler is the event loop. What a thread costs is its stack and a "
        "switch for every message; in Python, the interpreter lock as well.",
        calls=(
            ("clone", "a thread for a connection"),
            ("recv", "sleeps until data are there for this thread, then copies them"),
            ("futex", "the lock that the threads share"),
        ),
        use="Tens of connections whose handlers block in other things: disks, databases.",
        cannot="Serve thousands of connections cheaply, wait for several descriptors in one call, "
        "run asyncio.",
        source="the same section of Stevens, as a relative of figure 6.3; pthreads(7)",
    ),
    "nonblocking": Page(
        how="The sockets are set to O_NONBLOCK and asked in turn. One that has nothing answers "
        "EAGAIN at once, so no connection holds up another, but the process must ask again and "
        "again, and nearly every ask is in vain. --interval sets the pause between two rounds: a "
        "short one burns the processor, a long one makes every message wait.",
        calls=(
            ("fcntl", "sets O_NONBLOCK"),
            ("recv", "copies what is there, or says EAGAIN"),
            ("clock_nanosleep", "the pause between two rounds"),
        ),
        use="To see what readiness calls save; or for a few sockets in a loop that turns anyway, "
        "as in a game.",
        cannot="Sleep until something happens. Each connection costs an ask a round.",
        source=f"{STEVENS}, figure 6.2; fcntl(2)",
    ),
    "select": Page(
        how="One call sleeps for all descriptors. The process hands the kernel three sets of bits, "
        "one bit a descriptor; the kernel looks at each, sleeps until one is ready, and hands the "
        "sets back, which the process scans again. A second call then copies. It is level-"
        "triggered: what is not read yet is told again at the next call.",
        calls=(
            ("select", "sleeps until any of the descriptors is ready; scans them all"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Where nothing else is there. It is the oldest, and every Unix has it.",
        cannot="Take a descriptor whose number is 1024 or more (FD_SETSIZE): such a connection is "
        "closed with an error in the log. Each call costs time for every descriptor, idle or not.",
        source=f"{STEVENS}, figure 6.3; select(2)",
    ),
    "poll": Page(
        how="As select, with an array in place of the bits: one entry a descriptor, with what is "
        "wanted and what has happened. No limit on numbers any more, but the whole array still "
        "goes to the kernel each time, and both sides look at every entry. Level-triggered.",
        calls=(
            ("poll", "sleeps until any of the descriptors is ready; scans them all"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Up to some hundred descriptors, or a set that changes with every call.",
        cannot="Stay cheap with many idle connections: each is looked at in every call.",
        source=f"{STEVENS}, figure 6.3; poll(2)",
    ),
    "epoll": Page(
        how="The kernel keeps the set, and epoll_ctl changes it. When data arrive, the kernel puts "
        "that descriptor on a ready list; epoll_wait hands over the list alone, so idle "
        "connections cost nothing. The copy is still a call of the process: this is multiplexing, "
        "and synchronous in Stevens' sense. Level-triggered: what is not read yet is told again at "
        "every call.",
        calls=(
            ("epoll_ctl", "adds, changes or removes a descriptor, once"),
            ("epoll_wait", "sleeps until the ready list has something; returns the list"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Servers with many connections. It works everywhere on Linux, in containers too.",
        cannot="Wait for regular files, which are always 'ready' (noria emulates them with "
        "threads); spare the copying call.",
        source=f"epoll(7); {STEVENS}, figure 6.3 (epoll is younger than the figure)",
    ),
    "epoll-edge": Page(
        how="epoll with EPOLLET: it tells of a change once, when data arrive, and not again while "
        "they lie unread. So a handler must read until recv says EAGAIN, or the rest lies there "
        "until more arrive. noria drains under a byte budget, so that one busy connection cannot "
        "starve the others, and comes back to what is left.",
        calls=(
            ("epoll_ctl", "adds a descriptor with EPOLLET, once"),
            ("epoll_wait", "sleeps until something becomes ready; tells of it once"),
            ("recv", "again and again, until EAGAIN or the budget's end"),
        ),
        use="Connections on which much arrives at a time, and several threads on one set.",
        cannot="Forgive a handler that leaves data unread. Wait for regular files (threads do).",
        source=f"epoll(7), 'Level-triggered and edge-triggered'; {STEVENS}, figure 6.3",
    ),
    "io_uring": Page(
        how="The process puts requests into a ring that it shares with the kernel. The kernel "
        "waits for the data, copies them into a buffer that was lent to it, and puts a completion "
        "into a second ring: when the handler runs, the data are already here. Neither phase holds "
        "up the process, so this is the only asynchronous model in Stevens' sense. When there is "
        "nothing else to do the process sleeps in io_uring_enter until a completion comes.",
        calls=(
            ("io_uring_setup", "makes the two rings, once"),
            ("io_uring_enter", "submits many requests at once; sleeps when there is nothing to do"),
            ("io_uring_register", "lends buffers to the kernel"),
        ),
        use="Files, batches, many messages in flight, many busy connections.",
        cannot="Be there everywhere: it needs Linux 6.1, and container runtimes often forbid it. "
        "For single small messages it is no faster than epoll.",
        source=f"io_uring(7); {STEVENS}, figure 6.5 (there with POSIX aio_read)",
    ),
    "simulated": Page(
        how="For tests. The network is in memory, the clock is virtual and jumps to the next "
        "event, and a seed draws the faults: short reads and writes, EAGAIN, EINTR, resets, late "
        "and reordered completions. The same seed gives the same run, byte for byte, so a failure "
        "found once can be seen again.",
        calls=(),
        use="Testing protocols against what a network does on a bad day, thousands of times a "
        "second.",
        cannot="Talk to anybody outside its own process: 'noria serve' does not take it.",
        source="noria's own",
    ),
    "auto": Page(
        how="Takes the first model that works on this machine, in the order of noria's own "
        "benchmarks. When one is refused, by a container or an old kernel, the next is taken, and "
        "the log says so once.",
        calls=(),
        use="Nearly always. Name a model when you want to compare, or to be refused rather than "
        "given another.",
        cannot="Choose a model that serves one connection at a time, or one that asks in vain: "
        "those are there to be understood, and for --model.",
        source="'noria compare' measures every model on this machine",
    ),
}
