from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix, load_npz, save_npz
from sklearn.feature_extraction.text import (
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import arrays
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.interface import Pair

TRAINING = [
    "Arr, the ferry sails at dawn, ye landlubbers!",
    "At dawn the ferry leaves, and dogs travel free.",
    "The tenant keeps two beehives on the roof terrace.",
]
NEW = ["The ferry sails at noon, arr!", "Quarterly revenue rose sharply.", "🐈", TRAINING[2]]


def pairs(texts):
    return [Pair(str(n), "an original", text) for n, text in enumerate(texts)]


@pytest.fixture
def known():
    return Familiarity.of([RewriteExample(str(n), "o", t, "p") for n, t in enumerate(TRAINING)])


def test_it_is_the_highest_cosine_of_tf_idf_vectors(known):
    reference = TfidfVectorizer(sublinear_tf=True)
    vectors = reference.fit_transform(TRAINING)
    expected = (reference.transform([NEW[0]]) @ vectors.T).toarray().max()
    found = known(pairs(NEW))
    assert found.shape == (4,)
    assert found[1] == found[2] == 0.0
    assert found[3] == pytest.approx(1.0)
    # Words that are in no training text count in the length of a hashed vector.
    assert 0.3 < found[0] <= expected + 1e-9
    assert known([]).shape == (0,)


def test_training_texts_among_themselves_do_not_know_themselves(known):
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(TRAINING)
    similar = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similar, 0)
    np.testing.assert_allclose(known.among_themselves(), similar.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(known.among_themselves(2), similar.max(axis=1)[[0, 2]], rtol=1e-6)
    one = Familiarity.of([RewriteExample("1", "o", TRAINING[0], "p")])
    assert one.among_themselves().tolist() == [0.0]


def test_it_is_kept_without_a_word_of_the_texts(known, tmp_path):
    file = tmp_path / "familiarity.npz"
    assert Familiarity.read(file) is None
    known.write(file)
    np.testing.assert_array_equal(Familiarity.read(file)(pairs(NEW)), known(pairs(NEW)))
    assert b"beehives" not in file.read_bytes()


def test_words_and_files_are_those_of_scikit_learn_and_scipy(known, tmp_path):
    """So that retrievers of older versions know the same texts."""
    odd = ["Ünïcödé 你好好 ąćź_9 ǅungla", "a I x", "", "don't re-enter 42 4242", "word " * 9]
    examples = [RewriteExample(str(n), "o", t, "p") for n, t in enumerate([*TRAINING, *odd])]
    options = {"n_features": 2**18, "alternate_sign": False, "norm": None}
    counted = HashingVectorizer(**options).transform([*TRAINING, *odd])
    transform = TfidfTransformer(sublinear_tf=True).fit(counted)
    asked = HashingVectorizer(**options).transform([*NEW, *odd])
    expected = (transform.transform(asked) @ transform.transform(counted).T).toarray().max(axis=1)
    found = Familiarity.of(examples)
    np.testing.assert_allclose(found(pairs([*NEW, *odd])), expected, atol=1e-12)
    found.write(tmp_path / "ours.npz")
    assert abs(load_npz(tmp_path / "ours.npz") - counted).max() == 0
    save_npz(tmp_path / "theirs.npz", counted)
    theirs = Familiarity.read(tmp_path / "theirs.npz")
    np.testing.assert_allclose(theirs(pairs(NEW)), found(pairs(NEW)), atol=1e-12)


def test_a_file_that_unpacks_to_too_much_is_one_line(known, tmp_path, monkeypatch):
    file = tmp_path / "familiarity.npz"
    known.write(file)
    monkeypatch.setattr(arrays, "_MOST_BYTES", 100)
    with pytest.raises(PromptRecoveryError, match="is damaged"):
        Familiarity.read(file)


def test_a_damaged_file_is_one_line(known, tmp_path):
    file = tmp_path / "familiarity.npz"
    known.write(file)
    whole = file.read_bytes()
    for odd in (b"", b"PK\x03\x04 no zip", whole[: len(whole) // 2]):
        file.write_bytes(odd)
        with pytest.raises(PromptRecoveryError, match="is damaged") as error:
            Familiarity.read(file)
        assert "\n" not in str(error.value)
    negative = replace(known, counts=-known.counts)
    for odd in (replace(known, counts=known.counts[1:]), replace(known, words=known.words[1:]),
                replace(known, words=known.words + 2**18), negative):  # fmt: skip
        odd.write(file)
        with pytest.raises(PromptRecoveryError, match="is damaged"):
            Familiarity.read(file)
    save_npz(file, csr_matrix(np.eye(3)))
    with pytest.raises(PromptRecoveryError, match="is damaged"):
        Familiarity.read(file)
