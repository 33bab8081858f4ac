from prompt_recovery.rewriters import in_order
from prompt_recovery.rewriters.fake import FakeRewriter


def test_the_same_chat_and_seed_get_the_same_answer():
    chats = [[{"role": "user", "content": f"text {n}"}] for n in range(3)]
    asked = FakeRewriter()
    answers = in_order(asked, chats, [0, 0, 0])
    assert in_order(asked, chats[::-1], [0, 0, 0]) == answers[::-1]
    texts = {a.text for a in [*answers, *in_order(asked, chats, [1, 1, 1])]}
    assert len(texts) == 6
    assert all(60 <= len(t.split()) < 75 for t in texts)
    assert asked.identity == FakeRewriter().identity != FakeRewriter(words=9).identity
    assert asked.name == "fake" and asked.card()["licence"]
