"""Error responses: an HTML page for browsers, plain text for other clients."""

from __future__ import annotations

from noria.fileserver.request_paths import parent_directory, split_path
from noria.http import content_negotiation
from noria.http.messages import HTTPException, Request, Response

_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'"
HTML_FIELDS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", _POLICY + "; form-action 'self'; frame-ancestors 'none'"),
)


def error_response(request: Request, error: HTTPException) -> Response:
    """The response to an error: an HTML page with a back link if the client prefers HTML."""
    headers = list(error.headers)
    if request.method in ("GET", "HEAD"):
        headers.append(("Vary", "Accept"))
    if prefers_html(request):
        from noria.fileserver.web.page import form_error_page, status_page  # needs jinja2

        if is_browser_form(request):
            html = form_error_page(error.detail)
        else:
            html = status_page(error.status, error.detail, _directory_above(request.path))
        return Response(error.status, [*HTML_FIELDS, *headers], html)
    headers.insert(0, ("Content-Type", "text/plain; charset=utf-8"))
    return Response(error.status, headers, error.detail.encode(errors="replace") + b"\n")


def is_browser_form(request: Request) -> bool:
    """Whether a browser sent a form and will show the response."""
    return request.method == "POST" and "text/html" in content_negotiation.parse_accept(
        request.headers.get("accept")
    )


def prefers_html(request: Request) -> bool:
    """Whether the client will show the response as a page."""
    if request.method not in ("GET", "HEAD"):
        return is_browser_form(request)
    weights = content_negotiation.parse_accept(request.headers.get("accept"))
    others = max(weights.get("application/json", 0.0), weights.get("text/plain", 0.0))
    return weights.get("text/html", 0.0) > 0 and weights["text/html"] >= others


def _directory_above(path: str) -> str:
    """The directory that a path is in; "/" for a path that is not valid."""
    try:
        names = split_path(path)
    except HTTPException:
        return "/"
    return "/" if names[:1] == ["-"] else parent_directory(path)
