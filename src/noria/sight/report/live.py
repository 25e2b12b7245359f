"""The page of `noria top --web`: the report's page, with the newest figures at each interval."""

from __future__ import annotations

from noria.sight.report.data import page_data
from noria.sight.report.page import encode, page, security_policy
from noria.sight.top.poller import Poller
from noria.sight.top.session import Session, View


class LivePage:
    """The figures of a session, for noria.sight.top.web. Its timeline has the samples."""

    def __init__(self, session: Session) -> None:
        self.policy = security_policy()
        self._session = session
        self._view = View()
        self._poller = Poller(session, self._receive)

    def start(self) -> None:
        """Begin to observe."""
        self._poller.start()

    def close(self) -> None:
        """Stop observing."""
        self._poller.close()

    def document(self) -> bytes:
        """Return the HTML, with the newest figures."""
        view = self._view
        return page(view.observation, view.findings, live=self._session.interval).encode()

    def data(self, query: dict[str, str]) -> bytes:
        """Return the newest figures as JSON. *query* is not used."""
        view = self._view
        found = page_data(view.observation, view.findings, {}, {})
        found["ended"] = view.ended
        return encode(found).encode()

    def _receive(self, view: View) -> None:
        self._view = view
