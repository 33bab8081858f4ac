import pytest

from prompt_recovery.data import tokens as tokens_module
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.tokens import given_prompt_tokens, prompt_tokens, tokenise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.templates import Template

TEMPLATE = Template(
    "t", "Original:\n{{ original_text }}\nRewritten:\n{{ rewritten_text }}\nInstruction?"
)
LONG = "".join(f"sentence number {n} of the text. " for n in range(4000))  # over 100k characters


@pytest.mark.parametrize(
    ("before", "after"),
    [(LONG, "short"), ("short", LONG), (LONG, LONG), ("字" * 5000, "🐈" * 5000)],
)
def test_cuts_inside_the_texts_only(tokenizer, before, after):
    ids, cut = prompt_tokens(before, after, TEMPLATE, tokenizer, 150)
    assert len(ids) <= 150
    assert len(ids) > 75, "most of the room is used"
    text = tokenizer.decode(ids)
    assert "Original:" in text
    assert "Rewritten:" in text
    assert text.endswith("Instruction?</s><|assistant|>")
    assert "[…]" in text
    assert cut > 0
    for original in (before, after):
        if original == "short":
            assert original in text
        else:
            assert original.strip()[:3] in text
            assert original.strip()[-3:] in text


def test_what_fits_is_not_touched(tokenizer):
    ids, cut = prompt_tokens("one", "two", TEMPLATE, tokenizer, 150)
    assert cut == 0
    assert "one\nRewritten:\ntwo\n" in tokenizer.decode(ids)


def test_no_room_is_an_error(tokenizer):
    with pytest.raises(PromptRecoveryError, match="max_prompt_tokens=20 has no room"):
        prompt_tokens(LONG, LONG, TEMPLATE, tokenizer, 20)


def test_completion_is_whole_and_ends(tokenizer, examples):
    rows = tokenise(examples, TEMPLATE, tokenizer, 120)
    for row, example in zip(rows, examples, strict=True):
        assert row.id == example.id
        [completion] = row.completions
        assert completion[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(completion[:-1]) == example.rewrite_prompt


def test_several_completions_share_their_prompt(tokenizer, examples):
    texts = [[e.rewrite_prompt, "another", "and a third 🎈"] for e in examples]
    single = tokenise(examples, TEMPLATE, tokenizer, 120)
    rows = tokenise(examples, TEMPLATE, tokenizer, 120, texts)
    assert [r.prompt for r in rows] == [r.prompt for r in single]
    for row, expected in zip(rows, texts, strict=True):
        assert [tokenizer.decode(c[:-1]) for c in row.completions] == expected


@pytest.mark.parametrize(
    "prompt", ["before " * 200 + "after", [{"role": "user", "content": "before " * 200 + "after"}]]
)
def test_a_given_prompt_keeps_its_ends(tokenizer, prompt):
    whole, cut = given_prompt_tokens(prompt, tokenizer, 10_000)
    assert cut == 0
    ids, cut = given_prompt_tokens(prompt, tokenizer, 50)
    assert len(ids) == 50
    assert cut > 0
    assert ids[:20] == whole[:20]
    assert ids[-20:] == whole[-20:]


def test_a_given_system_message_goes_before_the_user(tokenizer, monkeypatch):
    refused = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", refused + "{{ messages[0].content }}")
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a b"}]
    ids, _ = given_prompt_tokens(prompt, tokenizer, 100)
    assert tokenizer.decode(ids) == "Be brief.\n\na b"


def test_cache_is_used_and_a_damaged_one_is_made_again(tokenizer, examples, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    first = tokenise(examples, TEMPLATE, tokenizer, 120)
    with monkeypatch.context() as patch:
        patch.setattr(tokens_module, "prompt_tokens", None)  # calling it would fail
        assert tokenise(examples, TEMPLATE, tokenizer, 120) == first
    [path] = (tmp_path / "tokens").iterdir()
    path.write_bytes(b"damaged")
    assert tokenise(examples, TEMPLATE, tokenizer, 120) == first
    tokenise(examples, TEMPLATE, tokenizer, 121)
    other = RewriteExample(**{f: getattr(examples[0], f) for f in RewriteExample.__slots__})
    tokenise([other], TEMPLATE, tokenizer, 120)
    assert len(list((tmp_path / "tokens").iterdir())) == 3


def test_characters_of_many_tokens_are_cut_until_they_fit(tokenizer):
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    for text in ("🐈" * 5000, "字" * 300, "👩🏽‍🚀"):
        ids, _ = prompt_tokens(text, "x" + text, template, tokenizer, 70)
        assert 0 < len(ids) <= 70
