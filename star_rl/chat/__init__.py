"""An async client for OpenAI-compatible endpoints: vLLM, SGLang, hosted models.

It limits requests in flight, retries with jitter, times out, counts tokens and cost, caches replies by request and
shares the load over several endpoints. The API key comes from an environment variable and appears nowhere else: in no
repr, error, log or file.
"""

from star_rl.chat.client import ChatClient, ChatError
from star_rl.chat.options import ChatOptions
from star_rl.chat.reply import CallRequest, ChatReply, Usage

__all__ = ["CallRequest", "ChatClient", "ChatError", "ChatOptions", "ChatReply", "Usage"]
