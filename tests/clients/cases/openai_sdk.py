"""The official OpenAI SDK: streamed and whole answers, usage, errors, a reader that leaves."""

import asyncio

import openai
from check import DEMO_URL, Arrivals, check, equal

print(f"openai {openai.__version__}")
settings = dict(base_url=f"{DEMO_URL}/v1", api_key="unused", max_retries=0, timeout=20)
client = openai.OpenAI(**settings)
question = dict(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "Tell me about the rabbit"}],
    max_tokens=24,
    seed=7,
)
paced = {"interval_ms": 20}

whole = client.chat.completions.create(**question)
text = whole.choices[0].message.content
check("a whole answer has text", bool(text and text.strip()), repr(text))
check("it says why it ended", whole.choices[0].finish_reason in ("stop", "length"), whole.choices[0])
usage = whole.usage
check("usage adds up", usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0, usage)

arrivals, pieces, finish, streamed_usage = Arrivals(), [], None, None
with client.chat.completions.create(
    **question, stream=True, stream_options={"include_usage": True}, extra_query=paced
) as stream:
    for chunk in stream:
        if chunk.usage:
            streamed_usage = chunk.usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            if choice.delta.content:
                arrivals.note()
                pieces.append(choice.delta.content)
check("tokens stream", len(pieces) >= 10, pieces)
check("the first token came before the last was made", arrivals.spread_ms >= 10 * (len(pieces) - 1), arrivals.spread_ms)
equal("the same request gives the same text, streamed or whole", "".join(pieces), text)
equal("and ends for the same reason", finish, whole.choices[0].finish_reason)
equal("and the same usage", streamed_usage, usage)

with client.chat.completions.create(**question, stream=True, extra_query=paced) as stream:
    next(iter(stream))
check("a reader may leave in the middle", bool(client.models.list().data))

try:
    client.chat.completions.create(**{**question, "messages": []})
    check("a request without messages is refused", False, "it was answered")
except openai.BadRequestError as error:
    equal("a request without messages is refused, by the parameter's name", error.param, "messages")


async def several() -> list[str]:
    """Streams side by side on one client."""
    async with openai.AsyncOpenAI(**settings) as asynchronous:

        async def one(seed: int) -> str:
            create = asynchronous.chat.completions.create
            stream = await create(**{**question, "seed": seed}, stream=True, extra_query=paced)
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        return await asyncio.gather(*map(one, [7, 8, 7, 9]))


texts = asyncio.run(several())
equal("streams side by side do not mix", (texts[0], texts[2]), (text, text))
check("another seed gives another text", len({*texts}) > 1, texts)
