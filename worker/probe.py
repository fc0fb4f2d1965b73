"""Ask for URLs until each answers with success: the image's health check, and the wait for services that have none.

    python -m worker.probe [--within SECONDS] URL ...

Exit code 0 when all have answered, 1 when one has not within the time, 2 for wrong usage. Needs nothing but Python's
own library, so that it starts in a tenth of a second, and no `curl` in an image.
"""

import argparse
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

REQUEST_S: Final = 3.0
"""How long one request may take. A health check's own time-out is to be longer."""

_EVERY_S: Final = 1.0
_ON_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def unanswered(url: str) -> str | None:
    """Ask once: None when the answer is a success, else what was wrong with it."""
    # No proxy: what is asked for is near. A redirection would lead to something that nobody asked about.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_tls(url)), _NoRedirect()
    )
    try:
        with opener.open(url, timeout=REQUEST_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"answers {error.code}"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return f"does not answer ({reason})"


def wait_for(urls: Sequence[str], within_s: float) -> dict[str, str]:
    """Ask each URL about once a second until it has answered. Empty, or what is wrong with those that have not."""
    ends_s = time.monotonic() + within_s
    wrong = dict.fromkeys(urls, "was not asked")
    while True:
        wrong = {url: problem for url in wrong if (problem := unanswered(url)) is not None}
        left_s = ends_s - time.monotonic()
        if not wrong or left_s <= 0:
            return wrong
        time.sleep(min(_EVERY_S, left_s))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.probe", description="Ask for URLs until each answers with success."
    )
    parser.add_argument("--within", type=_seconds, default=0.0, metavar="SECONDS", help="ask again for so long")
    parser.add_argument("urls", type=_url, nargs="+", metavar="URL")
    options = parser.parse_args(arguments)
    wrong = wait_for(options.urls, options.within)
    for url, problem in wrong.items():
        sys.stderr.write(f"{url} {problem}\n")
    return 1 if wrong else 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Take the redirection itself for the answer."""
        return


def _tls(url: str) -> ssl.SSLContext:
    """Certificates are verified, but not on this machine: the Cosmos DB emulator signs its own."""
    context = ssl.create_default_context()
    if urlsplit(url).hostname in _ON_THIS_MACHINE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL; write http://HOST:PORT/PATH")
    return text


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:  # noqa: PLR2004 - a day
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 86400")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
