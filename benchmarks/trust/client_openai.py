"""What the openai package asks of a server, checked; prints one JSON document."""

import sys

import openai
from client_check import check, report

client = openai.OpenAI(base_url=sys.argv[1], api_key="none-needed", max_retries=0, timeout=60)
LINE = "Tell me how the market was this morning."
USER = [{"role": "user", "content": LINE}]


def chat(**wish):
    """One chat call."""
    return client.chat.completions.create(model="toy", **{"messages": USER, "max_tokens": 10, "seed": 3, **wish})


def text(**wish):
    """One completions call."""
    return client.completions.create(model="toy", **{"prompt": "the market", "max_tokens": 10, "seed": 3, **wish})


def refused(field, **wish):
    """Whether a wish is a 400 that names the field."""
    try:
        chat(**wish)
    except openai.BadRequestError as error:
        return error.param == field or error.param
    return "taken"


def streamed():
    """Pieces and count are those of the whole answer."""
    parts = list(chat(stream=True, stream_options={"include_usage": True}))
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    whole = chat()
    return said == whole.choices[0].message.content and parts[-1].usage == whole.usage


def streamed_text():
    """Pieces are those of the whole answer."""
    said = "".join(part.choices[0].text for part in text(stream=True))
    return said == text().choices[0].text


def n_streamed():
    """Each choice has its own pieces."""
    parts = [c for part in chat(n=2, stream=True) for c in part.choices]
    said = ["".join(c.delta.content or "" for c in parts if c.index == index) for index in (0, 1)]
    return said == [c.message.content for c in chat(n=2).choices]


def logprobs():
    """Tokens are the text, each with three alternatives."""
    choice = chat(logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    return "".join(e.token for e in entries) == choice.message.content and all(
        len(e.top_logprobs) == 3 for e in entries
    )


check("models", lambda: [model.id for model in client.models.list()] == ["toy"])
check("one model", lambda: client.models.retrieve("toy").id == "toy")
check("chat", lambda: chat().choices[0].finish_reason in ("stop", "length"))
check("chat, streamed, with usage", streamed)
check("chat, n", lambda: len({c.message.content for c in chat(n=3).choices}) == 3)
check("chat, n, streamed", n_streamed)
check("chat, log-probabilities", logprobs)
check("chat, stop", lambda: "e" not in chat(stop="e", max_tokens=60).choices[0].message.content)
check(
    "chat, max_completion_tokens", lambda: chat(max_tokens=None, max_completion_tokens=3).usage.completion_tokens <= 3
)
check("chat, parts", lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": LINE}]}])
      .choices[0].message.content == chat().choices[0].message.content)  # fmt: skip
check(
    "chat, temperature 0", lambda: len({chat(temperature=0, seed=s).choices[0].message.content for s in range(6)}) == 1
)
check("chat, negative temperature", lambda: refused("temperature", temperature=-0.5))
check("chat, no message", lambda: refused("messages", messages=[]))
check(
    "chat, tools", lambda: refused("tools", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
)
check("completions, streamed", streamed_text)
check("completions, several prompts", lambda: len(text(prompt=["a walk", "a swim", "a ride"]).choices) == 3)
check("completions, token ids", lambda: len(text(prompt=[[35, 3, 36], [35, 4, 36]]).choices) == 2)
check("completions, echo", lambda: text(echo=True).choices[0].text.startswith("the market"))
report("openai")
