"""Options of the chat client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from star_rl.errors import StarError


@dataclass(frozen=True, slots=True)
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

    endpoints: tuple[str, ...]
    model: str = ""
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 2048
    concurrency: int = 32
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 60.0
    cache: str = ""
    key_variable: str = "STAR_RL_API_KEY"
    price_prompt: float = 0.0
    price_completion: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.endpoints, str) or not self.endpoints:
            raise StarError("no chat endpoint is given", "give a list of URLs such as http://localhost:8000/v1")
        for url in self.endpoints:
            parts = urlsplit(url)
            if parts.username or parts.password or parts.query:
                raise StarError(
                    f"the endpoint on {parts.hostname} holds a user name, a password or a query",
                    f"give the bare URL, and the key in the environment variable {self.key_variable}",
                )
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise StarError(f"{url!r} is not an endpoint", "give a URL such as http://localhost:8000/v1")
        for name, least in (("concurrency", 1), ("max_tokens", 1), ("retries", 0), ("temperature", 0), ("backoff", 0)):
            if getattr(self, name) < least:
                raise StarError(f"chat option {name} is {getattr(self, name)}", f"give {least} or more")
        if self.timeout <= 0 or not 0 < self.top_p <= 1:
            raise StarError(
                f"timeout is {self.timeout}, top_p is {self.top_p}", "give a timeout > 0 and 0 < top_p <= 1"
            )

    @property
    def describe(self) -> dict[str, Any]:
        """Return the options that decide a reply; no URL, price or secret."""
        return {name: getattr(self, name) for name in ("model", "temperature", "top_p", "max_tokens")}
