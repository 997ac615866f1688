"""A server process of OpenAI's chat completions: `python -m tests.retriever.llm.chat_server MODEL`.

Without a model it prefers the longer passage, and says Yes to passages of 40 characters or more. The name of the
model in a request chooses a fault: slow, nonsense, empty, broken, limited (turned away twice), closed (always), bare
(no log-probabilities), odd (answers beside the question).
"""

import http.server
import json
import re
import sys
import time
from collections import Counter

TURNED_AWAY: Counter[str] = Counter()


def longer(prompt):
    pair = re.search(r"(?s)Passage A: (.*?)\n\nPassage B: (.*?)\n\nAnswer", prompt)
    if pair:
        return ["Passage", " A" if len(pair[1]) > len(pair[2]) else " B"], (" A", " B")
    passage = re.search(r"(?s)Passage: (.*?)\nDoes", prompt)[1]
    return ["Yes" if len(passage) >= 40 else "No"], ("Yes", "No")


def content(tokens, options):
    other = {options[0]: options[1], options[1]: options[0]}
    found = []
    for token in tokens:
        tops = [{"token": token, "logprob": -0.25}]
        if token in other:
            tops.append({"token": other[token], "logprob": -1.5})
        found.append({"token": token, "logprob": -0.25, "top_logprobs": tops})
    return found


class Model:
    """A causal model of Hugging Face that answers the prompt with its likeliest tokens."""

    def __init__(self, name):
        from retriever.llm.causal import CausalModel

        self.model = CausalModel(name, device="cpu", offline=True)

    def answer(self, prompt):
        from retriever.llm.prompts import Prompt
        from retriever.llm.usage import Deadline, Usage

        usage = Usage()
        (text,) = self.model.write([Prompt(prompt, "")], Deadline(), usage)
        return text, usage


class Handler(http.server.BaseHTTPRequestHandler):
    model = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt, kind = body["messages"][0]["content"], body["model"]
        if kind == "slow":
            time.sleep(1.5)
        if kind == "closed" or (kind == "limited" and TURNED_AWAY[prompt] < 2):
            TURNED_AWAY[prompt] += 1
            return self.reply(429, {"error": {"message": "too many requests"}}, {"retry-after": "0.01"})
        if kind == "broken":
            return self.reply(500, {"error": {"message": "out of order"}})
        if kind == "nonsense":
            return self.reply(200, ["what?"])
        if kind == "empty":
            return self.reply(200, {"choices": []})
        if kind == "locked" and self.headers.get("authorization") != "Bearer secret":
            return self.reply(401, {"error": {"message": "no key"}})
        if self.model is not None:
            text, usage = self.model.answer(prompt)
            counts = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.answer_tokens}
            return self.reply(200, {"choices": [{"message": {"content": text}}], "usage": counts})
        tokens, options = longer(prompt)
        if kind == "odd":
            tokens = ["I", " cannot", " say"]
        choice = {"message": {"role": "assistant", "content": "".join(tokens)}}
        if body.get("logprobs") and kind != "bare":
            choice["logprobs"] = {"content": content(tokens, options)}
        counts = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(tokens)}
        self.reply(200, {"choices": [choice], "usage": counts})

    def reply(self, status, content, headers=()):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Handler.model = Model(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
