"""One async client for every OpenAI-compatible endpoint: vLLM, SGLang, hosted.

What a run of days needs: a limit on requests in flight, retries with jitter, a deadline per call, an account of tokens
and cost, a response cache keyed by the full request, several endpoints that share the load. The key comes from an
environment variable, is sent to the endpoints named in the options and appears nowhere else: not in a repr, an error,
a log or a file.
"""

from star_rl.chat.client import ChatClient, ChatError
from star_rl.chat.options import ChatOptions
from star_rl.chat.reply import CallRequest, ChatReply, Usage

__all__ = ["CallRequest", "ChatClient", "ChatError", "ChatOptions", "ChatReply", "Usage"]
