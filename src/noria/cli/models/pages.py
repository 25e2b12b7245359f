"""The texts of a model's page."""

from dataclasses import dataclass

STEVENS = "Stevens, Fenner and Rudoff, UNIX Network Programming vol. 1, 3rd ed., section 6.2"


@dataclass(frozen=True)
class Page:
    """The texts of one page. *calls*: each system call that the model uses, and what it does."""

    how: str
    calls: tuple[tuple[str, str], ...]
    use: str
    cannot: str
    source: str


_ACCEPT = ("accept4", "accepts the next connection")
_RECV_NOW = ("recv", "copies the data that is there; never blocks here")

PAGES = {
    "blocking": Page(
        how="The process calls recv and is blocked in it during both phases: until the kernel has "
        "data, and while the data is copied. This is one call and one line of code, and meanwhile "
        "the process can do nothing else. The kernel accepts the next client, which waits in the "
        "listen queue until the first one disconnects.",
        calls=(
            ("accept4", "blocks until there is a connection"),
            ("recv", "blocks until there is data, then copies it"),
            ("send", "blocks until the send buffer has space"),
        ),
        use="One peer at a time: a tool, a test, a child process for each connection.",
        cannot="Serve two connections at once, wait for several descriptors, run asyncio. Its "
        "timers and wake-ups are emulated: they run when a call returns.",
        source=f"{STEVENS}, figure 6.1; recv(2), accept(2)",
    ),
    "threaded": Page(
        how="Like blocking, with a thread for each connection: each thread blocks in its own recv, "
        "and the kernel's scheduler is the event loop. A thread costs its stack, and a context "
        "switch for every message; in Python, it also waits for the interpreter lock.",
        calls=(
            ("clone", "starts a thread for a connection"),
            ("recv", "blocks until there is data for this thread, then copies it"),
            ("futex", "the lock that the threads share"),
        ),
        use="Tens of connections whose handlers block elsewhere: on disks, on databases.",
        cannot="Serve thousands of connections cheaply, wait for several descriptors in one call, "
        "run asyncio.",
        source=f"{STEVENS} (multithreading, related to figure 6.3); pthreads(7)",
    ),
    "nonblocking": Page(
        how="The sockets are set to O_NONBLOCK and polled in turn. A socket without data "
        "returns EAGAIN at once, so no connection delays another, but the process must poll "
        "repeatedly, and nearly every poll returns EAGAIN. --interval sets the pause between two "
        "rounds: a short one uses much processor time, a long one delays every message.",
        calls=(
            ("fcntl", "sets O_NONBLOCK"),
            ("recv", "copies the data that is there, or returns EAGAIN"),
            ("clock_nanosleep", "the pause between two rounds"),
        ),
        use="To see what readiness calls save; or for a few sockets in a program that loops "
        "anyway, such as a game.",
        cannot="Sleep until something happens. Each connection costs a system call in every round.",
        source=f"{STEVENS}, figure 6.2; fcntl(2)",
    ),
    "select": Page(
        how="One call waits for all descriptors. The process passes three bit sets to the kernel, "
        "one bit for each descriptor. The kernel checks each, sleeps until one is ready, and "
        "returns the sets, which the process scans. A second call then copies the data. select is "
        "level-triggered: a descriptor with unread data is reported again by the next call.",
        calls=(
            ("select", "blocks until one of the descriptors is ready; scans them all"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Where nothing else is available. It is the oldest, and every Unix has it.",
        cannot="Take a descriptor whose number is 1024 or more (FD_SETSIZE): such a connection is "
        "closed, and the log has an error. Each call takes time for every descriptor, idle or not.",
        source=f"{STEVENS}, figure 6.3; select(2)",
    ),
    "poll": Page(
        how="Like select, with an array instead of bit sets: one entry per descriptor, with the "
        "requested and the returned events. Descriptor numbers have no limit, but the whole array "
        "is copied to the kernel at each call, and both sides scan every entry. Level-triggered.",
        calls=(
            ("poll", "blocks until one of the descriptors is ready; scans them all"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Up to a few hundred descriptors, or a set that changes with every call.",
        cannot="Stay cheap with many idle connections: each is checked in every call.",
        source=f"{STEVENS}, figure 6.3; poll(2)",
    ),
    "epoll": Page(
        how="The kernel keeps the set, and epoll_ctl changes it. When data arrives, the kernel "
        "adds the descriptor to a ready list. epoll_wait returns only this list, so idle "
        "connections cost nothing. The process still copies with a call of its own: this is "
        "multiplexing, and synchronous in Stevens' sense. Level-triggered: a descriptor with "
        "unread data is reported by every call.",
        calls=(
            ("epoll_ctl", "adds, changes or removes a descriptor, once"),
            ("epoll_wait", "blocks until the ready list is not empty; returns the list"),
            _ACCEPT,
            _RECV_NOW,
        ),
        use="Servers with many connections. It works everywhere on Linux, also in containers.",
        cannot="Wait for regular files, which are always 'ready' (noria uses threads for them); "
        "avoid the call that copies.",
        source=f"epoll(7); {STEVENS}, figure 6.3 (epoll is younger than the figure)",
    ),
    "epoll-edge": Page(
        how="epoll with EPOLLET: a change is reported once, when data arrives, and not again while "
        "data is unread. So the process must read until recv returns EAGAIN, or the rest stays "
        "unread until more arrives. noria reads up to a limit of bytes, so that one busy "
        "connection cannot starve the others, and reads the rest later.",
        calls=(
            ("epoll_ctl", "adds a descriptor with EPOLLET, once"),
            ("epoll_wait", "blocks until something becomes ready; reports it once"),
            ("recv", "repeated until EAGAIN or the limit"),
        ),
        use="Connections that receive much at a time, and several threads that share one set.",
        cannot="Report again data that was left unread. Wait for regular files (threads do).",
        source=f"epoll(7), 'Level-triggered and edge-triggered'; {STEVENS}, figure 6.3",
    ),
    "io_uring": Page(
        how="The process puts requests into a ring that it shares with the kernel. The kernel "
        "waits for the data, copies it into a buffer that the process provided, and puts a "
        "completion into a second ring: when the handler runs, the data is already there. The "
        "process is not blocked in either phase, so this is the only asynchronous model in "
        "Stevens' sense. If there is nothing else to do, the process blocks in io_uring_enter "
        "until there is a completion.",
        calls=(
            ("io_uring_setup", "creates the two rings, once"),
            ("io_uring_enter", "submits many requests at once; blocks if there is nothing to do"),
            ("io_uring_register", "provides buffers to the kernel"),
        ),
        use="Files, batches, many messages in flight, many busy connections.",
        cannot="Work everywhere: it needs Linux 6.1, and container runtimes often forbid it. "
        "For single small messages it is no faster than epoll.",
        source=f"io_uring(7); {STEVENS}, figure 6.5 (there with POSIX aio_read)",
    ),
    "simulated": Page(
        how="For tests. The network is in memory, the clock is virtual and jumps to the next "
        "event, and faults are drawn from a seed: short reads and writes, EAGAIN, EINTR, resets, "
        "late and reordered completions. The same seed gives the same run, byte for byte, so a "
        "failure can be reproduced.",
        calls=(),
        use="Testing protocols against network faults, thousands of times a second.",
        cannot="Communicate with other processes: 'noria serve' does not accept it.",
        source="noria",
    ),
    "auto": Page(
        how="Chooses the first model that works on this machine, in an order that noria's "
        "benchmarks gave. If one is refused, by a container or an old kernel, the next one is "
        "used, and the log has one line about it.",
        calls=(),
        use="Nearly always. Name a model to compare models, or to get an error instead of another "
        "model.",
        cannot="Choose a model that serves one connection at a time, or one that polls: these are "
        "for study, and must be named with --model.",
        source="'noria compare' measures every model on this machine",
    ),
}
