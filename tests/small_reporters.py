"""A Qwen2.5-VL of random weights with tokenizer and processor made here, and a server that speaks OpenAI's protocol."""

import base64
import contextlib
import hashlib
import http.server
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from reporting.report_sections import PROMPT, RETRY_SUFFIX, SECTIONS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["The face is long.", "Hypertelorism.", "Hypertelorism.", "Wide nasal bridge.", "Thin upper lip vermilion."]
REPORT = "\n".join(map(": ".join, zip(SECTIONS.values(), [*TEXTS, "Noonan syndrome."], strict=True)))


def processor() -> Qwen2_5_VLProcessor:
    """With a byte-level tokenizer of a few hundred tokens, and pictures of at most 56 x 56 px."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([PROMPT, RETRY_SUFFIX, REPORT], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    return Qwen2_5_VLProcessor(pictures, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def saved_qwen(folder: Path, seed: int = 0) -> Path:
    """The model and its processor in transformers' layout; what it writes depends on the picture."""
    own = processor()
    ids = {token: own.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(own.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "initializer_range": 0.5,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "initializer_range": 0.5,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    # As Qwen's own: sampling and a penalty on what was said before, which a greedy reporter must not apply.
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.8}
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ids["<|endoftext|>"], **sampling)
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


class Request:
    """A request that the server received. number: among all requests; of_picture: among those on the same picture."""

    def __init__(self, number: int, of_picture: int, picture: bytes, body: dict, headers: dict, path: str):
        self.number, self.of_picture, self.picture, self.body = number, of_picture, picture, body
        self.headers, self.path = headers, path

    @property
    def pixels_sha256(self) -> str:
        with Image.open(io.BytesIO(self.picture)) as image:
            return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"][1]["text"]

    @property
    def report(self) -> str:
        """A report that tells which picture was seen."""
        return REPORT + f" Seen: {self.pixels_sha256[:16]}."


class ChatServer(http.server.ThreadingHTTPServer):
    """Answers POST /v1/chat/completions on 127.0.0.1 as `behave` says: a status and what is said, or what is raised."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, behave: Callable[[Request], tuple[int, object] | tuple[int, object, dict]]):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.behave, self.requests, self.lock = behave, [], threading.Lock()
        self.per_picture: Counter = Counter()
        self.under_way = self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has not waited for the answer is no error."""


class ChatHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: ChatServer = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        picture = base64.b64decode(url.partition("base64,")[2])
        with server.lock:
            key = hashlib.sha256(picture).hexdigest()
            request = Request(
                len(server.requests), server.per_picture[key], picture, body, dict(self.headers), self.path
            )
            server.per_picture[key] += 1
            server.requests.append(request)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            status, said, *headers = server.behave(request)
        finally:
            with server.lock:
                server.under_way -= 1
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


def completion(text: str | None, finish: str = "stop") -> dict:
    """A server's answer in OpenAI's form."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def well_behaved(request: Request) -> tuple[int, object]:
    return 200, completion(request.report)


def unreliable(request: Request, late_s: float = 2.0) -> tuple:
    """Fails a third of the time, in four ways, and besides is late, cuts answers, and loops in blanks.

    What it does depends on the picture and on how often it was asked about it, so no picture always fails."""
    chance = int(request.pixels_sha256[:8], 16) + request.of_picture
    if chance % 3 == 1:
        kind = chance // 3 % 4
        if kind == 0:
            return 503, {"error": {"message": "busy"}}, {"Retry-After": "0"}
        if kind == 1:
            return 500, b"<html>broken</html>"
        if kind == 2:
            return 200, b'{"choices": [{"message": {"cont'
        return 429, {"error": {"message": "slowly"}}
    if chance % 11 == 3:
        time.sleep(late_s)
    if chance % 7 == 2:
        return 200, completion(request.report[:70], "length")
    if chance % 7 == 5:
        return 200, completion('{"Overall Impression": "wide"' + "\n " * 400, "length")
    return well_behaved(request)


@contextlib.contextmanager
def chat_server(behave: Callable = well_behaved) -> Iterator[ChatServer]:
    server = ChatServer(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
