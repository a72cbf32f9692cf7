"""What each vendor's SDK (PyPI) concludes of each ending of a stream in its dialect: see crates/errors/src/endings.md."""

import asyncio
import os
from importlib.metadata import version
from pathlib import Path

import anthropic
import mcp
import mcp.client.streamable_http
import ollama
import openai
from check import check
from google import genai

ENDINGS = ["whole", "failed", "incomplete", "drained", "late"]
TABLE = Path(__file__).parents[3] / "crates/errors/src/endings.md"
messages = [{"role": "user", "content": "Hi"}]


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0)


# each gives whether the answer looked finished, or raises
def openai_chat(url: str) -> bool:
    finish = None
    for chunk in client(url).chat.completions.create(model="m", messages=messages, stream=True):
        finish = chunk.choices[0].finish_reason
    return finish == "stop"


def openai_responses(url: str) -> bool:
    last = None
    for event in client(url).responses.create(model="m", input="Hi", stream=True):
        last = event.type
    return last == "response.completed"


def anthropic_messages(url: str) -> bool:
    asked = anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)
    with asked.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
        return stream.get_final_message().stop_reason == "end_turn"


def ollama_chat(url: str) -> bool:
    done = False
    for part in ollama.Client(host=url).chat(model="m", messages=messages, stream=True):
        done = part.done
    return bool(done)


def gemini(url: str) -> bool:
    asked = genai.Client(api_key="unused", http_options={"base_url": url})
    finish = None
    for chunk in asked.models.generate_content_stream(model="m", contents="Hi"):
        finish = chunk.candidates[0].finish_reason
    return finish == "STOP"


def mcp_call(url: str) -> bool:
    async def call() -> bool:
        async with mcp.client.streamable_http.streamable_http_client(url) as streams:
            async with mcp.ClientSession(*streams[:2]) as session:
                await session.initialize()
                return (await session.call_tool("t", {})).content[0].text == "!"

    # A request whose answer never comes would wait for ever: that is not raised by the client.
    try:
        return asyncio.run(asyncio.wait_for(call(), 20))
    except TimeoutError:
        return False


lines = TABLE.read_text().splitlines()
for dialect, path, package, ask in [
    ("OpenAI chat", "openai-chat", "openai", openai_chat),
    ("OpenAI responses", "openai-responses", "openai", openai_responses),
    ("Anthropic", "anthropic", "anthropic", anthropic_messages),
    ("Gemini", "gemini", "google-genai", gemini),
    ("MCP", "mcp", "mcp", mcp_call),
    ("Ollama", "ollama", "ollama", ollama_chat),
]:
    seen = []
    for ending in ENDINGS:
        try:
            whole = ask(f"{os.environ['DIALECTS_URL']}/{path}/{ending}")
            seen.append("complete" if whole else "**looks whole**")
        except Exception as error:
            if os.environ.get("VERBOSE"):
                print(repr(error))
            seen.append("raises")
    sdk = f"PyPI `{package}` {version(package)}"
    line = f"| {' | '.join([dialect, sdk, *seen])} |"
    check(f"{dialect}, {sdk}: endings.md has {', '.join(seen)}", line in lines, f"it has no line {line}")
