"""The clients that must work, each with its pinned version and what it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Runtime = Literal["python", "node", "curl", "replay"]


@dataclass(frozen=True, slots=True)
class Client:
    """One client of the suite.

    name: how `CLIENTS=` calls it; its requirements file has the same name
    version: the pinned one; empty where the machine's own is taken
    runtime: replay for a client whose requests are sent as its source code writes them, because it runs elsewhere only
    program: the file under clients/ that drives it
    least_python, below_python: the versions it runs on, from and up to
    """

    name: str
    title: str
    version: str
    runtime: Runtime
    program: str
    least_python: tuple[int, int] = (3, 11)
    below_python: tuple[int, int] = (3, 15)


CLIENTS: tuple[Client, ...] = (
    Client("openai-1.3.9", "openai-python", "1.3.9", "python", "openai_python.py"),
    Client("openai-1.59.9", "openai-python", "1.59.9", "python", "openai_python.py"),
    Client("openai-2.54.0", "openai-python", "2.54.0", "python", "openai_python.py"),
    Client("openai-3.57.0", "openai-python", "3.57.0", "python", "openai_python.py"),
    Client("openai-node", "openai-node", "6.49.0", "node", "openai_node.mjs"),
    Client("ai-sdk", "Vercel AI SDK (`ai`, `@ai-sdk/openai`)", "7.0.173, 4.0.118", "node", "ai_sdk.mjs"),
    Client("litellm", "LiteLLM", "1.106.2", "python", "litellm_transcription.py"),
    Client("litellm-proxy", "LiteLLM's proxy", "1.106.2", "python", "litellm_proxy.py"),
    Client("groq", "Groq's SDK", "1.7.0", "python", "groq_python.py"),
    Client("openai-agents", "openai-agents (voice, by HTTP)", "0.24.0", "python", "agents_voice.py"),
    Client("livekit", "LiveKit (`livekit-plugins-openai`, by HTTP)", "1.8.9", "python", "livekit_stt.py"),
    Client("pipecat", "pipecat (OpenAISTTService)", "1.14.0", "python", "pipecat_stt.py"),
    Client("speechrecognition", "SpeechRecognition", "3.17.0", "python", "speech_recognition_api.py"),
    Client("langchain-js", "LangChain.js (OpenAIWhisperAudio)", "1.1.29", "node", "langchain_js.mjs"),
    Client("langchain", "LangChain's OpenAIWhisperParser", "0.4.2", "python", "langchain_parser.py"),
    Client(
        "wyoming-openai",
        "wyoming_openai (Home Assistant)",
        "0.8.0",
        "python",
        "wyoming_bridge.py",
        least_python=(3, 12),
    ),
    Client("subtitle-edit", "Subtitle Edit's request, replayed", "5.0", "replay", "subtitle_edit.py"),
    Client("curl", "curl", "", "curl", "curl_commands.py"),
)


class ClientUnknown(Exception):
    """A name in CLIENTS that is none of the suite's."""


def chosen_clients(names: str) -> tuple[Client, ...]:
    """The clients of a comma-joined list of names, in the catalog's order; all of them for an empty list.

    raises: ClientUnknown
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    by_name = {client.name: client for client in CLIENTS}
    if unknown := [name for name in wanted if name not in by_name]:
        raise ClientUnknown(f"no client is called {', '.join(unknown)}; there are: {', '.join(by_name)}")
    return tuple(client for client in CLIENTS if not wanted or client.name in wanted)
