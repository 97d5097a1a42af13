"""One attempt to deliver a webhook: the name resolved, its address checked, and the request sent to that address.

The connection goes to the address that was checked, not to the name, so that a second resolution cannot give another;
the certificate is checked against the name. Redirects are not followed, proxies of the environment are not used, and
only the answer's status line and headers are read.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from scribewire.server.http.certificates import machine_certificates
from scribewire.server.jobs.delivery import Delivery
from scribewire.server.webhooks.signing import SecretUnreadable, WebhookSecret
from scribewire.server.webhooks.targets import AllowedTargets, Target, TargetNotAllowed, check_address

CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
MOST_RETRY_AFTER_SECONDS = 3600.0

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """Outcome of an attempt. error: None when it was delivered. is_final: a retry is useless.

    retry_after_seconds: pause that the receiver requested.
    """

    error: str | None = None
    is_final: bool = False
    retry_after_seconds: float = 0.0
    status: int | None = None


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name by the system's resolver; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class WebhookSender:
    """Makes attempts; lives on one event loop."""

    def __init__(
        self,
        targets: AllowedTargets,
        secret: WebhookSecret,
        *,
        resolve: Resolve = resolve,
        attempt_seconds: float = ATTEMPT_SECONDS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """client: one that follows no redirects and uses no proxy."""
        self._targets = targets
        self._secret = secret
        self._resolve = resolve
        self._attempt_seconds = attempt_seconds
        self._client = client
        self._made_client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._made_client is not None:
            await self._made_client.aclose()

    async def attempt(self, delivery: Delivery) -> AttemptResult:
        """Send a delivery once, within its time limit; raises nothing but CancelledError."""
        try:
            async with asyncio.timeout(self._attempt_seconds):
                target = self._targets.target(delivery.url)
                return await self._send(delivery, target, await self._address(target))
        except (TargetNotAllowed, ValueError) as error:
            return AttemptResult(str(error), is_final=not isinstance(error, _Trap))
        except TimeoutError:
            return AttemptResult(f"no answer within {self._attempt_seconds:g} s")
        except socket.gaierror:
            return AttemptResult("the host's name is not known")
        except SecretUnreadable as error:
            return AttemptResult(str(error))
        except (OSError, httpx.HTTPError) as error:
            return AttemptResult(_in_words(error))

    async def _address(self, target: Target) -> str:
        refused: TargetNotAllowed | None = None
        for one in await self._resolve(target.host, target.port):
            try:
                return check_address(one, target)
            except TargetNotAllowed as error:
                refused = error
        # The name may resolve to another address later; the operator's list does not change.
        raise _Trap(str(refused or "the host's name has no address"))

    async def _send(self, delivery: Delivery, target: Target, address: str) -> AttemptResult:
        body = delivery.body.encode()
        shown = f"[{address}]" if ":" in address else address
        headers = await asyncio.to_thread(self._secret.headers, delivery.delivery_id, int(time.time()), body)
        request = self._http().build_request(
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
        answer = await self._http().send(request, stream=True, follow_redirects=False)
        try:
            return _judged(answer)
        finally:
            await answer.aclose()

    def _http(self) -> httpx.AsyncClient:
        if self._client is not None:
            return self._client
        if self._made_client is None:
            # Made at the first use: reading the machine's certificates takes a while.
            self._made_client = httpx.AsyncClient(
                timeout=httpx.Timeout(self._attempt_seconds, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_keepalive_connections=0),
                verify=machine_certificates(heeds_environment=False),
                trust_env=False,
            )
        return self._made_client


class _Trap(TargetNotAllowed):
    """Error of an allowed name that resolves to an address that is not allowed."""


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


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"no connection: {' '.join(str(error).split())[:120] or type(error).__name__}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
