"""Authentication: passwords (RFC 7617), kept as scrypt hashes, and bearer tokens (RFC 6750)."""

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

COST, BLOCK_SIZE, PARALLELISM = 2**15, 8, 1  # scrypt's N, r, p (RFC 7914): 32 MiB, about 0.1 s
MAX_MEMORY = 256 * 1024 * 1024  # bytes
MAX_WAITING = 32  # passwords that wait for verification; above this the response is 503
MAX_REMEMBERED = 1024  # verified passwords


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A salted scrypt hash of a password."""

    cost: int
    block: int
    lanes: int
    salt: bytes
    digest: bytes

    @classmethod
    def create(cls, password: str) -> PasswordHash:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(16)
        return cls(
            COST,
            BLOCK_SIZE,
            PARALLELISM,
            salt,
            _scrypt(password, salt, COST, BLOCK_SIZE, PARALLELISM),
        )

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Parse the result of `str`. Raises ValueError."""
        if not text:
            raise ValueError(
                "the hash is empty; create one with 'noria serve files --hash-password'"
            )
        try:
            kind, cost, block, lanes, salt, digest = text.split(":")
            found = cls(int(cost), int(block), int(lanes), _decode(salt), _decode(digest))
        except (ValueError, binascii.Error):
            kind, found = "", cls(0, 0, 0, b"", b"")
        usable = (
            kind == "scrypt"
            and found.cost > 1
            and found.cost & (found.cost - 1) == 0
            and found.block > 0
            and 0 < found.lanes <= 16
            and 128 * found.block * (found.cost + found.lanes) <= MAX_MEMORY - 1024 * 1024
            and len(found.salt) >= 8
            and len(found.digest) == 32
        )
        if not usable:
            raise ValueError(
                "not a password hash; create one with 'noria serve files --hash-password'"
            )
        return found

    def __str__(self) -> str:
        parts = ("scrypt", self.cost, self.block, self.lanes)
        return ":".join([*map(str, parts), _encode(self.salt), _encode(self.digest)])

    def verify(self, password: str) -> bool:
        """Whether the password is right. It takes about 0.1 s, on purpose."""
        made = _scrypt(password, self.salt, self.cost, self.block, self.lanes)
        return hmac.compare_digest(made, self.digest)


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    secret = password.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=cost, r=block, p=lanes, maxmem=MAX_MEMORY, dklen=32)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


class Authenticator:
    """Checks the credentials of requests.

    A password that was verified, right or wrong, is remembered as a keyed digest, so that scrypt
    runs once per client. It runs in a thread, one at a time.
    """

    def __init__(self, users: Mapping[str, PasswordHash], tokens: Iterable[str] = ()) -> None:
        self._users = dict(users)
        self._tokens = [token.encode() for token in tokens]
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, bool] = {}
        self._scrypt_lock = asyncio.Lock()
        self._waiting = 0
        # Verified for unknown users, so that they take as long as a wrong password.
        self._unknown_user = PasswordHash(
            COST, BLOCK_SIZE, PARALLELISM, secrets.token_bytes(16), bytes(32)
        )

    async def check(self, request: Request) -> None:
        """Raise HTTPException 401 unless the credentials are right, 503 if too many wait.

        Sets `request.user`, except for a token, which has no name.
        """
        scheme, _, value = request.headers.get("authorization").partition(" ")
        value = value.strip()
        if scheme.lower() == "bearer" and self._tokens:
            given = value.encode("latin-1", "replace")
            # All tokens are compared, so that the time does not show which one matched.
            if sum(hmac.compare_digest(given, token) for token in self._tokens):
                return
        elif scheme.lower() == "basic" and self._users and await self._basic(value):
            request.user = user_of(request)
            return
        raise HTTPException(
            401,
            "Wrong name, password or token." if value else "Authentication is required.",
            headers=self._challenges(),
        )

    def _challenges(self) -> list[tuple[str, str]]:
        challenges = []
        if self._users:
            challenges.append(("WWW-Authenticate", 'Basic realm="noria", charset="UTF-8"'))
        if self._tokens:
            challenges.append(("WWW-Authenticate", 'Bearer realm="noria"'))
        return challenges

    async def _basic(self, value: str) -> bool:
        try:
            pair = base64.b64decode(value, validate=True)
            user, colon, password = pair.decode("utf-8", "surrogateescape").partition(":")
        except (binascii.Error, ValueError):
            return False
        if not colon:
            return False
        digest = hashlib.blake2b(pair, key=self._key).digest()
        known = self._remembered.get(digest)
        if known is not None:
            return known
        if self._waiting >= MAX_WAITING:
            raise HTTPException(
                503,
                "Too many passwords wait for verification; try again later.",
                headers=[("Retry-After", "5")],
            )
        self._waiting += 1
        try:
            async with self._scrypt_lock:
                known = self._remembered.get(digest)
                if known is None:
                    loop = asyncio.get_running_loop()
                    password_hash = self._users.get(user, self._unknown_user)
                    known = await loop.run_in_executor(None, password_hash.verify, password)
                    if len(self._remembered) >= MAX_REMEMBERED:
                        del self._remembered[next(iter(self._remembered))]
                    self._remembered[digest] = known
        finally:
            self._waiting -= 1
        return known


def user_of(request: Request) -> str:
    """The user name in a request, or ""; for the log."""
    scheme, _, value = request.headers.get("authorization").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value).partition(b":")[0].decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
