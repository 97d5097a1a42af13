"""The two faces of openai-python, sync and async, behind one set of names, so that each check is written once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import openai


class Sync:
    """OpenAI's synchronous client."""

    name = "sync"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def client(self, **options: Any) -> Any:
        """A client with these options instead of the plan's."""
        return openai.OpenAI(**{"base_url": self._plan["base_url"], "api_key": self._plan["key"], **options})

    def wait(self, answer: Any) -> Any:
        """The answer itself."""
        return answer

    def gather(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """Results of all calls."""
        return [call() for call in calls]

    def events(self, stream: Any) -> list[Any]:
        """Every event of a stream."""
        return list(stream)

    def first_event(self, stream: Any) -> Any:
        """The first event; the rest is left."""
        with stream:
            return next(iter(stream))


class Async:
    """OpenAI's asynchronous client, on one event loop from first to last."""

    name = "async"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._loop = asyncio.new_event_loop()

    def client(self, **options: Any) -> Any:
        """A client with these options instead of the plan's."""
        return openai.AsyncOpenAI(
            **{"base_url": self._plan["base_url"], "api_key": self._plan["key"], **options}
        )

    def wait(self, answer: Any) -> Any:
        """The answer itself."""
        return self._loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def gather(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """Results of all calls."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(call() for call in calls))

        return self._loop.run_until_complete(together())

    def events(self, stream: Any) -> list[Any]:
        """Every event of a stream."""

        async def collect() -> list[Any]:
            return [event async for event in stream]

        return self._loop.run_until_complete(collect())

    def first_event(self, stream: Any) -> Any:
        """The first event; the rest is left."""

        async def first() -> Any:
            async with stream:
                return await stream.__aiter__().__anext__()

        return self._loop.run_until_complete(first())
