"""asyncssh: a server and a client in one program, a command, a tunnel and files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

asyncssh = pytest.importorskip("asyncssh")


def test_asyncssh(run: Any, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    body = random.Random(3).randbytes(700_000)
    (tmp_path / "from").write_bytes(body)

    async def command(process: Any) -> None:
        async for line in process.stdin:
            process.stdout.write(line.upper())
        process.exit(3)

    async def main() -> None:
        public = key.export_public_key().decode()
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[key],
            authorized_client_keys=asyncssh.import_authorized_keys(public),
            process_factory=command,
            sftp_factory=True,
        )
        hosts = asyncssh.import_known_hosts("127.0.0.1 " + public)
        async with server, asyncssh.connect(
            "127.0.0.1", server.get_port(), username="u", client_keys=[key], known_hosts=hosts,
            config=None,
        ) as client:  # fmt: skip
            done = await client.run("shout", input="hello\n")
            assert (done.stdout, done.exit_status) == ("HELLO\n", 3)
            async with client.start_sftp_client() as sftp:
                await sftp.put(str(tmp_path / "from"), str(tmp_path / "to"))
                assert await sftp.getsize(str(tmp_path / "to")) == len(body)
        assert (tmp_path / "to").read_bytes() == body

    run(main())
