"""Reporters: a tiny Qwen2.5-VL in batches of any size, servers of every temper, and the cut of answers that loop."""

import base64
import datetime
import email.utils
import hashlib
import io
import time

import numpy as np
import pytest
import torch
from PIL import Image
from small_reporters import REPORT, chat_server, completion, saved_qwen, unreliable, well_behaved

from harness.errors import InputError, OutsideError
from reporting import report_sections, reporters, server_reporter
from reporting.image_text_reporter import ends_in_loop, load_image_text_reporter, model_digest
from reporting.reporters import Answer, Reporter, RuleReporter, cut_loops, is_malformed, trailing_loop
from reporting.server_reporter import ServerReporter, check_base_url, data_url, retry_after_s


def pictures(n: int, seed: int = 0) -> list[np.ndarray]:
    """Of several sizes, so that prompts in a batch differ in length."""
    rng = np.random.default_rng(seed)
    sides = [(40, 60), (64, 64), (30, 30), (100, 50), (56, 80)]
    return [rng.integers(0, 255, (*sides[i % 5], 3), dtype=np.uint8) for i in range(n)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return saved_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")


def pil(arrays: list[np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(array) for array in arrays]


# ---- models of transformers


def test_batches_of_one_and_four_give_the_same_tokens_and_pictures_matter(qwen):
    reporter = load_image_text_reporter(str(qwen), "cpu", batch_size=1, max_new_tokens=20)
    seen = pil(pictures(4))
    together, _ = reporter.generate(seen, reporter.asked(0))
    alone = [reporter.generate([picture], reporter.asked(0))[0][0] for picture in seen]
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 4  # a model that saw no picture would write one answer
    assert reporter.generate(seen[:1], reporter.asked(1))[0] != alone[:1]  # the second prompt is another one


def test_the_tokens_are_the_most_probable_ones_given_all_outputs_of_the_processor(qwen):
    reporter = load_image_text_reporter(str(qwen), "cpu", max_new_tokens=12)
    (picture,) = pil(pictures(1))
    (tokens,), _ = reporter.generate([picture], report_sections.PROMPT)
    text = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{report_sections.PROMPT}<|im_end|>\n"
    inputs = reporter.processor(text=[text + "<|im_start|>assistant\n"], images=[picture], return_tensors="pt")
    assert "mm_token_type_ids" in inputs
    for token in tokens:  # a whole forward pass for each, without a cache
        logits = reporter.model(**inputs).logits[0, -1]
        assert int(logits.argmax()) == token
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.tensor([[0]])], dim=1)


def test_an_answer_without_its_end_is_flagged_and_one_with_it_is_not(qwen):
    reporter = load_image_text_reporter(str(qwen), "cpu", max_new_tokens=20)
    word = reporter.processor.tokenizer("Nose: wide.")["input_ids"]
    end = reporter.processor.tokenizer.eos_token_id
    assert reporter._answer(word, False) == Answer("Nose: wide.", ("cut_off",))
    assert reporter._answer([*word, end], False) == Answer("Nose: wide.")
    assert reporter._answer(word, True) == Answer("Nose: wide.", ("repetition",))


def test_a_model_that_repeats_itself_is_stopped_long_before_the_limit(qwen):
    reporter = load_image_text_reporter(str(qwen), "cpu", max_new_tokens=300)
    with torch.no_grad():  # it writes one token for ever, whatever it sees
        reporter.model.lm_head.weight.zero_()
        reporter.model.model.language_model.norm.weight.zero_()
    reporter.model.generation_config.eos_token_id = reporter.processor.tokenizer.eos_token_id  # not that token
    (answer,) = [answer for _, answer in reporter.answers([("a", pictures(1)[0])])]
    tokens, looped = reporter.generate(pil(pictures(2)), reporter.asked(0))
    assert looped == [True, True] and {len(row) for row in tokens} == {48}
    assert "repetition" in answer.flags and is_malformed(answer.flags)


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [([5] * 48, True), ([5] * 47, False), ([1, 2, 3] * 16, True), ([9, *[1, 2, 3] * 16], True),
     (list(range(64)) * 4, True), (list(range(65)) * 4, False), ([*[1, 2, 3] * 16, 4], False),
     (list(range(200)), False), ([], False)],
)  # fmt: skip
def test_a_loop_is_four_equal_parts_of_at_most_64_tokens(tokens, loops):
    assert ends_in_loop(tokens) == loops


def test_weights_are_told_apart_and_what_is_no_model_is_refused_in_one_line(qwen, tmp_path):
    model = load_image_text_reporter(str(qwen), "cpu").model
    other = saved_qwen(tmp_path / "other", seed=1)
    assert model_digest(str(qwen), model) != model_digest(str(other), model)
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), "nobody/no-such-model"):
        with pytest.raises(InputError, match="cannot be opened") as refusal:
            load_image_text_reporter(name, "cpu")
        assert "\n" not in str(refusal.value)
    (other / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load_image_text_reporter(str(other), "cpu")


# ---- what all share


def test_endless_ends_are_cut_and_flagged():
    assert cut_loops("Nose: wide." + "\n " * 100) == Answer("Nose: wide.", ("whitespace",))
    assert cut_loops("Nose: wide.\n\n") == Answer("Nose: wide.")
    assert cut_loops("Nose: wide. " + "It is flat. " * 50) == Answer("Nose: wide. It is flat.", ("repetition",))
    assert cut_loops("Nose: " + "a" * 5000) == Answer("Nose: a", ("repetition",))
    assert cut_loops("Nose: " + "no ptosis, " * 900 + "no pt").flags == ("repetition",)
    assert cut_loops('{"a": "b",' + "\\n" * 300) == Answer('{"a": "b",\\n', ("repetition",))
    for report in (REPORT, "No ptosis. No ptosis. No ptosis.", "no, no, no, no", "", "a" * 39, "-" * 20):
        assert cut_loops(report) == Answer(report)


def test_the_longest_loop_is_found_wherever_it_begins():
    for unit in ("ab", "There is ptosis. ", "x" * 30 + "y"):
        for times in (4, 9, 400):
            for tail in (0, len(unit) // 2):
                text = "Once upon a time: " + unit * times + unit[:tail]
                found = trailing_loop(text)
                if len(unit) * times + tail < reporters.LOOP_CHARACTERS:
                    assert found is None
                else:
                    start, period = found
                    assert period == len(unit) and 0 <= start - 18 < period and (len(text) - start) % period == 0


class Fixed(Reporter):
    """Gives its answers backwards."""

    name = "fixed"

    def answers(self, pictures, attempt=0):
        for key, picture in reversed(list(pictures)):
            yield key, Answer(str(picture.sum()))


class Rules:
    def write_reports(self, pictures):
        return [f"{len(pictures)} {picture.shape}" for picture in pictures]


def test_reports_come_in_the_order_of_the_pictures():
    seen = pictures(5)
    assert Fixed().write_reports(seen) == [str(picture.sum()) for picture in seen]
    rules = RuleReporter("landmarks", Rules(), batch_size=2)
    assert rules.write_reports(seen)[0] == "2 (40, 60, 3)" and rules.write_reports(seen)[4] == "1 (56, 80, 3)"
    assert rules.prompt is None and not rules.asks_again


# ---- servers


def keyed(n: int) -> list:
    return [(f"P{i}", picture) for i, picture in enumerate(pictures(n))]


def test_a_server_is_asked_once_for_each_picture_with_schema_and_without_metadata(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    with chat_server() as server:
        reporter = ServerReporter("org/model", server.url + "/", concurrency=3)
        got = dict(reporter.answers(iter(keyed(10))))
        assert len(server.requests) == 10 and server.most_under_way <= 3 and reporter.n_repeated == 0
        assert {key: answer.text[-17:-1] for key, answer in got.items()} == {
            key: server_sha(picture) for key, picture in keyed(10)
        }
        assert reporter.write_reports(pictures(3)) == [got[f"P{i}"].text for i in range(3)]
        reporter.close()
    request = server.requests[0]
    assert request.path == "/v1/chat/completions" and request.headers["Authorization"] == "Bearer sk-of-the-test"
    body = request.body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("org/model", 0, 1024)
    assert body["response_format"]["json_schema"]["schema"] == report_sections.json_schema()
    assert request.prompt == report_sections.PROMPT
    with Image.open(io.BytesIO(request.picture)) as image:
        assert image.format == "PNG" and not image.info and not image.getexif()
    assert "sk-of-the-test" not in str(reporter.record())


def server_sha(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()[:16]


def test_the_picture_that_is_sent_has_no_exif(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description that tells a name"
    Image.fromarray(pictures(1)[0]).save(tmp_path / "p.jpg", exif=exif)
    with Image.open(tmp_path / "p.jpg") as image:
        sent = data_url(np.asarray(image))
    content = base64.b64decode(sent.partition(",")[2])
    assert b"tells a name" not in content and b"eXIf" not in content and content[:4] == b"\x89PNG"


def test_an_unreliable_server_loses_no_report_and_gives_none_twice():
    with chat_server(unreliable) as server:
        reporter = ServerReporter("m", server.url, concurrency=4, timeout_s=1, first_delay_s=0.01)
        keys, answers = zip(*reporter.answers(keyed(30)), strict=True)
        reporter.close()
    assert sorted(keys) == sorted(f"P{i}" for i in range(30))
    flags = [answer.flags for answer in answers]
    assert ("cut_off",) in flags and ("whitespace",) in flags
    assert all(report_sections.parse_sections(a.text)[1] for a in answers if "whitespace" in a.flags)
    assert reporter.n_repeated == len(server.requests) - 30 > 5


def test_a_refused_schema_is_left_out_and_the_second_attempt_does_without(monkeypatch):
    def refuse_schema(request):
        if "response_format" in request.body:
            return 400, {"error": {"message": "response_format is not supported"}}
        return well_behaved(request)

    with chat_server(refuse_schema) as server:
        reporter = ServerReporter("m", server.url, concurrency=1)
        assert {answer.flags for _, answer in reporter.answers(keyed(3))} == {()}
        assert len(server.requests) == 4  # one refusal in all
    with chat_server() as server:
        dict(ServerReporter("m", server.url).answers(keyed(1), attempt=1))
    (request,) = server.requests
    assert request.prompt == report_sections.PROMPT + report_sections.RETRY_SUFFIX and request.body["seed"] == 1
    assert "response_format" not in request.body


def test_one_picture_that_is_refused_is_flagged_and_a_server_that_refuses_all_ends_the_run():
    too_large = pictures(3)[2].tobytes()

    def refuse_one(request):
        with Image.open(io.BytesIO(request.picture)) as image:
            return (413, {}) if image.convert("RGB").tobytes() == too_large else well_behaved(request)

    with chat_server(refuse_one) as server:
        got = dict(ServerReporter("m", server.url, concurrency=1).answers(keyed(5)))
        assert got["P2"] == Answer("", ("refused",)) and len(got) == 5
    for status, message in (
        (401, "status 401"),
        (404, "status 404 .no such model."),
        (302, "status 302"),
        (422, "422"),
    ):
        with chat_server(lambda _, status=status: (status, {"error": {"message": "no such model"}})) as server:
            with pytest.raises(OutsideError, match=message):
                list(ServerReporter("m", server.url, concurrency=1, first_delay_s=0.01).answers(keyed(9)))
            assert len(server.requests) <= 4


def test_what_a_server_repeats_of_a_picture_is_not_shown():
    def echo(request):
        return 404, {"error": {"message": str(request.body)}}

    with chat_server(echo) as server, pytest.raises(OutsideError) as failure:
        list(ServerReporter("m", server.url).answers(keyed(1)))
    assert len(str(failure.value)) < 200 and "base64" not in str(failure.value)


def test_a_server_that_is_gone_is_given_up_with_one_line(monkeypatch):
    monkeypatch.setattr(server_reporter, "MAX_TRIES", 3)
    reporter = ServerReporter("m", "http://127.0.0.1:9/v1", first_delay_s=0.01)
    with pytest.raises(OutsideError, match="failed 3 times for one picture, the last time with ConnectError"):
        list(reporter.answers(keyed(2)))


def test_a_server_that_never_answered_is_given_up_sooner_than_one_that_did(monkeypatch, capsys):
    monkeypatch.setattr(server_reporter, "MAX_TRIES", 5)
    monkeypatch.setenv("OPENAI_API_KEY", "SECRET")
    reporter = ServerReporter("m", "http://127.0.0.1:9/hidden/v1", concurrency=1, first_delay_s=0.01)
    with pytest.raises(OutsideError, match=r"failed 3 times .* with ConnectError; is it running\?$"):
        list(reporter.answers(keyed(2)))
    said = capsys.readouterr().err
    assert said == "no server answers at http://127.0.0.1:9, trying again\n"
    with chat_server(lambda request: (*well_behaved(request), {"Connection": "close"})) as server:
        reporter = ServerReporter("m", server.url, concurrency=1, first_delay_s=0.01)
        assert len(list(reporter.answers(keyed(1)))) == 1
    with pytest.raises(OutsideError, match=r"failed 5 times .*; is it running\?$"):
        list(reporter.answers(keyed(1)))
    assert capsys.readouterr().err.count("trying again") == 1


def test_retry_after_is_honoured_as_seconds_and_as_a_date():
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    assert retry_after_s("7") == 7 and retry_after_s(None) is None and retry_after_s("soon") is None
    assert 95 < retry_after_s(email.utils.format_datetime(later, usegmt=True)) <= 100
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    waited = []

    def busy_once(request):
        waited.append(time.monotonic())
        return well_behaved(request) if request.of_picture else (429, {}, {"Retry-After": "1"})

    with chat_server(busy_once) as server:
        list(ServerReporter("m", server.url, first_delay_s=0.01).answers(keyed(1)))
    assert waited[1] - waited[0] >= 1


def test_an_empty_answer_and_one_of_another_form_are_told_apart():
    said = iter([{"choices": []}, {"choices": [{"message": {"content": [1]}}]}, completion(None)])
    with chat_server(lambda _: (200, next(said))) as server:
        ((_, answer),) = ServerReporter("m", server.url, first_delay_s=0.01).answers(keyed(1))
    assert answer == Answer("") and len(server.requests) == 3


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost:1", "https://[::1]:8/v1", "http://127.9.9.9"]
)
def test_servers_of_this_machine_need_no_permission(url):
    assert check_base_url(url, may_leave=False) and check_base_url(url, may_leave=True)


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:8000/v1", "https://api.example.org/v1", "http://localhost.example.org", "http://[::2]/v1",
     "http://0.0.0.0:8000", "http://127.0.0.1.example.org/v1", "http://2130706433/v1"],
)  # fmt: skip
def test_photographs_leave_this_machine_only_with_permission(url):
    with pytest.raises(InputError, match="--photographs_leave_this_machine"):
        check_base_url(url, may_leave=False)
    with pytest.raises(InputError, match="another machine"):
        ServerReporter("m", url)
    assert not check_base_url(url, may_leave=True)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://127.0.0.1/v1", "http://", "http://user:secret@127.0.0.1/v1", "http://127.0.0.1/?key=secret",
     "http://127.0.0.1:port/v1", "http://[::1/v1"],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused_without_showing_a_password(url):
    with pytest.raises(InputError, match="--base_url") as refusal:
        check_base_url(url, may_leave=True)
    assert "secret" not in str(refusal.value)


def test_no_proxy_of_the_environment_sees_what_goes_to_this_machine(monkeypatch):
    with chat_server() as server, chat_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        list(ServerReporter("m", server.url).answers(keyed(1)))
        assert (len(server.requests), len(proxy.requests)) == (1, 0)
