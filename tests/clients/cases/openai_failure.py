"""The official OpenAI SDK (PyPI): a stream that fails in the middle raises, it does not end."""

import asyncio

import openai
from check import DEMO_URL, check, equal

print(f"openai {openai.__version__}")
settings = dict(base_url=f"{DEMO_URL}/v1", api_key="unused", max_retries=0, timeout=20)
# a pace slower than the server's idle timeout: it gives up on its own model
stalling = dict(
    model="demo",
    messages=[{"role": "user", "content": "Tell me about the rabbit"}],
    stream=True,
    extra_query={"interval_ms": 60_000},
)


def judge(how: str, chunks: int, error: Exception | None) -> None:
    check(f"{how}: what came before the failure was read", chunks >= 1, chunks)
    check(f"{how}: the SDK's own error type", isinstance(error, openai.APIError), repr(error))
    equal(f"{how}: its code", getattr(error, "code", None), "timeout")
    equal(f"{how}: its message", getattr(error, "message", None), "the response took too long")


chunks, error = 0, None
try:
    with openai.OpenAI(**settings).chat.completions.create(**stalling) as stream:
        for _ in stream:
            chunks += 1
except Exception as raised:
    error = raised
judge("synchronous", chunks, error)


async def asynchronous() -> tuple[int, Exception | None]:
    chunks = 0
    async with openai.AsyncOpenAI(**settings) as client:
        try:
            async for _ in await client.chat.completions.create(**stalling):
                chunks += 1
        except Exception as raised:
            return chunks, raised
    return chunks, None


judge("asynchronous", *asyncio.run(asynchronous()))
