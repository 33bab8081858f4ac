from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.templates import (
    Template,
    accepted_messages,
    chat_prompt,
    for_tokenizer,
    render,
    word_changes,
    word_difference,
)
from tests.conftest import ROOT

TEXTS = {
    "original_text": "The old ferry leaves at dawn. Bring coffee.",
    "rewritten_text": "The old boat leaves at dawn! Bring coffee, mates.",
    "rewrite_prompt": "Make it jolly",
}
SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = sorted(p.stem for p in (ROOT / "conf" / "template").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_templates_match_their_snapshots(name, tokenizer):
    template = instantiate(OmegaConf.load(ROOT / "conf" / "template" / f"{name}.yaml"))
    assert template.name == name
    used = ("original_text", "rewrite_prompt" if "rewrite" in name else "rewritten_text")
    rendered = chat_prompt(template, tokenizer, **{key: TEXTS[key] for key in used})
    snapshot = SNAPSHOTS / f"{name}.txt"
    if not snapshot.exists():
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(rendered, encoding="utf-8")
        pytest.fail(f"{snapshot.name} was new: look at it, then commit it")
    assert rendered == snapshot.read_text(encoding="utf-8")


def test_word_difference():
    assert word_difference("a b c d", "a x c d e") == "a [-b-] {+x+} c d {+e+}"
    kept = " ".join("abcdefghijkl")
    assert word_difference(kept, kept) == "a b c … j k l"
    assert word_difference("", "new") == "{+new+}"


def test_texts_are_data_not_template():
    template = Template("t", "<{{ original_text }}>", chat=False)
    assert render(template, original_text="{{ 7 * 7 }} <b>&") == "<{{ 7 * 7 }} <b>&>"


def test_mistakes_are_one_line():
    with pytest.raises(PromptRecoveryError, match="template 't', line 2"):
        Template("t", "a\n{{ original_text ")
    with pytest.raises(PromptRecoveryError, match="'rewriten' is undefined; it may use orig"):
        render(Template("t", "{{ rewriten }}"), original_text="a")
    for text in ("{{ 1/0 }}", "{{ original_text + 1 }}", "{{ original_text.nope() }}"):
        with pytest.raises(PromptRecoveryError, match="template 't'") as raised:
            render(Template("t", text), original_text="a")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 1/0 }}",
        "{{ 'a'*10**10 }}",
        "{{ 'a' * 9999999999 }}",
        "{{ [0] * 9999999999 }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '%09999999999d' % 1 }}",
        "{{ original_text.join(original_text) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n=namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n=namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(9999999999)|list }}",
        "{% include 'other' %}",
        "{{ ''.__class__.__mro__ }}",
        "{% for a in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    ],
)
def test_no_template_takes_long_or_makes_too_much(text):
    with pytest.raises(PromptRecoveryError, match="template 't'") as caught:
        render(Template("t", text), original_text="far " * 100)
    assert "\n" not in str(caught.value)


def test_ordinary_templates_are_filled():
    text = (
        "{% for line in original_text.split('\n') %}{{ loop.index }}/{{ loop.length }} "
        "{{ line|trim|upper|replace('A', 'b') }}{{ '' if loop.last else ', ' }}{% endfor %}"
        "{% if 'far' in original_text %} {{ 'x' * 3 ~ 1 }}{% endif %}"
        " {{ original_text.split()|join('-')|truncate(6, true, '...', 0) }}"
    )
    assert render(Template("t", text), original_text="far\naway") == "1/2 FbR, 2/2 bWbY xxx1 far..."


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a " * 1500, "a b " * 750),
        ("a " * 20_000, "a b " * 10_000),
        (" ".join(map(str, range(1250))) + " a" * 250,
         " ".join(f"{n} z" for n in range(1250)) + " a" * 250),
    ],
)  # fmt: skip
def test_a_comparison_takes_bounded_time_and_loses_no_word(before, after):
    changes = word_changes(before, after)
    assert [w for old, _ in changes for w in old] == before.split()
    assert [w for _, new in changes for w in new] == after.split()


def test_chat_needs_a_chat_template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(PromptRecoveryError, match="use template=plain"):
        chat_prompt(Template("t", "{{ original_text }}"), tokenizer, original_text="a")


def test_base_models_get_a_chat_as_plain_text(tokenizer, monkeypatch):
    template = Template("t", "<{{ original_text }}>", system="Name {{ it }}.", prefill="It is")
    assert for_tokenizer(template, tokenizer) is template
    monkeypatch.setattr(tokenizer, "chat_template", None)
    plain = for_tokenizer(template, tokenizer)
    text = chat_prompt(plain, tokenizer, original_text="{{ 7 }}")
    assert text.removeprefix(tokenizer.bos_token or "") == (
        "Name {{ it }}.\n\n<{{ 7 }}>\n\nAnswer:\nIt is"
    )
    assert for_tokenizer(plain, tokenizer) is plain


def test_system_goes_before_the_user_where_there_is_no_system_role(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}",
    )
    template = Template("t", "{{ original_text }}", system="Be brief.")
    assert chat_prompt(template, tokenizer, original_text="a") == "[user]Be brief.\n\na"


def test_messages_that_the_chat_template_refuses_are_one_line(tokenizer, monkeypatch):
    text = "{% if messages[0].role != 'user' %}{{ raise_exception('No user') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", text + "{{ messages[0].content }}")
    system, user = ({"role": r, "content": r.upper()} for r in ("system", "user"))
    joined = [{"role": "user", "content": "SYSTEM\n\nUSER"}]
    assert accepted_messages([system, user], tokenizer) == joined
    for messages in ([{**user, "role": "assistant"}, user], [system], [system, system]):
        with pytest.raises(PromptRecoveryError, match=r"roles: .* \(No user\)"):
            accepted_messages(messages, tokenizer)


def test_prefill_begins_the_answer(tokenizer):
    template = Template("t", "{{ original_text }}", chat=False, prefill=" Rewrite")
    assert chat_prompt(template, tokenizer, original_text="a") == "<s>a Rewrite"
