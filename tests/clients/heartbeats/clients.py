"""What the Python clients get of each form."""

import asyncio
import importlib.metadata

import anthropic
import httpx
import httpx_sse
import mcp
import mcp.client.streamable_http
import openai


def read_openai(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
    for chunk in stream:
        if chunk.choices[0].finish_reason is None:
            yield chunk.choices[0].delta.content


def read_anthropic(url):
    client = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0)
    message = [{"role": "user", "content": "x"}]
    for event in client.messages.create(model="m", max_tokens=9, messages=message, stream=True):
        if event.type == "content_block_delta":
            yield event.delta.text
        elif event.type == "ping":
            yield "ping"


def read_httpx_sse(url):
    with httpx.Client() as client, httpx_sse.connect_sse(client, "GET", f"{url}/events") as source:
        for event in source.iter_sse():
            yield event.data


def read_mcp(url):
    seen = []

    async def logged(params):
        seen.append(params.data)

    async def run():
        async with mcp.client.streamable_http.streamable_http_client(f"{url}/mcp") as streams:
            async with mcp.ClientSession(*streams[:2], logging_callback=logged) as session:
                await session.initialize()
                result = await session.call_tool("t", {})
                seen.append(result.content[0].text)

    try:
        asyncio.run(asyncio.wait_for(run(), 10))
    finally:
        yield from seen


CLIENTS = {"openai": read_openai, "anthropic": read_anthropic, "httpx-sse": read_httpx_sse, "mcp": read_mcp}


def read_all(targets) -> dict[str, dict[tuple[str, str], list[str]]]:
    """By client with its version, then by form and ids: what was delivered, with the error at the end if there was one."""
    found = {}
    for package, read in CLIENTS.items():
        seen = found[f"{package} {importlib.metadata.version(package)} (PyPI)"] = {}
        for form, ids, url in targets:
            got = seen[form, ids] = []
            try:
                for text in read(url):
                    got.append(text)
            except Exception as error:
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                got.append(f"error: {type(error).__name__}")
    return found
