"""Enrichment: only the sentence goes out, only checked answers come in, nothing is asked twice."""

import json

import pytest

from ecmf_demo import recipes
from ecmf_demo.answers import read_answers
from ecmf_utils import enrichment
from ecmf_utils.enrichment import language_models
from ecmf_utils.enrichment.answers import Answer, parse_answer
from ecmf_utils.files import EcmfError, data_dir

LABELS = ["neutral", "happy"]
GOOD = json.dumps({"distribution": {"neutral": 0.25, "happy": 0.75}, "cues": ["lovely"], "reading": "Pleased."})


@pytest.fixture
def asked(monkeypatch):
    """Stands in for a model: answers from a list and records what it was asked."""
    calls, replies = [], []

    def client(chat):
        calls.append(chat)
        return replies.pop(0) if replies else GOOD

    monkeypatch.setattr(language_models, "make_client", lambda *_: client)
    client.calls, client.replies = calls, replies
    return client


def test_an_answer_is_read_from_within_chatter():
    assert parse_answer(f"Sure!\n```json\n{GOOD}\n```", LABELS).distribution["happy"] == 0.75


@pytest.mark.parametrize(
    "raw, fault",
    [
        ("I cannot", "no JSON object"),
        ('{"distribution": {"neutral": 1}, "cues": [], "reading": "x"}', "exactly the keys"),
        (
            '{"distribution": {"neutral": 0.9, "happy": 0.9}, "cues": [], "reading": "x"}',
            "sum to 1",
        ),
        (
            '{"distribution": {"neutral": -1, "happy": 2}, "cues": [], "reading": "x"}',
            "non-negative",
        ),
        ('{"distribution": {"neutral": 0.5, "happy": 0.5}, "cues": []}', "reading"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_fault(raw, fault):
    with pytest.raises(ValueError, match=fault):
        parse_answer(raw, LABELS)


def test_a_transcript_is_asked_once_however_often_it_occurs(home, asked):
    enrichment.enrich("p", ["Lovely.", "Lovely.", "Hm."], LABELS)
    enrichment.enrich("p", ["Lovely.", "Hm."], LABELS)
    assert len(asked.calls) == 2


def test_nothing_but_the_sentence_and_the_label_names_go_out(home, asked):
    enrichment.enrich("p", ["Lovely."], LABELS)
    assert asked.calls[0] == enrichment.build_messages("Lovely.", LABELS) and "Lovely." in asked.calls[0][0]["content"]


def test_a_wrong_answer_is_repaired_once(home, asked):
    asked.replies.append("no idea")
    answers = enrichment.enrich("p", ["Lovely."], LABELS)
    assert list(answers["status"]) == ["ok"] and len(asked.calls) == 2


def test_two_wrong_answers_are_a_refusal_and_the_others_go_on(home, asked):
    asked.replies.extend(["no", "no"])
    answers = enrichment.enrich("p", ["A.", "B."], LABELS).set_index("text")
    assert answers.loc["A.", "status"] == "refused" and answers.loc["B.", "status"] == "ok"


def test_a_half_written_cache_line_of_a_killed_run_is_asked_again(home, asked):
    enrichment.enrich("p", ["A.", "B."], LABELS)
    cache = data_dir("p") / "enriched" / "cache.jsonl"
    cache.write_text(cache.read_text()[:-20])
    enrichment.enrich("p", ["A.", "B."], LABELS)
    enrichment.enrich("p", ["A.", "B."], LABELS)
    assert len(asked.calls) == 3


def test_transcripts_stay_here_unless_allowed():
    with pytest.raises(EcmfError, match="allow_remote"):
        language_models.make_client("openai:m", "https://llm.example.org/v1")


def test_an_unknown_kind_of_model_is_named():
    with pytest.raises(EcmfError, match="replay, openai:<name> or hf:"):
        language_models.make_client("gpt")


def test_the_recorded_answers_cover_every_sentence_and_are_valid():
    answers = read_answers()
    sentences = {sentence for pairs in recipes.sentences().values() for _, sentence in pairs}
    assert set(answers) == sentences
    labels = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
    assert all(parse_answer(json.dumps({k: row[k] for k in Answer.model_fields}), labels) for row in answers.values())


def test_the_recorded_answers_carry_no_generator_field():
    assert all(set(row) == {"sentence", *Answer.model_fields} for row in read_answers().values())


def test_a_sentence_that_is_not_recorded_is_a_refusal_not_an_error(home):
    six = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
    answers = enrichment.enrich("p", ["Nobody ever recorded this sentence."], six)
    assert list(answers["status"]) == ["refused"] and list(answers["problem"]) == ["not_recorded"]


def test_the_enriched_text_names_the_likely_feelings_only():
    answer = {
        "status": "ok",
        "p_neutral": 0.1,
        "p_happy": 0.9,
        "cues": "lovely",
        "reading": "Pleased.",
    }
    assert enrichment.render_answer(answer, LABELS) == "Pleased. Likely feeling: happy 90%. Cues: lovely."
    assert enrichment.render_answer(answer | {"status": "refused"}, LABELS) is None
