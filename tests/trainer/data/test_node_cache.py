"""Pages that the ranks of a node share: fetched once, kept for the next epoch and start, proved at every use."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from faulty_http import FaultyHandler, flip_answer
from finetune_trainer.data.pages import BLOCKS
from finetune_trainer.data.tokens import read, write
from finetune_trainer.data.tokens.format import PAGE_ENTRY
from finetune_trainer.errors import DataError
from finetune_trainer.store import open_store
from node_walks import Node, Noted, bytes_sent, furthest_first, least_recently_used
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3
from small_data import conversation, index_of, settings, source, write_records
from token_forms import publish_all

RECORDS = 560
PLENTY = 1 << 30


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small pages and blocks, and nothing held in the memory of a rank."""
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 8)
    monkeypatch.setattr("finetune_trainer.data.order.BLOCK_RECORDS", 64)
    monkeypatch.setattr("finetune_trainer.data.paged.PAGE_BYTES", 2000)
    monkeypatch.setattr(write, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(read.TokenReader.__init__, "__defaults__", (0,))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    return write_records(folder / "a.jsonl", [conversation(i) for i in range(RECORDS)])


@pytest.fixture(params=["records", "tokens"])
def node(request: pytest.FixtureRequest, faulty_s3: FaultyS3, records: Path, tmp_path: Path) -> Node:
    """A node with room for everything, and nothing there yet."""
    return made(faulty_s3, records, tmp_path / "data", tokens=request.param == "tokens")


def made(server: FaultyS3, records: Path, folder: Path, *, tokens: bool, budget: int = PLENTY, epochs: int = 1) -> Node:
    bucket = server.make_bucket()
    server.client().upload_file(str(records), bucket, records.name)
    index = index_of(source(f"s3://{bucket}/{records.name}"))
    forms = publish_all(open_store(f"s3://{bucket}/tokens"), index, settings()) if tokens else {}
    server.seen.clear()
    return Node(index, forms, settings(epochs=epochs), folder, budget)


def object_end(node: Node) -> str:
    return ".tokens" if node.forms else ".jsonl"


def test_ranks_of_a_node_fetch_every_byte_once_and_a_restart_none(node: Node, faulty_s3: FaultyS3) -> None:
    expected = node.expected()
    faulty_s3.seen.clear()
    found, counts, said = node.walk()
    sent = bytes_sent(faulty_s3, object_end(node))
    assert found == expected
    assert 0.9 * node.size < sent <= 1.05 * node.size
    assert counts["damaged"] == counts["alone"] == 0
    assert not said
    faulty_s3.seen.clear()
    again, counts, _ = node.walk()
    assert again == expected
    assert bytes_sent(faulty_s3, object_end(node)) == counts["fetched"] == 0


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("budget", [0, PLENTY])
def test_files_that_are_read_front_to_back_are_shared_too(
    faulty_s3: FaultyS3, tmp_path: Path, suffix: str, budget: int
) -> None:
    path = write_records(tmp_path / f"a{suffix}", [conversation(i) for i in range(RECORDS)], row_group_size=150)
    node = made(faulty_s3, path, tmp_path / "data", tokens=False, budget=budget)
    expected = node.expected(3)
    faulty_s3.seen.clear()
    found, counts, _ = node.walk(3)
    assert found == expected
    # Parquet's footer is read with every row group.
    assert bytes_sent(faulty_s3, suffix) <= (1.05 if budget or suffix == ".jsonl.gz" else 2) * node.size
    again, counts, _ = node.walk(3)
    assert again == expected
    assert budget == 0 or counts["fetched"] == 0


def test_a_file_that_is_replaced_while_it_is_read_by_pages_is_named(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl.gz", [conversation(i) for i in range(RECORDS)])
    node = made(faulty_s3, path, tmp_path / "data", tokens=False)

    def replaced(handler: FaultyHandler) -> None:
        write_records(path, [conversation(i) for i in range(1, RECORDS + 1)])
        faulty_s3.client().upload_file(str(path), node.index.sources[0].root.removeprefix("s3://"), path.name)
        handler.answer(handler.forward(handler.read_body()))

    faulty_s3.inject(replaced, Operation.GET, key="*.gz", skip=2)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz changed since it was indexed"):
        list(node.stream(node.cache().reader("train")).batches())


def test_a_second_epoch_fetches_nothing(faulty_s3: FaultyS3, records: Path, tmp_path: Path) -> None:
    node = made(faulty_s3, records, tmp_path / "data", tokens=True, epochs=3)
    expected = node.expected(2)
    faulty_s3.seen.clear()
    found, _, _ = node.walk(2)
    assert found == expected
    assert bytes_sent(faulty_s3, ".tokens") <= 1.05 * node.size


def test_without_room_the_ranks_still_share_what_passes(node: Node, faulty_s3: FaultyS3) -> None:
    node = node.with_budget(0)
    expected = node.expected()
    faulty_s3.seen.clear()
    found, _, _ = node.walk()
    assert found == expected
    assert bytes_sent(faulty_s3, object_end(node)) <= 1.05 * node.size
    blocks = {path.parent.name for path in node.files()}
    assert 0 < len(blocks) <= BLOCKS


def test_half_the_room_finds_as_much_as_can_be_found(faulty_s3: FaultyS3, records: Path, tmp_path: Path) -> None:
    node = made(faulty_s3, records, tmp_path / "data", tokens=True, epochs=4)
    noted = Noted()
    expected = [batch.tokens for batch in node.stream(noted).batches()]
    half = sum(size for _, size in set(noted.uses)) // 2
    node = node.with_budget(half)
    faulty_s3.seen.clear()
    cache = node.cache()
    assert [batch.tokens for batch in node.stream(cache.reader("train")).batches()] == expected
    directories = PAGE_ENTRY * node.used[0].pages
    ours, recent = cache.counts["bytes"] - directories, least_recently_used(noted.uses, half)
    best = furthest_first(noted.uses, half)
    assert sum(path.stat().st_size for path in node.files()) <= half
    assert best <= ours <= 1.1 * best
    assert ours < 0.8 * recent


def test_damaged_files_are_found_counted_and_fetched_again(node: Node) -> None:
    expected, _, _ = node.walk(2)
    files = [path for path in node.files() if path.name.startswith(("page", "records"))]
    chosen = files[1 :: len(files) // 20]
    for number, path in enumerate(chosen):
        data = path.read_bytes()
        at = number * len(data) // len(chosen)
        flipped = data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :]
        another = files[files.index(path) - 1].read_bytes()
        path.write_bytes([flipped, data[:at], data + b"\0", another][number % 4])
    found, counts, _ = node.walk(2)
    assert found == expected
    assert counts["damaged"] == counts["fetched"] == len(chosen) >= 20
    _, counts, _ = node.walk(2)
    assert counts["damaged"] == counts["fetched"] == 0


def test_files_that_vanish_are_fetched_again(node: Node) -> None:
    expected, _, _ = node.walk(2)
    for path in node.files()[::2]:
        path.unlink()
    found, counts, _ = node.walk(2)
    assert found == expected
    assert counts["fetched"] == len(node.files()[::2])


def test_a_full_disk_ends_the_writing_with_one_message(node: Node) -> None:
    expected = node.expected(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        found, counts, said = node.walk(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == expected
    assert len(said) == 2  # of each rank
    assert f"the data cache in {node.folder} cannot be written (File too large)" in said[0]
    assert "FINETUNE_DATA_CACHE_BYTES" in said[0]
    assert not node.files()
    assert counts["found"] == 0


def test_a_folder_that_cannot_be_made_ends_the_writing_too(node: Node) -> None:
    node.folder.write_bytes(b"")
    found, counts, said = node.walk(2)
    assert found == node.expected(2)
    assert len(said) == 2
    assert counts["found"] == 0


def test_pages_of_other_versions_and_places_are_never_taken(faulty_s3: FaultyS3, records: Path, tmp_path: Path) -> None:
    nodes = [
        made(faulty_s3, records, tmp_path / "data", tokens=False) for _ in range(2)
    ]  # the same file in two buckets
    bucket = nodes[0].index.sources[0].root.removeprefix("s3://")
    assert len({node.index.id for node in nodes}) == 1
    path = write_records(tmp_path / "b.jsonl", [conversation(i) for i in range(1, RECORDS + 1)])
    faulty_s3.client().upload_file(str(path), bucket, "a.jsonl")
    changed = index_of(source(f"s3://{bucket}/a.jsonl"))
    nodes.append(Node(changed, {}, nodes[0].settings, nodes[0].folder, PLENTY))
    assert len({node.index.sources[0].place for node in nodes}) == 3


def test_only_its_owner_may_look_into_the_folder_and_a_run_leaves_none(node: Node) -> None:
    node.walk(1)
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700
    node.cache(1, 2).clear()
    assert node.files()
    node.cache(0, 2).clear()
    assert not node.folder.exists()


def test_another_budget_begins_anew(node: Node) -> None:
    node.walk(1)
    smaller = node.with_budget(node.size // 2)
    smaller.walk(1)
    assert sum(path.stat().st_size for path in node.files()) <= node.size // 2


def test_what_was_damaged_on_its_way_is_replaced_for_all(faulty_s3: FaultyS3, records: Path, tmp_path: Path) -> None:
    """Records are proved by who reads them, after they were published."""
    node = made(faulty_s3, records, tmp_path / "data", tokens=False)
    expected = node.expected(2)
    faulty_s3.inject(flip_answer(10), Operation.GET, times=3)
    found, _, _ = node.walk(2)
    assert found == expected
    again, counts, _ = node.walk(2)
    assert again == expected
    assert counts["fetched"] == 0


def test_local_files_are_not_kept(records: Path, tmp_path: Path) -> None:
    index = index_of(source(records))
    assert not Node(index, {}, settings(), tmp_path / "data", PLENTY).used
