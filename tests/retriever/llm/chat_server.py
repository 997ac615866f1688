"""A server process of OpenAI's chat completions: `python -m tests.retriever.llm.chat_server MODEL`.

Without a model it prefers the longer passage, and says Yes to passages of 40 characters or more. The name of the
model in a request chooses a fault: slow, nonsense, empty, broken, limited (turned away twice), closed (always), bare
(no log-probabilities), odd (answers beside the question), article (names its choice behind the article "a"), dripping
and dripping_head (a byte at a time, without end), endless, deep, or one of LISTED or COUNTED. Asked for the model
`count`, it tells how often it has turned requests away.
"""

import contextlib
import http.server
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter

TURNED_AWAY: Counter[str] = Counter()

LISTED = {"unlikely": -9999.0, "infinite": math.inf, "huge": 10**400, "positive": 3.5, "unknown": math.nan}
"""What is listed as the log-probability of the answer that is not chosen."""

COUNTED = {"negative": -1, "uncountable": math.inf, "galactic": 10**30}
"""How many tokens it says to have read."""


@contextlib.contextmanager
def served(*arguments):
    """Start such a server, and return its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.retriever.llm.chat_server", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def longer(prompt):
    pair = re.search(r"(?s)Passage A: (.*?)\n\nPassage B: (.*?)\n\nAnswer", prompt)
    if pair:
        return ["Passage", " A" if len(pair[1]) > len(pair[2]) else " B"], (" A", " B")
    passage = re.search(r"(?s)Passage: (.*?)\nDoes", prompt)[1]
    return ["Yes" if len(passage) >= 40 else "No"], ("Yes", "No")


def content(tokens, options, unlikely=-1.5):
    other = {options[0]: options[1], options[1]: options[0]}
    found = []
    for token in tokens:
        tops = [{"token": token, "logprob": -0.25}]
        if token in other:
            tops.append({"token": other[token], "logprob": unlikely})
        found.append({"token": token, "logprob": -0.25, "top_logprobs": tops})
    return found


class Model:
    """A causal model of Hugging Face that answers the prompt with its likeliest tokens."""

    def __init__(self, name):
        from retriever.llm.causal import CausalModel

        self.model = CausalModel(name, device="cpu", offline=True)

    def answer(self, prompt, tops):
        """Return an answer as a choice, with the log-probabilities of the `tops` likeliest tokens of each place."""
        import torch

        from retriever.llm.prompts import Prompt

        tokenizer = self.model._tokenizer
        asked = self.model._prompt_ids(Prompt(prompt, ""))
        ids = torch.tensor([asked])
        with torch.inference_mode():
            made = self.model._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, output_logits=True,
                return_dict_in_generate=True, pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        written = made.sequences[0, len(asked) :].tolist()
        choice = {"message": {"content": tokenizer.decode(written, skip_special_tokens=True)}}
        if tops:
            listed = []
            for token, logits in zip(written, made.logits, strict=True):
                found = torch.log_softmax(logits[0].double(), 0)
                values, places = (part.tolist() for part in found.topk(tops))
                listed.append(
                    self.named(token, found[token].item())
                    | {"top_logprobs": [self.named(*one) for one in zip(places, values, strict=True)]}
                )
            choice["logprobs"] = {"content": listed}
        return choice, {"prompt_tokens": len(asked), "completion_tokens": len(written)}

    def named(self, token, value):
        return {"token": self.model._tokenizer.decode([token]), "logprob": value}


class Handler(http.server.BaseHTTPRequestHandler):
    model = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt, kind = body["messages"][0]["content"], body["model"]
        if kind == "count":
            return self.reply(200, {"choices": [{"message": {"content": str(TURNED_AWAY[prompt])}}]})
        if kind == "slow":
            time.sleep(1.5)
        if kind == "closed" or (kind == "limited" and TURNED_AWAY[prompt] < 2):
            TURNED_AWAY[prompt] += 1
            return self.reply(429, {"error": {"message": "too many requests"}}, {"retry-after": "0.01"})
        if kind == "broken":
            return self.reply(500, {"error": {"message": "out of order"}})
        if kind in ("dripping", "dripping_head", "endless"):
            return self.pour(kind)
        if kind == "deep":
            return self.send(200, b"[" * 100_000)
        if kind == "nonsense":
            return self.reply(200, ["what?"])
        if kind == "empty":
            return self.reply(200, {"choices": []})
        if kind == "locked" and self.headers.get("authorization") != "Bearer secret":
            return self.reply(401, {"error": {"message": "no key"}})
        if self.model is not None:
            choice, counts = self.model.answer(prompt, body.get("top_logprobs", 0))
            return self.reply(200, {"choices": [choice], "usage": counts})
        tokens, options = longer(prompt)
        if kind == "odd":
            tokens = ["I", " cannot", " say"]
        if kind == "article":
            tokens = ["It", " is", " a", " close", " call", ":", *tokens]
        choice = {"message": {"role": "assistant", "content": "".join(tokens)}}
        if body.get("logprobs") and kind != "bare":
            choice["logprobs"] = {"content": content(tokens, options, LISTED.get(kind, -1.5))}
        counts = {"prompt_tokens": COUNTED.get(kind, len(prompt.split())), "completion_tokens": len(tokens)}
        self.reply(200, {"choices": [choice], "usage": counts})

    def reply(self, status, content, headers=()):
        self.send(status, json.dumps(content).encode(), headers)

    def send(self, status, data, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def pour(self, kind):
        """Write without end, until nobody reads any more."""
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"x-drop: " if kind == "dripping_head" else b"\r\n"))
            while True:
                self.wfile.write(b" " * (65_536 if kind == "endless" else 1))
                time.sleep(0.0 if kind == "endless" else 0.02)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Handler.model = Model(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
