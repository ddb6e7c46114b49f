"""What users run: the official clients of OpenAI and Anthropic, against the gateway whose address is the only argument.

Prints one line of JSON for each step: what the client made of the answer. What it should be is the test's to say.
"""

import json
import sys

import anthropic
import openai

GATEWAY = sys.argv[1]
MODEL = "llama"
QUESTION = [{"role": "user", "content": "Which way to the harbour?"}]

gpt = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key="any", max_retries=0, timeout=30)
claude = anthropic.Anthropic(base_url=GATEWAY, api_key="any", max_retries=0, timeout=30)


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


def refused(step, ask):
    """A request that must fail: which exception users have to catch, and what it tells them."""
    try:
        ask()
    except (openai.APIError, anthropic.APIError) as error:
        say(
            step,
            exception=f"{type(error).__module__.split('.')[0]}.{type(error).__name__}",
            status=error.status_code,
            message=error.message,
            code=getattr(error, "code", None),
            param=getattr(error, "param", None),
            type=getattr(error, "type", None),
        )
    else:
        say(step, exception=None)


def models():
    say("models", ids=[model.id for model in gpt.models.list()])
    say("model", id=gpt.models.retrieve(MODEL).id)
    refused("no such model, retrieved", lambda: gpt.models.retrieve("nobody"))


def chat():
    plain = gpt.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=6)
    text = plain.choices[0].message.content
    say("chat", words=len(text.split()), finish=plain.choices[0].finish_reason, tokens=plain.usage.completion_tokens)

    pieces, usage = [], None
    options = {"include_usage": True}
    for chunk in gpt.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=6, stream=True, stream_options=options
    ):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    say(
        "chat, streamed",
        pieces=len(pieces),
        same="".join(pieces) == text,
        prompt_same=usage.prompt_tokens == plain.usage.prompt_tokens,
        tokens=usage.completion_tokens,
    )

    raw = gpt.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_tokens=1, extra_headers={"x-request-id": "a-client-of-python"}
    )
    say("request id", returned=raw.headers.get("x-request-id"))


def other_forms():
    completion = gpt.completions.create(model=MODEL, prompt="Once upon", max_tokens=4)
    say("completion", words=len(completion.choices[0].text.split()), tokens=completion.usage.completion_tokens)

    response = gpt.responses.create(model=MODEL, input="Which way?", max_output_tokens=5)
    say("response", words=len(response.output_text.split()), tokens=response.usage.output_tokens)
    events = list(gpt.responses.create(model=MODEL, input="Which way?", max_output_tokens=5, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    say(
        "response, streamed",
        first=events[0].type,
        last=last.type,
        same="".join(deltas) == response.output_text,
        tokens=last.response.usage.output_tokens,
    )

    # The client asks for base64 by itself, and decodes it.
    found = gpt.embeddings.create(model=MODEL, input=["one harbour", "another"])
    lengths = [round(sum(number * number for number in entry.embedding), 3) for entry in found.data]
    say("embeddings", lengths=lengths, differ=found.data[0].embedding != found.data[1].embedding)


def refusals():
    ask = gpt.chat.completions.create
    refused("no such model", lambda: ask(model="nobody", messages=QUESTION))
    refused("no such model, streamed", lambda: ask(model="nobody", messages=QUESTION, stream=True))
    refused("no messages", lambda: ask(model=MODEL, messages=[]))
    refused("a model that is a number", lambda: ask(model=7, messages=QUESTION))


def messages():
    plain = claude.messages.create(model=MODEL, max_tokens=6, messages=QUESTION)
    text = plain.content[0].text
    say("message", words=len(text.split()), stop=plain.stop_reason, tokens=plain.usage.output_tokens)
    with claude.messages.stream(model=MODEL, max_tokens=6, messages=QUESTION) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    say(
        "message, streamed",
        pieces=len(pieces),
        same="".join(pieces) == text,
        stop=final.stop_reason,
        tokens=final.usage.output_tokens,
    )
    ask = claude.messages.create
    refused("no such model, as a message", lambda: ask(model="nobody", max_tokens=6, messages=QUESTION))
    refused("no messages, as a message", lambda: ask(model=MODEL, max_tokens=6, messages=[]))


models()
chat()
other_forms()
refusals()
messages()
