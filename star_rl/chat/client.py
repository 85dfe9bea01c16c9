"""The chat client: concurrency, retries, endpoints.

It uses httpx, not openai's client. Tried: ``_once`` by openai 3.54, 32 calls in flight, one run on two cores. openai
took 2.0 ms of CPU a call and reached 449 calls/s; this code 1.0 ms and 727 calls/s; the import costs 0.45 s more. Its
retries stay with one endpoint and its replies have no size limit, so the code for both would remain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from star_rl.chat.cache import Cache
from star_rl.chat.options import ChatOptions, RequestFields
from star_rl.chat.reply import ChatReply, InvalidReply, Usage, read_response, reply_of, words_of
from star_rl.errors import StarError

_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529))
_MAX_REPLY = 8 << 20  # bytes; a longer reply is endless
_MAX_ERROR = 200  # characters of a server's message in an error
_PROBE_SECONDS, _PROBE_REPLY_SECONDS = 5.0, 30.0
#: Faults that say that a host refuses a request, whatever the number of attempts.
_REFUSED = frozenset(("http_400", "http_413", "http_422", "content_filter"))
_MAX_CHANGES = 6  # refused fields that are adapted
#: The request that finds out which fields a host refuses.
PROBE = [{"role": "user", "content": "Reply with OK."}]
_log = logging.getLogger(__name__)
_JSON = {"Content-Type": "application/json"}


class ChatError(Exception):
    """A call that failed after all retries. The run that needed it is recorded as failed.

    ``refused``: the host works, but does not accept this request or filters its reply.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class _Fault(Exception):
    """A failed attempt: its kind, whether to retry, and the ``Retry-After`` in seconds."""

    def __init__(self, kind: str, message: str = "", retry: bool = True, wait: float = 0.0) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.retry, self.wait = kind, retry, wait


@dataclass(slots=True)
class _Endpoint:
    """An endpoint and its state. ``idle`` holds HTTP clients of one connection each: httpx's pool looks through all its
    connections at each request, which took 3.8 ms of CPU a call instead of 0.7 (64 connections, one run)."""

    url: str
    idle: list[httpx.AsyncClient] = field(default_factory=list)
    in_flight: int = 0
    faults: int = 0
    paused_until: float = 0.0


class ChatClient:
    """Ask the endpoints of :class:`ChatOptions`. Use it inside one event loop; ``async with`` closes it.

    Raises:
        StarError: the cache file cannot be opened.
    """

    def __init__(self, options: ChatOptions) -> None:
        self.options = options
        self.model = options.model
        self.usage = Usage()
        self._endpoints = [_Endpoint(url.rstrip("/")) for url in options.endpoints]
        self._slots = asyncio.Semaphore(options.concurrency)
        self._cache = Cache(options.cache) if options.cache else None
        key = os.environ.get(options.key_variable, "").strip()
        self._secrets = (key,) if key else ()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._trust = httpx.create_ssl_context()
        self._clients: list[httpx.AsyncClient] = []
        self.request = options.request
        self._probed: set[bool] = set()
        self._probing = asyncio.Lock()

    def _client(self, endpoint: _Endpoint) -> httpx.AsyncClient:
        if endpoint.idle:
            return endpoint.idle.pop()
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client = httpx.AsyncClient(
            timeout=self.options.timeout, limits=limits, headers=self._headers, verify=self._trust
        )
        self._clients.append(client)
        return client

    def __repr__(self) -> str:
        return f"ChatClient({self.model or 'model unknown'} at {', '.join(self.options.endpoints)})"

    def __reduce__(self) -> Any:
        raise TypeError("a ChatClient cannot be pickled: it holds connections and a key; make one in each process")

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
        """Return the settings that decide a reply, with the model that :meth:`ready` found."""
        return {**self.options.describe, "model": self.model}

    # ------------------------------------------------------------------------------------------------------- ready

    async def ready(self, tools: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Ask every endpoint for its models, check that all serve this one, and find out which fields they refuse.

        Args:
            tools: function schemas that calls will send; an endpoint without tool calls is then refused.

        Raises:
            StarError: an endpoint does not answer, refuses the key or a request, or does not serve the model.
        """
        served = await asyncio.gather(*(self._served(endpoint) for endpoint in self._endpoints))
        if not self.model:
            first = served[0]
            if len(first) != 1:
                raise StarError(
                    f"{self._endpoints[0].url} serves {', '.join(first) or 'unnamed models'}", "name the model"
                )
            self.model = first[0]
        for endpoint, names in zip(self._endpoints, served, strict=True):
            if names and self.model not in names:
                raise StarError(
                    f"{endpoint.url} does not serve {self.model!r}", f"choose one of {', '.join(names[:8])}"
                )
        async with self._probing:
            if bool(tools) not in self._probed:
                for endpoint in self._endpoints:
                    await self._probe(endpoint, tools)
                self._probed.add(bool(tools))

    async def _probe(self, endpoint: _Endpoint, tools: Sequence[Mapping[str, Any]] | None) -> None:
        """Send a short request; adapt the fields that the host refuses, and say so."""
        body = self._body(PROBE, tools)
        for _ in range(_MAX_CHANGES):
            try:
                async with asyncio.timeout(_PROBE_REPLY_SECONDS):
                    await self._once(endpoint, json.dumps(self.request.apply(body)))
            except TimeoutError:
                return  # a host that loads its model
            except _Fault as fault:
                if fault.retry or not fault.kind.startswith("http_"):
                    return  # the runs' own retries meet it
                words = self._clean(fault)
                changed = _adapted(self.request, body, words) if fault.kind in _REFUSED else None
                if changed is None:
                    remedy = "give the base URL, such as http://HOST:8000/v1, and a model that it serves"
                    if tools and re.search(r"\btools?\b", words):
                        remedy = (
                            "serve the model with tool calls (vllm serve .. --enable-auto-tool-choice "
                            "--tool-call-parser hermes), or leave the teacher's tools out"
                        )
                    elif fault.kind in _REFUSED:
                        remedy = "change its fields with chat.request: {drop: [..], rename: {..}, extra: {..}}"
                    raise StarError(f"the endpoint {endpoint.url} refuses a request: {words}", remedy) from None
                self.request, said = changed
                _log.warning("%s: %s (%s)", endpoint.url, said, words)
            else:
                return

    async def _served(self, endpoint: _Endpoint) -> list[str]:
        client = self._client(endpoint)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                response = await client.get(f"{endpoint.url}/models", timeout=_PROBE_SECONDS)
        except (TimeoutError, httpx.HTTPError) as error:
            raise StarError(
                f"the endpoint {endpoint.url} does not answer ({self._clean(error)})", "start it, or choose another"
            ) from None
        finally:
            endpoint.idle.append(client)
        self._refuse_key(response.status_code, endpoint)
        if response.is_redirect:
            place = urlsplit(response.headers.get("location", ""))
            raise StarError(
                f"the endpoint {endpoint.url} redirects to {place.scheme}://{place.netloc}{place.path}",
                "give that URL, without /models",
            )
        if response.status_code >= 500:
            raise StarError(f"the endpoint {endpoint.url} answers {response.status_code}", "fix it, or choose another")
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            return [str(row["id"]) for row in response.json()["data"]]
        return []  # an endpoint that lists no models is trusted

    def _refuse_key(self, status: int, endpoint: _Endpoint) -> None:
        if status in (401, 403):
            reason = "refuses the key in" if self._secrets else "wants a key, but none is set in"
            raise StarError(
                f"the endpoint {endpoint.url} {reason} the environment variable {self.options.key_variable} ({status})",
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
        """Return one completion, from the cache where it holds one.

        Args:
            messages: in the format of the chat API.
            tools: function schemas.
            sample: number of the pass; equal requests of different passes have separate cached replies.
            options: further fields of the request (``max_tokens``, ``temperature``, ``stop``).

        Raises:
            ChatError: all attempts failed, or the endpoint rejected the request.
            StarError: the endpoint refuses the key.
        """
        body = self._body(messages, tools, options)
        content = json.dumps(self.request.apply(body), ensure_ascii=True, separators=(",", ":"))
        self.usage.calls += 1
        key = _key(body, sample) if self._cache else ""
        if self._cache and (found := self._cache.get(key)) is not None:
            self.usage.cached += 1
            return reply_of(found, 0.0, True)
        began = time.perf_counter()
        async with self._slots:
            data = await self._attempts(content)
        reply = reply_of(data, time.perf_counter() - began, False)
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        prices = (self.options.price_prompt, self.options.price_completion)
        self.usage.cost += (prices[0] * reply.prompt_tokens + prices[1] * reply.completion_tokens) / 1e6
        if self._cache:
            self._cache.put(key, data)
        return reply

    def is_cached(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether :meth:`complete` would reply from the cache."""
        return self._cache is not None and self._cache.get(_key(self._body(messages), 0)) is not None

    def _body(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {**self.describe, "messages": list(messages), **(options or {})}
        return {**body, "tools": list(tools)} if tools else body

    async def _attempts(self, content: str) -> dict[str, Any]:
        fault: _Fault | None = None
        for attempt in range(self.options.retries + 1):
            if fault is not None:
                most = min(self.options.longest_wait, self.options.backoff * 2 ** (attempt - 1))
                await asyncio.sleep(min(self.options.longest_wait, max(fault.wait, random.uniform(most / 2, most))))
            endpoint = self._freest()
            endpoint.in_flight += 1
            self.usage.attempts += 1
            try:
                data = await self._once(endpoint, content)
            except _Fault as found:
                fault = found
                self.usage.faults[found.kind] += 1
                endpoint.faults += 1
                pause = min(self.options.longest_wait, 0.5 * 2 ** min(endpoint.faults, 6))
                endpoint.paused_until = time.monotonic() + pause
                if not found.retry:
                    break
            else:
                endpoint.faults, endpoint.paused_until = 0, 0.0
                return data
            finally:
                endpoint.in_flight -= 1
        self.usage.failed += 1
        raise ChatError(self._clean(fault), fault is not None and fault.kind in _REFUSED)

    def _freest(self) -> _Endpoint:
        """Return the endpoint with the fewest calls in flight; one that is paused after a fault comes last."""
        now = time.monotonic()
        return min(self._endpoints, key=lambda one: (one.paused_until > now, one.in_flight, one.paused_until))

    async def _once(self, endpoint: _Endpoint, content: str) -> dict[str, Any]:
        received = bytearray()
        client = self._client(endpoint)
        try:
            async with (
                asyncio.timeout(self.options.timeout),
                client.stream("POST", f"{endpoint.url}/chat/completions", content=content, headers=_JSON) as response,
            ):
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > _MAX_REPLY:
                        raise _Fault("endless", f"more than {_MAX_REPLY >> 20} MiB")
        except (TimeoutError, httpx.TimeoutException):
            raise _Fault("timeout", f"no complete reply within {self.options.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Fault("connection", f"{type(error).__name__} {self._clean(error)}") from None
        finally:
            endpoint.idle.append(client)
        status = response.status_code
        self._refuse_key(status, endpoint)
        if status != 200:
            message = words_of(bytes(received[: 1 << 16])) or response.headers.get("location", "").partition("?")[0]
            wait = _retry_after(response.headers.get("retry-after", ""))
            raise _Fault(f"http_{status}", message, status in _RETRIED, wait)
        try:
            return read_response(bytes(received))
        except InvalidReply as error:
            kind = "content_filter" if error.filtered else "invalid_reply"
            raise _Fault(kind, str(error), not error.filtered) from None

    def _clean(self, message: object) -> str:
        """Return a server's message on one short line, without the key."""
        text = " ".join(str(message).split())
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text if len(text) <= _MAX_ERROR else text[:_MAX_ERROR] + ".."


def _adapted(request: RequestFields, body: Mapping[str, Any], words: str) -> tuple[RequestFields, str] | None:
    """Return the request fields without what a host's words refuse, and what changed; None if no field is named."""
    drop, rename, extra = request.drop, dict(request.rename), dict(request.extra)
    named = set(re.findall(r"[a-z_]+", words))
    if "stream" in named and not extra.get("stream"):
        return RequestFields(drop=drop, rename=rename, extra={**extra, "stream": True}), "replies are streamed"
    for name in body:
        sent = rename.get(name, name)
        if name in drop or sent not in named or name in ("model", "messages", "tools"):
            continue
        other = re.search(r"[Uu]se [`'\"]?([a-z_]+)[`'\"]? instead", words)
        if other and other[1] != sent:
            rename[name] = other[1]
            return RequestFields(drop=drop, rename=rename, extra=extra), f"{sent} is sent as {other[1]}"
        if (value := re.search(r"default \((\d+(?:\.\d+)?)\)", words)) and name not in extra:
            extra[name] = json.loads(value[1])
            return RequestFields(drop=drop, rename=rename, extra=extra), f"{sent} is sent as {value[1]}"
        if name == "max_tokens":
            return None  # a limit that is left out costs more than it says
        drop = (*drop, name)
        return RequestFields(drop=drop, rename=rename, extra=extra), f"{sent} is refused and left out"
    return None


def _key(body: Mapping[str, Any], sample: int) -> str:
    return f"{sample}\n{json.dumps(body, sort_keys=True)}"


def _retry_after(header: str) -> float:
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0  # no header, or a date: the client uses its own backoff
