"""``noria connect`` at a terminal: a prompt below, the replies above it as they arrive."""

import asyncio
import contextlib
import socket

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth

from noria.cli.connect.end_reason import CLOSED, End, broken
from noria.cli.connect.escape import Shower
from noria.cli.connect.history import history

PROMPT = ">>>>>: "
CHUNK = 64 * 1024
LAST_WORDS = 0.5  # seconds without data after Ctrl-D, for the replies that are still on their way


def talk(sock: socket.socket, *, newline: bool) -> End:
    """Run the prompt until Ctrl-D, or until the server goes away."""
    try:
        return asyncio.run(_talk(sock, b"\n" if newline else b""))
    except _Interrupted:
        raise KeyboardInterrupt from None


async def _talk(sock: socket.socket, newline: bytes) -> End:
    reader, writer = await asyncio.open_connection(sock=sock)
    screen = _Screen()
    listening = asyncio.create_task(screen.listen(reader))
    try:
        with screen.keys():
            typed = await _type(screen, writer, newline, listening)
        if typed:
            await _last_words(screen, writer, listening)
            return End()
        return listening.result()
    finally:
        listening.cancel()
        writer.transport.abort()


async def _type(
    screen: "_Screen",
    writer: asyncio.StreamWriter,
    newline: bytes,
    listening: "asyncio.Task[End]",
) -> bool:
    """Send line after line. True for Ctrl-D, False when the server has gone."""
    while not listening.done():
        asking = asyncio.create_task(screen.ask())
        await asyncio.wait({asking, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            screen.leave(asking)
            await asyncio.wait({asking})
        try:
            line = asking.result()
        except (_Left, asyncio.CancelledError):
            return False
        except EOFError:
            return True
        # Not drained: what a person types is small, and a server that takes nothing must not keep
        # the prompt from its keys.
        writer.write(line.encode("utf-8", "surrogateescape") + newline)
    return False


async def _last_words(
    screen: "_Screen", writer: asyncio.StreamWriter, listening: "asyncio.Task[End]"
) -> None:
    """Say that no more will come, and show what the server still has to say."""
    with contextlib.suppress(OSError):
        writer.write_eof()
    seen = -1
    while not listening.done() and seen != screen.received:
        seen = screen.received
        await asyncio.wait({listening}, timeout=LAST_WORDS)
    screen.finish()


class _Left(Exception):
    """The prompt was left because the server had gone."""


class _Interrupted(Exception):
    """Ctrl-C, as an exception that does not tear down the loop it passes through."""


class _Screen:
    """The terminal: whole lines of replies above, the unfinished one and the prompt below.

    A reply without a newline must be seen at once too, but what is drawn above the prompt has to
    end in a newline: so the unfinished line is drawn as the first line of the prompt itself.
    """

    def __init__(self) -> None:
        output = create_output()
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # no menus: where the cursor is does not matter
        self._session: PromptSession[str] = PromptSession(history=history(), output=output)
        self._shower = Shower()
        self._unfinished = ""
        self._drawn = ""
        self.received = 0

    def keys(self) -> contextlib.AbstractContextManager[None]:
        """Keys come as they are typed, between two prompts too, where Ctrl-D would be lost."""
        return self._session.input.raw_mode()

    async def ask(self) -> str:
        """One line typed by the user; EOFError for Ctrl-D."""
        try:
            line = await self._session.prompt_async(self._message)
        except KeyboardInterrupt:
            raise _Interrupted from None
        finally:
            # What was drawn stays on the screen, above the line just typed.
            self._unfinished = self._unfinished.removeprefix(self._drawn)
        return line

    def _message(self) -> FormattedText:
        self._drawn = self._unfinished
        above = self._drawn.expandtabs() + "\n" if self._drawn else ""
        return FormattedText([("", above), ("", PROMPT)])

    def leave(self, asking: "asyncio.Task[str]") -> None:
        """End the prompt from outside."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=_Left())
        else:  # it has not begun, or ends just now
            asking.cancel()

    async def listen(self, reader: asyncio.StreamReader) -> End:
        """Show everything that the server sends, to its end."""
        end = CLOSED
        try:
            while data := await reader.read(CHUNK):
                self.received += len(data)
                self._show(self._shower.show(data))
        except OSError as error:
            end = broken(error)
        self._show(self._shower.end())
        return end

    def _show(self, text: str) -> None:
        """Put whole lines above the prompt, and keep the rest in the prompt."""
        whole, newline, rest = text.rpartition("\n")
        if newline:
            whole = self._unfinished + whole + "\n"
            self._unfinished = rest
        else:
            self._unfinished += rest
        rows, self._unfinished = _rows(self._unfinished, self._session.output.get_size().columns)
        if whole or rows:
            self._put(whole + rows)
        else:
            self._session.app.invalidate()

    def finish(self) -> None:
        """Nothing more comes: leave the terminal at the start of a line."""
        if self._unfinished:
            self._put(self._unfinished + "\n")
            self._unfinished = ""

    def _put(self, lines: str) -> None:
        """Write whole lines where the prompt is, and let it be drawn again below them.

        run_in_terminal would do that too, but it leaves the terminal to the shell's line editing
        meanwhile, and keys typed just then would be lost.
        """
        app, output = self._session.app, self._session.output
        if app.is_running:
            app.renderer.erase()
        output.write_raw(lines.replace("\n", "\r\n"))
        output.flush()
        if app.is_running:
            app.renderer.reset()
            app.invalidate()


def _rows(text: str, columns: int) -> tuple[str, str]:
    """Full rows of a line that has become wider than the terminal, and what is left of it."""
    rows, start, width = [], 0, 0
    if len(text) < columns // 2:  # no character is wider than two columns
        return "", text
    for place, character in enumerate(text):
        wide = get_cwidth(character)
        if width + wide > columns:
            rows.append(text[start:place] + "\n")
            start, width = place, 0
        width += wide
    return "".join(rows), text[start:]
