import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.filters import (
    CHECKS,
    Draft,
    Filters,
    clean_rewrite,
    reason_to_reject,
)

ORIGINAL = (
    "The ferry to Kinsale leaves at seven. Bring a coat, because the deck is cold before the sun "
    "is up, and buy your ticket at the blue hut by the harbour wall. Dogs travel free of charge."
)
REWRITE = (
    "Ahoy! At seven bells the Kinsale ferry slips her moorings, and a bitter deck she keeps till "
    "dawn. Wrap up warm, me hearty, and pay yer fare at the blue hut. Hounds sail for nothing."
)


def reason(text, original=ORIGINAL, prompt="Tell it like a pirate would", finished=True, **limits):
    return reason_to_reject(Draft(original, prompt, text, finished), Filters(**limits))


def test_a_rewrite_is_kept():
    assert reason(REWRITE) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n — … !!! ", "empty"),
        ("The ferry \ufffd\ufffd leaves at seven", "broken"),
        ("The ferry \udc80 leaves at seven", "broken"),
        ("I'm sorry, but I can't help with that request.", "refusal"),
        ("I cannot fulfill this request, as it goes against my values.", "refusal"),
        ("I’m unable to rewrite the text as you ask.", "refusal"),
        ("As an AI language model, I do not have opinions about ferries.", "refusal"),
        ("I am an AI assistant, so I cannot board a ferry.", "refusal"),
        ("I'm sorry, I can't assist with that.", "refusal"),
        ("I cannot comply.", "refusal"),
        ("I won't write that kind of material.", "refusal"),
        ("I'm not able to translate the text.", "refusal"),
        ("I cannot answer that question.", "refusal"),
        ("Can you please provide some more information?", "refusal"),
        ("I'd be happy to help! Could you please provide the text you want changed?", "refusal"),
        ("Please share the passage that you would like me to rewrite.", "refusal"),
        (REWRITE + "<end_of_turn>\n<start_of_turn>user", "leaked"),
        (REWRITE + "\n[INST] and now the next one", "leaked"),
        ("<|im_start|>assistant\n" + REWRITE, "leaked"),
        ("assistant: " + REWRITE, "leaked"),
        ("### Response\n" + REWRITE, "leaked"),
        ("**Original text:**\n" + REWRITE, "leaked"),
        (REWRITE + "\n\nYour task: say it again", "leaked"),
        ("**Instruction:** Rewrite the text as a pirate\n\n" + REWRITE, "leaked"),
        ("Prompt: like a pirate would\n\n" + REWRITE, "leaked"),
        ("Tell it like a pirate would! " + REWRITE, "leaked"),
        ("Tell it like a pirate would:\n\n" + REWRITE, "leaked"),
        ("**Tell it like a pirate would**\n" + REWRITE, "leaked"),
        (ORIGINAL, "copy"),
        (ORIGINAL.replace(" ", "\n"), "copy"),
        (ORIGINAL + " Bye.", "copy"),
        ("The sea is wide and the sea is deep, " * 12, "looping"),
        (REWRITE + " And so on and on and so forth." * 20, "looping"),
        ("Row, row, row your boat. Ha" + "a" * 60, "looping"),
        (
            "Die Fähre nach Kinsale legt um sieben ab. Nehmt einen Mantel mit, denn auf dem Deck "
            "ist es kalt, und kauft die Karte an der blauen Hütte. Hunde fahren mit uns frei.",
            "language",
        ),
        ("Паром в Кинсейл отходит в семь часов. Возьмите пальто, на палубе холодно.", "language"),
        ("開往金塞爾的渡輪七點出發。請帶外套，因為日出前甲板很冷。狗免費。", "language"),
        ("Ahoy", "too_short"),
        (
            " ".join(
                f"The gull number {n} saw {n + 3} ropes and {n * 7} sails." for n in range(40)
            ),
            "too_long",
        ),
    ],
)
def test_reasons(text, why):
    assert reason(text) == why


def test_an_answer_that_met_the_limit_is_cut_off():
    assert reason(REWRITE, finished=False) == "cut_off"


@pytest.mark.parametrize(
    ("original", "prompt", "text"),
    [
        # What looks like a fault may be what the text is, or what was asked for.
        (
            "I'm sorry, I can't help with the move on Friday. My knee is bad and the van is gone.",
            "More formally",
            "I'm sorry, I can't help with the move on Friday: my knee is ailing, the van away.",
        ),
        (
            "Please send me the text of the speech by noon, and the names of the guests.",
            "Make it friendlier",
            "Hi! Please send me the text of the speech by noon, plus all the lovely guests' names!",
        ),
        (ORIGINAL, "Translate this into German", "Die Fähre nach Kinsale geht um sieben ab, und "
         "auf dem Deck ist es kalt. Das Ticket kauft man an der blauen Hütte, Hunde sind frei."),
        (ORIGINAL, "Say it in Russian", "Паром в Кинсейл отходит в семь. На палубе холодно."),
        (ORIGINAL, "ALL CAPS PLEASE", ORIGINAL.upper()),
        (ORIGINAL, "No punctuation", ORIGINAL.replace(".", "").replace(",", "")),
        (ORIGINAL, "A gull after each sentence", ORIGINAL.replace(".", ". 🐦")),
        (ORIGINAL, "Give it a title", "Seven O'Clock Ferry"),
        (ORIGINAL, "As a checklist", "- [ ] coat\n- [ ] ticket (blue hut)\n- [ ] dog: free\n------"
         "--------------------------------------\n- [ ] 7:00 ferry"),
        (ORIGINAL, "As a song", "Oh the ferry leaves at seven,\nAye, at seven, aye, at seven,\n"
         "Bring your coat for the deck is cold.\nOh the ferry leaves at seven,\nAye, at seven, "
         "aye, at seven,\nAnd the dogs go free, young and old."),
        (ORIGINAL, "Only the essentials, in French style", "Ferry: seven. Coat. Blue hut. Voilà."),
        (ORIGINAL, "With feeling", "I can't help but smile when I think of that ferry. At seven "
         "she left; the deck was cold, the hut was blue, and our dog came along for nothing."),
        (ORIGINAL, "As the ferryman", "I will not answer them. They can ask all day why the ferry "
         "leaves at seven; I sit in the blue hut, sell tickets, and let the dogs aboard."),
        (ORIGINAL, "In a tired voice", "I cannot continue, I said on that cold deck at seven. The "
         "dog had come free of charge and slept; I had bought my ticket at the blue hut."),
        (ORIGINAL, "Narrate it as the harbour robot", "As an AI of the harbour class, I do not "
         "feel the cold of the deck. At seven, tickets are sold at the blue hut. Dogs: free."),
        (ORIGINAL, "As a virtual assistant", "As a virtual assistant, I saw the ferry leave at "
         "seven. The deck was cold, tickets were sold at the blue hut, and the dog came free."),
        (ORIGINAL, "Once upon a time", "Once upon a time, at seven, a ferry left. The deck was "
         "cold. Tickets were sold at the blue hut. And the dogs went free, ever after."),
        (ORIGINAL, "As a recipe", "**Ferry, Served Cold**\n\n**Ingredients:**\n\n* 1 coat\n* 1 "
         "ticket\n\n**Instructions:**\n\n1. Board at seven.\n2. Add the dog, free of charge."),
        (ORIGINAL, "As a job posting", "Deckhand wanted at Kinsale.\n\nYour task:\nBe aboard at "
         "seven and mind the dogs.\n\nPlease send your CV with the details of your coat."),
        (ORIGINAL, "As a quiz question", "Prompt: At what hour does the ferry leave for Kinsale?\n"
         "\nAnswer: at seven, from the harbour wall, dogs free of charge."),
        (ORIGINAL, "Only emoji", "⛴️🕖🧥🥶🎫🔵🛖🐕🆓"),
        (ORIGINAL, "In Morse code", "- .... . / ..-. . .-. .-. -.-- / .- - / --..."),
        (ORIGINAL, "Sum it up in one word", "Ferry!!"),
        (ORIGINAL, "As a sea shanty", "Oh the ferry, the ferry, the ferry\nOh the ferry, the "
         "ferry, the ferry\nOh the ferry, the ferry, the ferry\nShe leaves at seven for me"),
        (ORIGINAL.replace("Kinsale", "Cobh"), "Put Kinsale for Cobh and shout at the end",
         ORIGINAL.replace("free of charge", "FREE, YES, FREE, for once in this life")),
    ],
)  # fmt: skip
def test_faults_that_are_none(original, prompt, text):
    assert reason(text, original, prompt) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Le ferry pour Kinsale part à sept heures. Prenez un manteau, car il fait froid sur le "
        "pont avant le lever du soleil, et achetez votre billet à la cabane bleue.",
        "El ferry a Kinsale sale a las siete. Lleva un abrigo, porque hace frío en cubierta antes "
        "de que salga el sol, y compra tu billete en la caseta azul del puerto.",
        "Il traghetto per Kinsale parte alle sette. Porta un cappotto, perché sul ponte fa freddo "
        "prima che sorga il sole, e compra il biglietto alla capanna blu.",
        "O ferry para Kinsale parte às sete. Traga um casaco, porque o convés está frio antes do "
        "nascer do sol, e compre o seu bilhete na cabana azul junto ao porto.",
        "De veerboot naar Kinsale vertrekt om zeven uur. Neem een jas mee, want het dek is koud "
        "voordat de zon op is, en koop je kaartje bij de blauwe hut aan de haven.",
        # The detector knows no Swedish and no Polish, but that they are no English.
        "Färjan till Kinsale går klockan sju. Ta med en kappa, för däcket är kallt innan solen har "
        "gått upp, och köp din biljett vid den blå stugan intill hamnmuren.",
        "Prom do Kinsale odpływa o siódmej. Weź płaszcz, bo na pokładzie jest zimno, zanim "
        "wzejdzie słońce, i kup bilet w niebieskiej budce przy murze portowym.",
    ],
)
def test_languages_in_latin_script_are_told_from_english(text):
    assert reason(text) == "language"
    assert reason(ORIGINAL, text) == "language"


def test_foreign_names_make_no_foreign_text():
    original = (
        "La Valle di Sotto and Santa Maria degli Angeli are villages near Castelnuovo di Val di "
        "Cecina, which the painter Giovanni di Niccolò left as a child for Siena."
    )
    rewrite = (
        "O La Valle di Sotto, o Santa Maria degli Angeli, hard by Castelnuovo di Val di Cecina ye "
        "lie, and young Giovanni di Niccolò sailed away from ye to Siena, paint in his pocket."
    )
    assert reason(rewrite, original) == ""
    assert reason(REWRITE, original) == ""


def test_thresholds_are_the_users():
    assert reason("Ferry!!", prompt="Sum it up in one word", min_ratio=0.1) == "too_short"
    assert reason("Ahoy", min_words=1, min_ratio=0.0) == ""
    assert reason(REWRITE, min_words=50) == "too_short"
    assert reason(REWRITE, max_ratio=0.5) == "too_long"
    assert reason(ORIGINAL + " Bye.", copy=1.0) == ""
    assert reason("The sea is wide and the sea is deep, " * 12, looping=1.0) == ""


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        ({"copy": 0.0}, "filters.copy"),
        ({"looping": 1.5}, "filters.looping"),
        ({"min_ratio": 7.0}, "min_ratio < max_ratio"),
        ({"duplicate_scs": 2.0}, "filters.duplicate_scs"),
    ],
)
def test_senseless_thresholds_are_one_line(limits, part):
    with pytest.raises(PromptRecoveryError, match=part):
        Filters(**limits)


@pytest.mark.parametrize(
    "answer",
    [
        REWRITE,
        f"Sure, here is the rewritten text:\n\n{REWRITE}",
        f"Sure! Here's the text, told the way a pirate would tell it:\n\n{REWRITE}",
        f"Certainly! I'd be happy to help you with that.\n{REWRITE}",
        f"Absolutely!\n\n{REWRITE}",
        f"Here's a revised version of the passage:\n\n{REWRITE}",
        f"**Here is the rewritten passage:**\n\n{REWRITE}",
        f"Rewritten text:\n{REWRITE}",
        f"Here is the rewritten text: {REWRITE}",
        f'"{REWRITE}"',
        f'"""\n{REWRITE}\n"""',
        f"Sure, here's the rewritten text:\n\n“{REWRITE}”",
        f"{REWRITE}\n\nI hope this helps! Let me know if you need anything else.",
        f"Here is the text:\n\n{REWRITE}\n\nLet me know if you'd like me to change the tone.",
    ],
)
def test_chatter_is_taken_off(answer):
    assert clean_rewrite(f"  {answer} \n") == REWRITE


@pytest.mark.parametrize(
    "text",
    [
        "Of course the ferry leaves at seven.\nIt always did.",
        "Okay, listen up.\nThe ferry leaves at seven.",
        "Here is what you need:\n\n- a coat\n- a ticket",
        'He said "seven", she said "eight"',
        '"Seven," he said, "and not a minute later. Bring a coat."',
        "Dear Ann,\n\nthe ferry leaves at seven.\n\nLet me know if the dog comes too.\n\nYours, Bo",
        "Sure as the tide, the ferry leaves at seven.\nBring a coat.",
        "Dear colleagues,\n\nthe ferry leaves at seven.\n\nPlease feel free to reach out to me "
        "with any questions.",
    ],
)
def test_what_belongs_to_the_rewrite_stays(text):
    assert clean_rewrite(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\n" * 30_000, "empty"),
        ("a" + "\n \n" * 20_000 + "b", ""),
        ("Sure, here is the rewritten text" + ": " * 80 + " " * 30_000 + "x", ""),
        ("*" * 30_000 + "x", "too_short"),
        ("here is " * 20 + ":" * 150 + " " * 30_000 + "x", "looping"),
        ("I can't " * 5_000, "looping"),
        ("Instructions: " * 3_000, "looping"),
    ],
)
def test_no_answer_takes_minutes(text, why):
    assert reason(clean_rewrite(text), prompt="p", max_ratio=1e9) == why


def test_people_write_no_rejects():
    """Of the starter's rewrites, written by hand, the filters take next to none."""
    rejected = {}
    for e in starter().examples:
        why = reason_to_reject(
            Draft(e.original_text, e.rewrite_prompt, clean_rewrite(e.rewritten_text)), Filters()
        )
        if why:
            rejected.setdefault(why, []).append((e.rewrite_prompt, e.rewritten_text))
    assert sum(map(len, rejected.values())) <= 2, rejected


def test_every_reason_says_what_it_means():
    assert all(check.__doc__ and check.__doc__.count("\n") == 0 for check in CHECKS.values())
