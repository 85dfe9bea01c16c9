"""Options of the chat client, and presets of hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from star_rl.errors import StarError
from star_rl.options import Count, Number, Positive, Size, TopP, options

DEFAULT_KEY = "STAR_RL_API_KEY"


@dataclass(frozen=True, slots=True)
class Preset:
    """What a host needs: its URL (empty: you serve it), the variable with its key, and names of fields it wants."""

    endpoint: str = ""
    key_variable: str = DEFAULT_KEY
    rename: Mapping[str, str] = field(default_factory=dict)


#: Hosts by name. A field that only some models of a host refuse is found by :meth:`star_rl.chat.ChatClient.ready`.
PRESETS: Mapping[str, Preset] = {
    "vllm": Preset(),
    "sglang": Preset(),
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY", {"max_tokens": "max_completion_tokens"}),
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "ollama": Preset("http://localhost:11434/v1", "OLLAMA_API_KEY"),
}


@options
class RequestFields:
    """Changes to the fields of a request, in this order.

    Attributes:
        drop: fields to leave out.
        rename: our name -> the host's name, such as ``max_tokens: max_completion_tokens``.
        extra: further fields, such as ``reasoning_effort: low`` or ``stream: true``. Affects results.
    """

    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request as the host gets it."""
        kept = {self.rename.get(name, name): value for name, value in body.items() if name not in self.drop}
        return {**kept, **self.extra}


def read_request(text: str | None) -> dict[str, Any]:
    """Return the fields that YAML such as ``{drop: [seed]}`` describes.

    Raises:
        StarError: the text is not a mapping in YAML.
    """
    import yaml

    try:
        read = yaml.safe_load(text or "{}")
    except yaml.YAMLError:
        read = None
    if not isinstance(read, dict):
        raise StarError(f"request={text!r} is not a mapping", "write {drop: [seed], rename: {a: b}, extra: {c: 1}}")
    return read


def _listed(endpoints: Any) -> tuple[str, ...]:
    listed = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints or ())
    if not all(isinstance(url, str) for url in listed):  # not shown: it may hold a secret
        raise _no_endpoint()
    return listed


def _no_endpoint() -> StarError:
    return StarError("endpoints names no chat endpoint", "give a list of URLs such as http://localhost:8000/v1")


@options
class ChatOptions:
    """Which model to ask, where and how.

    Affects results:
        model: name of the served model; empty = the only model of the first endpoint.
        temperature, top_p, max_tokens: defaults of every call.
        request: fields to drop, rename or add.
    Affects speed and cost only:
        endpoints: base URLs, ``http://host:port/v1``; a call goes to the one with the fewest in flight.
        preset: a host of :data:`PRESETS`; sets endpoint, key variable and renamed fields that are not set here.
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

    endpoints: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    model: str = ""
    temperature: Number = 0.7
    top_p: TopP = 0.95
    max_tokens: Size = 2048
    request: RequestFields = field(default_factory=RequestFields)
    preset: str = ""
    concurrency: Size = 32
    timeout: Positive = 120.0
    retries: Count = 5
    backoff: Number = 1.0
    longest_wait: Number = 60.0
    cache: str = ""
    key_variable: str = DEFAULT_KEY
    price_prompt: Number = 0.0
    price_completion: Number = 0.0

    def __post_init__(self) -> None:
        if self.preset:
            self._use_preset()
        if not self.endpoints:
            raise _no_endpoint()
        for url in self.endpoints:
            parts = urlsplit(url)
            if parts.username or parts.password or parts.query:
                raise StarError(
                    f"endpoints holds a user name, a password or a query for {parts.hostname}",
                    f"give the bare URL, and the key in the environment variable {self.key_variable}",
                )
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise StarError(f"endpoints={url} is not a URL", "give one such as http://localhost:8000/v1")

    def _use_preset(self) -> None:
        if self.preset not in PRESETS:
            raise StarError(f"preset={self.preset!r} is not known", f"choose among {', '.join(PRESETS)}")
        chosen, own = PRESETS[self.preset], self.request
        if not self.endpoints and chosen.endpoint:
            object.__setattr__(self, "endpoints", (chosen.endpoint,))
        if self.key_variable == DEFAULT_KEY:
            object.__setattr__(self, "key_variable", chosen.key_variable)
        request = RequestFields(drop=own.drop, rename={**chosen.rename, **own.rename}, extra=own.extra)
        object.__setattr__(self, "request", request)

    @property
    def describe(self) -> dict[str, Any]:
        """Return the options that decide a reply; no URL, price or secret."""
        plain = {name: getattr(self, name) for name in ("model", "temperature", "top_p", "max_tokens")}
        extra = {name: value for name, value in self.request.extra.items() if name not in ("stream", "stream_options")}
        return {**plain, **extra}
