"""Options of the chat client."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from star_rl.errors import StarError
from star_rl.options import Count, Number, Positive, Size, TopP, options


def _listed(endpoints: Any) -> tuple[str, ...]:
    listed = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints or ())
    if not listed or not all(isinstance(url, str) for url in listed):  # not shown: it may hold a secret
        raise StarError("endpoints names no chat endpoint", "give a list of URLs such as http://localhost:8000/v1")
    return listed


@options
class ChatOptions:
    """Which model to ask, where and how.

    Affects results:
        model: name of the served model; empty = the only model of the first endpoint.
        temperature, top_p, max_tokens: defaults of every call.
    Affects speed and cost only:
        endpoints: base URLs, ``http://host:port/v1``; a call goes to the one with the fewest in flight.
        concurrency: calls in flight over all endpoints.
        timeout: seconds for one attempt, up to the last byte.
        retries: further attempts after a transient fault.
        backoff: most seconds before the first retry; doubles with each retry, up to ``longest_wait``.
        cache: SQLite file of replies, empty = none.
        key_variable: environment variable with the API key; unset = no key is sent.
        price_prompt, price_completion: per million tokens, in any currency.

    Raises:
        StarError: a value is out of range, or a URL is invalid or holds a secret.
    """

    endpoints: Annotated[tuple[str, ...], BeforeValidator(_listed)]
    model: str = ""
    temperature: Number = 0.7
    top_p: TopP = 0.95
    max_tokens: Size = 2048
    concurrency: Size = 32
    timeout: Positive = 120.0
    retries: Count = 5
    backoff: Number = 1.0
    longest_wait: Number = 60.0
    cache: str = ""
    key_variable: str = "STAR_RL_API_KEY"
    price_prompt: Number = 0.0
    price_completion: Number = 0.0

    def __post_init__(self) -> None:
        for url in self.endpoints:
            parts = urlsplit(url)
            if parts.username or parts.password or parts.query:
                raise StarError(
                    f"endpoints holds a user name, a password or a query for {parts.hostname}",
                    f"give the bare URL, and the key in the environment variable {self.key_variable}",
                )
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise StarError(f"endpoints={url} is not a URL", "give one such as http://localhost:8000/v1")

    @property
    def describe(self) -> dict[str, Any]:
        """Return the options that decide a reply; no URL, price or secret."""
        return {name: getattr(self, name) for name in ("model", "temperature", "top_p", "max_tokens")}
