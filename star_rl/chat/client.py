"""The client: slots, attempts, endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from star_rl.chat.cache import Cache
from star_rl.chat.options import ChatOptions
from star_rl.chat.reply import ChatReply, Usage, reply_of, used
from star_rl.errors import StarError

_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529))
_LARGEST_REPLY = 8 << 20  # bytes; an endpoint that sends more does not stop
_LONGEST_ERROR = 200  # characters of a server's words in an error
_PROBE_SECONDS = 5.0


class ChatError(Exception):
    """A call that no retry could save. Data: the run that needed it is recorded as failed with this reason."""


class _Fault(Exception):
    """One failed attempt: its kind, whether another may succeed, and the wait the server asked for."""

    def __init__(self, kind: str, words: str = "", again: bool = True, wait: float = 0.0) -> None:
        super().__init__(f"{kind}: {words}" if words else kind)
        self.kind, self.again, self.wait = kind, again, wait


@dataclass(slots=True)
class _Endpoint:
    """A place and what is known of it. ``free`` holds HTTP clients of one connection each: a pool of many connections
    looks through all of them for each request, which at 32 in flight is a third of the client's time."""

    url: str
    free: list[httpx.AsyncClient] = field(default_factory=list)
    flying: int = 0
    faults: int = 0
    rests_until: float = 0.0


class ChatClient:
    """See :class:`ChatOptions`. Use inside one event loop; ``async with`` closes it.

    Raises:
        StarError: the cache file cannot be opened.
    """

    def __init__(self, options: ChatOptions) -> None:
        self.options = options
        self.model = options.model
        self.usage = Usage()
        self._places = [_Endpoint(url.rstrip("/")) for url in options.endpoints]
        self._slots = asyncio.Semaphore(options.concurrency)
        self._cache = Cache(options.cache) if options.cache else None
        key = os.environ.get(options.key_variable, "").strip()
        self._secrets = (key,) if key else ()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._trust = httpx.create_ssl_context()
        self._clients: list[httpx.AsyncClient] = []

    def _client(self, place: _Endpoint) -> httpx.AsyncClient:
        if place.free:
            return place.free.pop()
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client = httpx.AsyncClient(
            timeout=self.options.timeout, limits=limits, headers=self._headers, verify=self._trust
        )
        self._clients.append(client)
        return client

    def __repr__(self) -> str:
        return f"ChatClient({self.model or 'model unknown'} at {', '.join(place.url for place in self._places)})"

    def __reduce__(self) -> Any:
        raise TypeError("a ChatClient is not pickled: it holds connections and a key; make one where it is used")

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and cache."""
        await asyncio.gather(*(client.aclose() for client in self._clients))
        if self._cache:
            self._cache.close()

    @property
    def describe(self) -> dict[str, Any]:
        """What decides a reply; the model as found by :meth:`ready` where none was named."""
        return {**self.options.describe, "model": self.model}

    # ------------------------------------------------------------------------------------------------------- ready

    async def ready(self) -> None:
        """Ask every endpoint for its models, within seconds and before any work.

        Raises:
            StarError: one does not answer, refuses the key, or does not serve the model.
        """
        served = await asyncio.gather(*(self._served(place) for place in self._places))
        if not self.model:
            first = served[0]
            if len(first) != 1:
                raise StarError(
                    f"{self._places[0].url} serves {', '.join(first) or 'models it does not name'}",
                    "name the model to ask",
                )
            self.model = first[0]
        for place, names in zip(self._places, served, strict=True):
            if names and self.model not in names:
                raise StarError(
                    f"{place.url} does not serve {self.model!r}", f"it serves {', '.join(names[:8])}: name one of these"
                )

    async def _served(self, place: _Endpoint) -> list[str]:
        client = self._client(place)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                response = await client.get(f"{place.url}/models", timeout=_PROBE_SECONDS)
        except (TimeoutError, httpx.HTTPError) as error:
            raise StarError(
                f"the endpoint {place.url} does not answer ({self._clean(error)})", "start it, or name another"
            ) from None
        finally:
            place.free.append(client)
        self._refuse_key(response.status_code, place)
        if response.status_code >= 500:
            raise StarError(f"the endpoint {place.url} answers {response.status_code}", "mend it, or name another")
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            return [str(row["id"]) for row in response.json()["data"]]
        return []  # an endpoint that does not list its models is taken at its word

    def _refuse_key(self, status: int, place: _Endpoint) -> None:
        if status in (401, 403):
            having = "refuses the key in" if self._secrets else "wants a key, and there is none in"
            raise StarError(
                f"the endpoint {place.url} {having} the environment variable {self.options.key_variable} ({status})",
                "set it to a valid key",
            )

    # ---------------------------------------------------------------------------------------------------- complete

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        sample: int = 0,
        **options: Any,
    ) -> ChatReply:
        """One completion.

        Args:
            messages: as the chat API takes them.
            tools: function schemas on offer.
            sample: tells apart calls that are equal on purpose (several passes): each has a cached reply of its own.
            options: fields of the request over those of :class:`ChatOptions` (``max_tokens``, ``temperature``,
                ``stop``).

        Raises:
            ChatError: all attempts failed, or the endpoint refused the request itself.
            StarError: the endpoint refuses the key.
        """
        chosen = self.options
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "max_tokens": chosen.max_tokens,
            **options,
        }
        if tools:
            body["tools"] = list(tools)
        content = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
        key = (
            hashlib.sha256(f"{sample}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest() if self._cache else ""
        )
        self.usage.calls += 1
        if self._cache and (found := self._cache.get(key)) is not None:
            self.usage.cached += 1
            return reply_of(found, 0.0, True)
        began = time.perf_counter()
        async with self._slots:
            data = await self._attempts(content)
        reply = reply_of(data, time.perf_counter() - began, False)
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        prices = chosen.price_prompt * reply.prompt_tokens + chosen.price_completion * reply.completion_tokens
        self.usage.cost += prices / 1e6
        if self._cache:
            self._cache.put(key, data)
        return reply

    async def _attempts(self, content: str) -> dict[str, Any]:
        fault: _Fault | None = None
        for attempt in range(self.options.retries + 1):
            if fault is not None:
                most = min(self.options.longest_wait, self.options.backoff * 2 ** (attempt - 1))
                await asyncio.sleep(min(self.options.longest_wait, max(fault.wait, random.uniform(most / 2, most))))
            place = self._freest()
            place.flying += 1
            self.usage.attempts += 1
            try:
                data = await self._once(place, content)
            except _Fault as found:
                fault = found
                self.usage.faults[found.kind] += 1
                place.faults += 1
                place.rests_until = time.monotonic() + min(self.options.longest_wait, 0.5 * 2 ** min(place.faults, 6))
                if not found.again:
                    break
            else:
                place.faults, place.rests_until = 0, 0.0
                return data
            finally:
                place.flying -= 1
        self.usage.failed += 1
        raise ChatError(self._clean(fault))

    def _freest(self) -> _Endpoint:
        """The endpoint with the fewest calls in flight among those that are not resting after a fault."""
        now = time.monotonic()
        return min(
            self._places, key=lambda place: (max(0.0, place.rests_until - now) > 0, place.flying, place.rests_until)
        )

    async def _once(self, place: _Endpoint, content: str) -> dict[str, Any]:
        received = bytearray()
        client = self._client(place)
        try:
            async with (
                asyncio.timeout(self.options.timeout),
                client.stream(
                    "POST",
                    f"{place.url}/chat/completions",
                    content=content,
                    headers={"Content-Type": "application/json"},
                ) as response,
            ):
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > _LARGEST_REPLY:
                        raise _Fault("endless", f"more than {_LARGEST_REPLY >> 20} MiB")
        except (TimeoutError, httpx.TimeoutException):
            raise _Fault("timeout", f"no whole answer within {self.options.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Fault("connection", f"{type(error).__name__} {self._clean(error)}") from None
        finally:
            place.free.append(client)
        status = response.status_code
        self._refuse_key(status, place)
        if status != 200:
            words = bytes(received[: 4 * _LONGEST_ERROR]).decode("utf-8", "replace")
            raise _Fault(f"http_{status}", words, status in _RETRIED, _wait(response.headers.get("retry-after", "")))
        try:
            data = json.loads(bytes(received))
            return used(data)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise _Fault("invalid_reply", type(error).__name__) from None

    def _clean(self, words: object) -> str:
        """Foreign words on one short line without the key, should a server echo it."""
        text = " ".join(str(words).split())
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + ".."


def _wait(header: str) -> float:
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0  # a date, or nothing: the client's own wait holds
