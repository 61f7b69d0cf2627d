"""What LangChain's classes for OpenAI ask of a server, checked; prints one JSON document."""

import sys

from client_check import check, report
from langchain_openai import ChatOpenAI, OpenAI

there = {
    "model": "toy",
    "base_url": sys.argv[1],
    "api_key": "none-needed",
    "max_tokens": 9,
    "max_retries": 0,
    "seed": 5,
}
model, plain = ChatOpenAI(temperature=0.6, **there), OpenAI(**there)


def scored():
    """Tokens are the text."""
    answer = model.bind(logprobs=True).invoke("a bench in the sun")
    return "".join(one["token"] for one in answer.response_metadata["logprobs"]["content"]) == answer.content


check("chat", lambda: len(model.invoke("a bench in the sun").content) > 0)
check("chat, usage", lambda: model.invoke("a bench in the sun").usage_metadata["output_tokens"] <= 9)
check("chat, batch", lambda: len(model.batch(["one", "two", "three"])) == 3)
check("chat, streamed", lambda: "".join(part.content for part in model.stream("a bench in the sun"))
      == model.invoke("a bench in the sun").content)  # fmt: skip
check("chat, log-probabilities", scored)
check("chat, stop", lambda: "a" not in model.invoke("a bench in the sun", stop=["a"]).content)
check("completions", lambda: len(plain.invoke("a bench")) > 0)
check("completions, several", lambda: len(plain.generate(["a bench", "a boat"]).generations) == 2)
check("completions, n", lambda: len(OpenAI(n=2, best_of=2, **there).generate(["a bench"]).generations[0]) == 2)
check("completions, streamed", lambda: "".join(plain.stream("a bench")) == plain.invoke("a bench"))
report("langchain-openai")
