"""Who may come in: passwords (RFC 7617) kept as scrypt hashes, and bearer tokens (RFC 6750)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from noria.http.messages import HTTPException, Request

COST, BLOCK, LANES = 2**15, 8, 1  # scrypt's N, r and p (RFC 7914): 32 MiB and about 0.1 s
MEMORY = 256 * 1024 * 1024
GUESSES = 32  # passwords that wait to be verified; above it 503
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Hash:
    """A salted scrypt hash of a password."""

    cost: int
    block: int
    lanes: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> Hash:
        salt = secrets.token_bytes(16)
        return cls(COST, BLOCK, LANES, salt, _scrypt(password, salt, COST, BLOCK, LANES))

    @classmethod
    def read(cls, text: str) -> Hash:
        """From what `str` gave; raises ValueError that says how to make one."""
        if not text:
            raise ValueError("the hash is empty: 'noria serve files --hash-password' makes one")
        try:
            kind, cost, block, lanes, salt, digest = text.split(":")
            found = cls(int(cost), int(block), int(lanes), _unpack(salt), _unpack(digest))
        except (ValueError, binascii.Error):
            kind, found = "", cls(0, 0, 0, b"", b"")
        usable = (
            kind == "scrypt"
            and found.cost > 1
            and found.cost & (found.cost - 1) == 0
            and found.block > 0
            and 0 < found.lanes <= 16
            and 128 * found.block * (found.cost + found.lanes) <= MEMORY - 1024 * 1024
            and len(found.salt) >= 8
            and len(found.digest) == 32
        )
        if not usable:
            raise ValueError(
                "not the hash of a password: 'noria serve files --hash-password' makes one"
            )
        return found

    def __str__(self) -> str:
        parts = ("scrypt", self.cost, self.block, self.lanes)
        return ":".join([*map(str, parts), _pack(self.salt), _pack(self.digest)])

    def fits(self, password: str) -> bool:
        """Takes about 0.1 s, on purpose; compares in constant time."""
        made = _scrypt(password, self.salt, self.cost, self.block, self.lanes)
        return hmac.compare_digest(made, self.digest)


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    secret = password.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=cost, r=block, p=lanes, maxmem=MEMORY, dklen=32)


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpack(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


class Guard:
    """Lets requests through, or raises HTTPException 401.

    A password that was right (or wrong) is remembered in this process by a keyed digest, so that
    a client pays for scrypt once; scrypt runs in a thread, one at a time.
    """

    def __init__(self, users: Mapping[str, Hash], tokens: Iterable[str] = ()) -> None:
        self._users = dict(users)
        self._tokens = [token.encode() for token in tokens]
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, bool] = {}
        self._turn = asyncio.Lock()
        self._guesses = 0
        # For a user that is not there: as long a wait as for a wrong password.
        self._nobody = Hash(COST, BLOCK, LANES, secrets.token_bytes(16), bytes(32))

    async def check(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization").partition(" ")
        value = value.strip()
        if scheme.lower() == "bearer" and self._tokens:
            given = value.encode("latin-1", "replace")
            # All are compared: which one fits must not show in the time.
            if sum(hmac.compare_digest(given, token) for token in self._tokens):
                return
        elif scheme.lower() == "basic" and self._users and await self._basic(value):
            return
        raise HTTPException(401, "Log in first." if not value else "Wrong name, password or token.",
                      headers=self._challenges())  # fmt: skip

    def _challenges(self) -> list[tuple[str, str]]:
        asked = []
        if self._users:
            asked.append(("WWW-Authenticate", 'Basic realm="noria", charset="UTF-8"'))
        if self._tokens:
            asked.append(("WWW-Authenticate", 'Bearer realm="noria"'))
        return asked

    async def _basic(self, value: str) -> bool:
        try:
            pair = base64.b64decode(value, validate=True)
            user, colon, password = pair.decode("utf-8", "surrogateescape").partition(":")
        except (binascii.Error, ValueError):
            return False
        if not colon:
            return False
        digest = hashlib.blake2b(pair, key=self._key).digest()
        known = self._known.get(digest)
        if known is not None:
            return known
        if self._guesses >= GUESSES:
            raise HTTPException(503, "Too many log in at once.", headers=[("Retry-After", "5")])
        self._guesses += 1
        try:
            async with self._turn:
                known = self._known.get(digest)
                if known is None:
                    loop = asyncio.get_running_loop()
                    there = self._users.get(user, self._nobody)
                    known = await loop.run_in_executor(None, there.fits, password)
                    if len(self._known) >= REMEMBERED:
                        del self._known[next(iter(self._known))]
                    self._known[digest] = known
        finally:
            self._guesses -= 1
        return known


def user_of(request: Request) -> str:
    """The name that a request gave, or ""; for the log."""
    scheme, _, value = request.headers.get("authorization").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value).partition(b":")[0].decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
