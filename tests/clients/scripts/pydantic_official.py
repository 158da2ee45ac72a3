"""pydantic-ai on the official route: sign-in, a tool turn, structured output."""

from __future__ import annotations

import asyncio
import uuid

import pydantic
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai_chatgpt import OpenAIChatGPTOAuthFlow, OpenAIChatGPTProvider


class Dog(pydantic.BaseModel):
    name: str
    age: int


def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    return f"pelican-{a * b}"


async def main() -> None:
    flow = OpenAIChatGPTOAuthFlow(app_name="pelican", host_id=uuid.uuid4().urn)
    print(flow.authorization_url(), flush=True)
    credentials = await flow.exchange_code_from_callback()
    model = OpenAIResponsesModel("gpt-6-luna", provider=OpenAIChatGPTProvider(credentials))
    first = await Agent(model, system_prompt="Be brief.").run("Say hello")
    print(first.output, first.usage)
    agent = Agent(model, instructions="Be brief.", tools=[multiply])
    print((await agent.run('multiply {"a": 6, "b": 7}')).output)
    again = await agent.run("And more", message_history=first.all_messages())
    print(again.output)
    async with agent.run_stream("Say hello slowly") as stream:
        print([text async for text in stream.stream_text(delta=True)])
    print(repr((await Agent(model, output_type=Dog).run("a dog")).output))


asyncio.run(main())
