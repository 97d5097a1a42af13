"""HTTP client of webhooks: one POST to an address that was checked, and its answer judged.

The certificate is checked against the name. Redirects are not followed, proxies of the environment are not used, and
only the answer's status line and headers are read.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from scribewire.server.http.certificates import machine_certificates
from scribewire.server.jobs.delivery import AttemptResult
from scribewire.server.webhooks.targets import Target

CONNECT_SECONDS = 5.0
MOST_RETRY_AFTER_SECONDS = 3600.0


class WebhookClient:
    """Sends requests; lives on one event loop, and may be made in a thread."""

    def __init__(self, attempt_seconds: float) -> None:
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(attempt_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=machine_certificates(heeds_environment=False),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def send(
        self, target: Target, address: str, headers: Mapping[str, str], body: bytes
    ) -> AttemptResult:
        """Send a request once; raises OSError. address: of the target's host. headers: the signature's."""
        shown = f"[{address}]" if ":" in address else address
        request = self._http.build_request(
            "POST",
            f"{target.scheme}://{shown}:{target.port}{target.path}",
            content=body,
            headers={
                **headers,
                "host": target.authority,
                "content-type": "application/json",
                "user-agent": "scribewire",
                "connection": "close",
            },
            extensions={"sni_hostname": target.host},
        )
        try:
            answer = await self._http.send(request, stream=True, follow_redirects=False)
        except httpx.HTTPError as error:
            return AttemptResult(_in_words(error))
        try:
            return _judged(answer)
        finally:
            await answer.aclose()


def _judged(answer: httpx.Response) -> AttemptResult:
    status = answer.status_code
    if 200 <= status < 300:
        return AttemptResult(status=status)
    if 300 <= status < 400:
        return AttemptResult(f"HTTP {status}; redirects are not followed", status=status)
    asked = answer.headers.get("retry-after", "")
    seconds = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0.0
    return AttemptResult(
        f"HTTP {status}",
        # 410 Gone: the receiver wants no more webhooks.
        is_final=status == 410,
        retry_after_seconds=min(seconds, MOST_RETRY_AFTER_SECONDS),
        status=status,
    )


def _in_words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"no connection: {' '.join(str(error).split())[:120] or type(error).__name__}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
