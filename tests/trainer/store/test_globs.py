"""Which keys a glob names, and how little of a store is listed to find them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectStore, StorageRefused, find_objects, match_objects, split_uri
from finetune_trainer.store.globs import compile_glob, expand_braces, has_magic, literal_prefix


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("*.jsonl", "a.jsonl", True),
        ("*.jsonl", ".jsonl", True),
        ("*.jsonl", "d/a.jsonl", False),
        ("*", "a/b", False),
        ("**/*.jsonl", "a.jsonl", True),
        ("**/*.jsonl", "d/e/a.jsonl", True),
        ("d/**/a", "d/a", True),
        ("d/**/a", "d/x/y/a", True),
        ("d/**/a", "dx/a", False),
        ("d/**", "d/x/y", True),
        ("d/**", "e/x", False),
        ("a**b", "axxb", True),
        ("a**b", "ax/xb", False),
        ("part-?.json", "part-1.json", True),
        ("part-?.json", "part-12.json", False),
        ("part-?.json", "part-/.json", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("[!a]", "/", False),
        ("[.-0]", "/", False),
        ("[]x]", "]", True),
        ("[[]1]", "[1]", True),
        ("a.c", "abc", False),
        ("a+(b)|c$", "a+(b)|c$", True),
        ("é*", "éa", True),
        ("a*", "a\nb", True),
    ],
)
def test_a_pattern_matches_as_a_shell_would(pattern: str, key: str, matches: bool) -> None:
    assert (compile_glob(pattern).fullmatch(key) is not None) == matches


def test_braces_expand_in_order_and_nest() -> None:
    assert expand_braces("a{b,c{d,e}}f{1,2}") == ["abf1", "abf2", "acdf1", "acdf2", "acef1", "acef2"]
    assert expand_braces("{a/x,b}/*.gz") == ["a/x/*.gz", "b/*.gz"]
    assert expand_braces("x.jsonl{,.gz}") == ["x.jsonl", "x.jsonl.gz"]


@pytest.mark.parametrize("literal", ["a{b}c", "a{b", "a}b", "{}", "a{b,c"])
def test_braces_without_a_choice_stand_for_themselves(literal: str) -> None:
    assert expand_braces(literal) == [literal]
    assert compile_glob(literal).fullmatch(literal)


@pytest.mark.parametrize("pattern", ["a[", "a[b", "[!]", "[z-a]"])
def test_a_broken_bracket_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="has"):
        compile_glob(pattern)


KEYS = st.text(alphabet=string.ascii_lowercase + ".-_é/", min_size=1, max_size=20)


@given(key=KEYS)
def test_a_key_without_magic_matches_itself_alone(key: str) -> None:
    assert not has_magic(key)
    assert compile_glob(key).fullmatch(key)
    assert not compile_glob(key).fullmatch(key + "x")


@given(key=KEYS, start=st.integers(0, 20), stop=st.integers(0, 20))
def test_a_star_in_place_of_a_part_of_a_segment_still_matches(key: str, start: int, stop: int) -> None:
    start, stop = sorted((min(start, len(key)), min(stop, len(key))))
    pattern = key[:start] + "*" + key[stop:]
    assert (compile_glob(pattern).fullmatch(key) is not None) == ("/" not in key[start:stop])
    assert key.startswith(literal_prefix(pattern))


@pytest.mark.parametrize(
    ("uri", "root", "pattern"),
    [
        ("s3://b/p/*.jsonl.zst", "s3://b/p", "*.jsonl.zst"),
        ("s3://b/p/q/x.jsonl", "s3://b/p/q", "x.jsonl"),
        ("s3://b/*.jsonl", "s3://b", "*.jsonl"),
        ("s3://b/{a/x,b}/*.gz", "s3://b", "{a/x,b}/*.gz"),
        ("file:///d/**/*.parquet", "file:///d", "**/*.parquet"),
        ("file:///x.jsonl", "file:///", "x.jsonl"),
        ("file:///*.jsonl", "file:///", "*.jsonl"),
    ],
)
def test_an_address_is_split_at_its_first_glob(uri: str, root: str, pattern: str) -> None:
    assert split_uri(uri) == (root, pattern)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("s3://b/p/", r"names no file: write its address, or a glob such as s3://b/p/\*\.jsonl"),
        ("s3://b", r"such as s3://b/\*\.jsonl"),
        ("data/*.jsonl", "names no file"),
        ("s3://b*/x", "a glob in the bucket's name"),
    ],
)
def test_an_address_that_names_no_file_says_what_to_write(uri: str, text: str) -> None:
    with pytest.raises(StorageRefused, match=text):
        split_uri(uri)


def keys_of(uri: str) -> list[str]:
    return [info.key for info in find_objects(uri)[1]]


def test_sources_are_found_in_byte_order_each_once(store: ObjectStore) -> None:
    for key in [
        "t/b.jsonl",
        "t/a.jsonl.gz",
        "t/é.jsonl",
        "t/deep/er/a.jsonl",
        "t/deep.jsonl",
        "u/a.jsonl",
        "t/[1].jsonl",
    ]:
        store.create(key, b"x")
    assert keys_of(f"{store.uri}/t/*.jsonl") == ["[1].jsonl", "b.jsonl", "deep.jsonl", "é.jsonl"]
    assert keys_of(f"{store.uri}/t/**/*.jsonl") == ["[1].jsonl", "b.jsonl", "deep.jsonl", "deep/er/a.jsonl", "é.jsonl"]
    assert keys_of(f"{store.uri}/{{u,t,t}}/{{a,b}}.jsonl*") == ["t/a.jsonl.gz", "t/b.jsonl", "u/a.jsonl"]
    assert keys_of(f"{store.uri}/t/b.jsonl") == ["b.jsonl"]
    assert keys_of(f"{store.uri}/t/[1].jsonl") == ["[1].jsonl"]
    assert keys_of(f"{store.uri}/t/none-*.jsonl") == []
    assert keys_of(f"{store.uri}/t/deep") == []
    assert find_objects(f"{store.uri}/t/*.gz")[0].get("a.jsonl.gz") == b"x"
    with pytest.raises(StorageError, match="'\\[' without a '\\]'"):
        match_objects(store, "t/[1.jsonl*")
