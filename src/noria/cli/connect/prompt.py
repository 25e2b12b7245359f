"""``noria connect`` on a terminal: a prompt, and the replies above it as they arrive."""

import asyncio
import contextlib
import socket

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth

from noria.cli.connect.end_reason import SERVER_CLOSED, USER_ENDED, EndReason, connection_lost
from noria.cli.connect.history import open_history
from noria.cli.connect.terminal_text import TerminalDecoder

PROMPT = ">>>>>: "
READ_BYTES = 64 * 1024
DRAIN_SECONDS = 0.5  # without data after Ctrl-D, before replies are no longer waited for


def run_prompt(sock: socket.socket, *, newline: bool) -> EndReason:
    """Run the prompt until Ctrl-D, or until the server closes the connection."""
    try:
        return asyncio.run(_run(sock, b"\n" if newline else b""))
    except _Interrupted:
        raise KeyboardInterrupt from None


async def _run(sock: socket.socket, newline: bytes) -> EndReason:
    reader, writer = await asyncio.open_connection(sock=sock)
    screen = _Screen()
    receiver = asyncio.create_task(screen.show_replies(reader))
    try:
        with screen.raw_mode():
            user_ended = await _send_lines(screen, writer, newline, receiver)
        if user_ended:
            await _drain_replies(screen, writer, receiver)
            return USER_ENDED
        return receiver.result()
    finally:
        receiver.cancel()
        writer.transport.abort()


async def _send_lines(
    screen: "_Screen",
    writer: asyncio.StreamWriter,
    newline: bytes,
    receiver: "asyncio.Task[EndReason]",
) -> bool:
    """Send each line that is typed. Returns True after Ctrl-D, False if the server closed."""
    while not receiver.done():
        prompt = asyncio.create_task(screen.read_line())
        await asyncio.wait({prompt, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if not prompt.done():
            screen.exit_prompt(prompt)
            await asyncio.wait({prompt})
        try:
            line = prompt.result()
        except (_PromptExited, asyncio.CancelledError):
            return False
        except EOFError:
            return True
        # Without drain(): typed lines are small, and a server that reads nothing must not make
        # the prompt unresponsive.
        writer.write(line.encode("utf-8", "surrogateescape") + newline)
    return False


async def _drain_replies(
    screen: "_Screen", writer: asyncio.StreamWriter, receiver: "asyncio.Task[EndReason]"
) -> None:
    """Send EOF, and show replies until none arrives for DRAIN_SECONDS."""
    with contextlib.suppress(OSError):
        writer.write_eof()
    received = -1
    while not receiver.done() and received != screen.received:
        received = screen.received
        await asyncio.wait({receiver}, timeout=DRAIN_SECONDS)
    screen.finish()


class _PromptExited(Exception):
    """The prompt was exited because the server closed the connection."""


class _Interrupted(Exception):
    """Ctrl-C, as an exception that asyncio delivers like any other."""


class _Screen:
    """The terminal: complete lines of replies above, an incomplete one and the prompt below.

    A reply without a newline must be visible at once, but text above the prompt has to end in a
    newline. So the incomplete line is drawn as the first line of the prompt itself.
    """

    def __init__(self) -> None:
        output = create_output()
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # there are no menus, so the cursor's position is not needed
        self._session: PromptSession[str] = PromptSession(history=open_history(), output=output)
        self._decoder = TerminalDecoder()
        self._incomplete = ""  # the end of the replies, without a newline yet
        self._drawn = ""  # the part of it that the current prompt shows
        self.received = 0  # bytes

    def raw_mode(self) -> contextlib.AbstractContextManager[None]:
        """Keep the terminal in raw mode between two prompts too, or Ctrl-D would be lost there."""
        return self._session.input.raw_mode()

    async def read_line(self) -> str:
        """Return a line that the user typed. Raises EOFError for Ctrl-D."""
        try:
            line = await self._session.prompt_async(self._message)
        except KeyboardInterrupt:
            raise _Interrupted from None
        finally:
            # What was drawn remains on the screen, above the line just typed.
            self._incomplete = self._incomplete.removeprefix(self._drawn)
        return line

    def _message(self) -> FormattedText:
        self._drawn = self._incomplete
        above = self._drawn.expandtabs() + "\n" if self._drawn else ""
        return FormattedText([("", above), ("", PROMPT)])

    def exit_prompt(self, prompt: "asyncio.Task[str]") -> None:
        """End the prompt although the user has not pressed Enter."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=_PromptExited())
        else:  # the prompt has not started, or is just ending
            prompt.cancel()

    async def show_replies(self, reader: asyncio.StreamReader) -> EndReason:
        """Show everything that the server sends, until it closes or the connection fails."""
        reason = SERVER_CLOSED
        try:
            while data := await reader.read(READ_BYTES):
                self.received += len(data)
                self._show(self._decoder.decode(data))
        except OSError as error:
            reason = connection_lost(error)
        self._show(self._decoder.flush())
        return reason

    def _show(self, text: str) -> None:
        """Write complete lines above the prompt, and keep the rest in the prompt."""
        lines, newline, rest = text.rpartition("\n")
        if newline:
            lines = self._incomplete + lines + "\n"
            self._incomplete = rest
        else:
            self._incomplete += rest
        columns = self._session.output.get_size().columns
        rows, self._incomplete = _split_rows(self._incomplete, columns)
        if lines or rows:
            self._write_lines(lines + rows)
        else:
            self._session.app.invalidate()

    def finish(self) -> None:
        """Write the incomplete line, so that the shell's prompt starts on a line of its own."""
        if self._incomplete:
            self._write_lines(self._incomplete + "\n")
            self._incomplete = ""

    def _write_lines(self, lines: str) -> None:
        """Write complete lines where the prompt is; the prompt is drawn again below them.

        run_in_terminal() would do that too, but it gives the terminal back to cooked mode
        meanwhile, and keys typed then would be lost.
        """
        app, output = self._session.app, self._session.output
        if app.is_running:
            app.renderer.erase()
        output.write_raw(lines.replace("\n", "\r\n"))
        output.flush()
        if app.is_running:
            app.renderer.reset()
            app.invalidate()


def _split_rows(text: str, columns: int) -> tuple[str, str]:
    """Split a line that is wider than the terminal: its full rows, and the rest."""
    rows, start, width = [], 0, 0
    if len(text) < columns // 2:  # no character is wider than two columns
        return "", text
    for index, character in enumerate(text):
        character_width = get_cwidth(character)
        if width + character_width > columns:
            rows.append(text[start:index] + "\n")
            start, width = index, 0
        width += character_width
    return "".join(rows), text[start:]
