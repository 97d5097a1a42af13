"""One attempt to deliver a webhook: the name resolved, its address checked, the body signed and sent to that address.

The connection goes to the address that was checked, not to the name, so that a second resolution cannot give another.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from scribewire.server.jobs.delivery import AttemptResult, Delivery
from scribewire.server.webhooks.signing import SecretUnreadable, WebhookSecret
from scribewire.server.webhooks.targets import AllowedTargets, Target, TargetNotAllowed, check_address

if TYPE_CHECKING:
    from scribewire.server.webhooks.client import WebhookClient

ATTEMPT_SECONDS = 15.0
CLIENT_MODULE = "scribewire.server.webhooks.client"

Resolve = Callable[[str, int], Awaitable[list[str]]]


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
    ) -> None:
        self._targets = targets
        self._secret = secret
        self._resolve = resolve
        self._attempt_seconds = attempt_seconds
        self._client: asyncio.Task[WebhookClient] | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            with contextlib.suppress(OSError):  # it could not be made, and an attempt said so
                await (await self._client).close()

    async def attempt(self, delivery: Delivery) -> AttemptResult:
        """Send a delivery once, within its time limit; raises nothing but CancelledError."""
        try:
            async with asyncio.timeout(self._attempt_seconds):
                target = self._targets.target(delivery.url)
                address = await self._address(target)
                body = delivery.body.encode()
                headers = await asyncio.to_thread(
                    self._secret.headers, delivery.delivery_id, int(time.time()), body
                )
                client = await self._one_client()
                return await client.send(target, address, headers, body)
        except (TargetNotAllowed, ValueError) as error:
            return AttemptResult(str(error), is_final=not isinstance(error, _Trap))
        except TimeoutError:
            return AttemptResult(f"no answer within {self._attempt_seconds:g} s")
        except socket.gaierror:
            return AttemptResult("the host's name is not known")
        except SecretUnreadable as error:
            return AttemptResult(str(error))
        except OSError as error:
            return AttemptResult(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")

    async def _one_client(self) -> WebhookClient:
        """The client of all attempts; raises OSError while the machine's certificates cannot be read."""
        if self._client is None or (self._client.done() and self._client.exception()):
            self._client = asyncio.create_task(asyncio.to_thread(_new_client, self._attempt_seconds))
        # An attempt that is cancelled leaves it to the others.
        return await asyncio.shield(self._client)

    async def _address(self, target: Target) -> str:
        refused: TargetNotAllowed | None = None
        for one in await self._resolve(target.host, target.port):
            try:
                return check_address(one, target)
            except TargetNotAllowed as error:
                refused = error
        # The name may resolve to another address later; the operator's list does not change.
        raise _Trap(str(refused or "the host's name has no address"))


class _Trap(TargetNotAllowed):
    """Error of an allowed name that resolves to an address that is not allowed."""


def _new_client(attempt_seconds: float) -> WebhookClient:
    """Loaded when the first webhook is sent: httpx and the machine's certificates take megabytes and a while."""
    client: WebhookClient = importlib.import_module(CLIENT_MODULE).WebhookClient(attempt_seconds)
    return client
