"""Run a command in a network that has nothing but a loopback interface.

    python upstream_network.py COMMAND [ARGUMENT...]

`localhost` is ::1 and 127.0.0.1 there, and no name server answers, so no test reaches another
machine and all machines run the same tests. Needs root or the right to make a user namespace
(user_namespaces(7)); ends with status 125 without.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import tempfile

# linux/sched.h, linux/mount.h, linux/sockios.h and linux/if.h
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SIOCGIFINDEX, SIOCSIFADDR, SIOCSIFNETMASK = 0x8933, 0x8916, 0x891C
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1

# getaddrinfo(3) with AI_ADDRCONFIG finds no address of a family of which there are only loopback's.
# These are for documentation (RFC 5737, RFC 3849) and link-local, and lead to this machine too.
ADDRESS = "192.0.2.1"
ADDRESSES6 = ("2001:db8::1", "fe80::1")

FILES = {
    "/etc/hosts": f"127.0.0.1 localhost {socket.gethostname()}\n::1 localhost\n",
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    """Raise OSError for what a C function returned."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def unshare():
    """Leave the machine's network and its table of mounts."""
    uid, gid = os.getuid(), os.getgid()
    try:
        check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    except PermissionError:
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def set_up():
    """Start the loopback interface; put the files of FILES over the machine's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # struct ifreq: an interface's name, then its flags, an address or its index (netdevice(7))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for call, text in (SIOCSIFADDR, ADDRESS), (SIOCSIFNETMASK, "255.255.255.255"):
            address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))
            fcntl.ioctl(sock, call, struct.pack("16s16s", b"lo:0", address))
        (index,) = struct.unpack(
            "16xi12x", fcntl.ioctl(sock, SIOCGIFINDEX, struct.pack("16s16x", b"lo"))
        )
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for one in ADDRESSES6:
            # struct in6_ifreq: address, length of the prefix, index of the interface (ipv6(7))
            request = struct.pack("=16sIi", socket.inet_pton(socket.AF_INET6, one), 128, index)
            fcntl.ioctl(sock, SIOCSIFADDR, request)
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    for path, text in FILES.items():
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            os.chmod(file.name, 0o644)
            check(
                libc.mount(file.name.encode(), os.path.realpath(path).encode(), None, MS_BIND, None)
            )


def main():
    """Isolate this process and run the command in its place."""
    try:
        unshare()
        set_up()
    except OSError as error:
        print(f"cannot make a network for the tests: {error}", file=sys.stderr)
        sys.exit(125)
    # Ignored signals stay so over execve(2), and a shell's background jobs ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
