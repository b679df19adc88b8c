from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data.encode import Document, Encoder
from finetune_trainer.data.examples import BadRecord, Chat, Completion, Example, Text
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format
from small_data import TEXT, make_tokenizer, trained_texts

PLAIN = [Format.TEXT, Format.PROMPT_COMPLETION]
CHAT = Chat([{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}], trained=(1,))


def encoded(tokenizer: PreTrainedTokenizerFast, example: Example, *, train_prompts: bool = False) -> Document:
    document = Encoder(tokenizer, PLAIN, train_prompts=train_prompts).encode([example])[0]
    assert isinstance(document, Document), document
    return document


def trained(tokenizer: PreTrainedTokenizerFast, example: Example) -> list[str]:
    document = encoded(tokenizer, example)
    return trained_texts(tokenizer, document.input_ids, document.labels)


def decoded(tokenizer: PreTrainedTokenizerFast, document: Document) -> str:
    text: str = tokenizer.backend_tokenizer.decode(document.input_ids.tolist(), skip_special_tokens=False)
    return text


def sentence_pieces(*, byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """Like tokenizers that came from SentencePiece: a mark for spaces, one in front, bytes for unknown characters."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)] if byte_fallback else []
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content|trim + eos_token }}{% endif %}{% endfor %}"
    )
    return made


def test_a_text_is_trained_as_a_whole_with_its_end() -> None:
    tokenizer = make_tokenizer()
    document = encoded(tokenizer, Text("the answer"))
    assert decoded(tokenizer, document) == "the answer<|im_end|>"
    assert document.labels.tolist() == [-100, *document.input_ids[1:].tolist()]


def test_a_text_begins_with_the_token_that_the_tokenizer_writes_and_never_with_two() -> None:
    tokenizer = make_tokenizer(writes_bos=True)
    assert decoded(tokenizer, encoded(tokenizer, Text("the answer"))) == "<bos>the answer<|im_end|>"
    assert decoded(tokenizer, encoded(tokenizer, Text("<bos>the answer"))) == "<bos>the answer<|im_end|>"
    assert trained(tokenizer, Text("the answer")) == ["the answer<|im_end|>"]


def test_a_text_that_has_its_end_gets_no_second_one() -> None:
    tokenizer = make_tokenizer()
    assert decoded(tokenizer, encoded(tokenizer, Text("the answer<|im_end|>"))) == "the answer<|im_end|>"


def test_only_the_completion_is_trained() -> None:
    tokenizer = make_tokenizer(writes_bos=True)
    example = Completion("the question:", " an answer")
    assert decoded(tokenizer, encoded(tokenizer, example)) == "<bos>the question: an answer<|im_end|>"
    assert trained(tokenizer, example) == [" an answer<|im_end|>"]


def test_everything_is_trained_if_asked_for() -> None:
    tokenizer = make_tokenizer()
    document = encoded(tokenizer, Completion("the question:", " an answer"), train_prompts=True)
    assert document.labels[1:].tolist() == document.input_ids[1:].tolist()


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_no_token_spans_the_border_of_prompt_and_answer(trim_offsets: bool) -> None:
    tokenizer = make_tokenizer(trim_offsets=trim_offsets)
    backend = tokenizer.backend_tokenizer
    joint = backend.encode("the question: answer", add_special_tokens=False)
    assert "\u0120answer" in joint.tokens  # the space and the word are one token when nothing separates them
    document = encoded(tokenizer, Completion("the question: ", "answer"))
    prompt = backend.encode("the question: ", add_special_tokens=False).ids
    assert document.input_ids[: len(prompt)].tolist() == prompt
    assert trained(tokenizer, Completion("the question: ", "answer")) == ["answer<|im_end|>"]


def test_an_answer_may_end_with_a_character_of_many_tokens() -> None:
    assert trained(make_tokenizer(), Completion("é", "🙂 ü")) == ["🙂 ü<|im_end|>"]


@given(prompt=st.text(min_size=1, max_size=30), completion=st.text(min_size=1, max_size=30))
def test_the_trained_tokens_are_the_completion(prompt: str, completion: str) -> None:
    tokenizer = make_tokenizer()
    assert trained(tokenizer, Completion(prompt, completion)) == [completion + "<|im_end|>"]
    assert decoded(tokenizer, encoded(tokenizer, Completion(prompt, completion))) == prompt + completion + "<|im_end|>"


def test_the_first_token_is_never_trained_for_nothing_predicts_it() -> None:
    assert encoded(make_tokenizer(), Completion("", "the answer")).labels[0] == -100


def test_tokenizers_with_a_mark_for_spaces_are_masked_alike() -> None:
    tokenizer = sentence_pieces()
    assert trained(tokenizer, Completion("the question:", " an answer 🙂")) == ["an answer 🙂</s>"]
    document = Encoder(tokenizer, [Format.MESSAGES]).encode([CHAT])[0]
    assert isinstance(document, Document)
    assert [text.strip() for text in trained_texts(tokenizer, document.input_ids, document.labels)] == ["That.</s>"]


def test_an_answer_that_the_tokenizer_cannot_write_is_refused() -> None:
    tokenizer = sentence_pieces(byte_fallback=False)
    found = Encoder(tokenizer, PLAIN).encode([Completion("a", " the answer"), Completion("a", " the 🙂")])
    assert isinstance(found[0], Document)
    assert isinstance(found[1], BadRecord)
    assert "do not decode to the answer" in str(found[1])


def test_half_a_surrogate_pair_is_refused_without_harm_to_its_neighbours() -> None:
    found = Encoder(make_tokenizer(), PLAIN).encode([Text("a"), Text("b\ud83d"), BadRecord("before"), Text("c")])
    assert [type(item) for item in found] == [Document, BadRecord, BadRecord, Document]
    assert "surrogate" in str(found[1])
    assert str(found[2]) == "before"


def test_a_tokenizer_without_an_end_of_text_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="eos_token"):
        Encoder(make_tokenizer(eos=None), [Format.TEXT])


def test_settings_of_the_callers_tokenizer_do_not_matter() -> None:
    tokenizer = make_tokenizer()
    before = encoded(tokenizer, Text(TEXT)).input_ids.tolist()
    tokenizer(TEXT, truncation=True, max_length=3, padding="max_length")
    assert encoded(tokenizer, Text(TEXT)).input_ids.tolist() == before


def test_a_conversation_that_was_not_announced_is_a_bad_record() -> None:
    found = Encoder(make_tokenizer(), PLAIN).encode([CHAT, Text("the answer")])
    assert isinstance(found[0], BadRecord)
    assert "messages, but the first records hold texts" in str(found[0])
    assert isinstance(found[1], Document)


def test_nesting_that_no_template_can_show_makes_a_bad_record() -> None:
    nested: dict[str, Any] = {}
    for _ in range(2000):
        nested = {"a": nested}
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": nested}}]}
    found = Encoder(make_tokenizer(), [Format.MESSAGES]).encode([Chat([CHAT.messages[0], calling], trained=(1,))])[0]
    assert isinstance(found, BadRecord)
    assert str(found) == "nested too deeply"
