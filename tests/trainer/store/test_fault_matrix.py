"""Every fault of S3 meets every use of it: what comes of it is right, or an error that names the object."""

from __future__ import annotations

from pathlib import Path

import pytest

from fault_modes import LASTING, MODES
from fault_paths import RIGHT, SCENARIOS, SILENT, TOLD
from finetune_trainer.errors import FinetuneError
from finetune_trainer.store import s3_client, s3_reader
from ranks import REPOSITORY
from s3_faults.server import FaultyS3

DEADLINE = 0.5  # seconds without a byte, and for what comes too slowly
WITHOUT_EFFECT = {"failing create", "failing complete", "error in a complete"}
"""Of multipart uploads, of which our store sends none: an object is one request."""
AT_REST = {"truncated at rest", "bit flip at rest"}
MAY_MISS = {*AT_REST, "list lag"}
"""Those that break no request where objects are read, or where nothing is listed."""


@pytest.mark.parametrize("path", SCENARIOS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_silently(
    faulty_s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, path: str
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", DEADLINE)
    monkeypatch.setattr(s3_reader, "SLOW_SECONDS", DEADLINE)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3" if mode == "503 burst" else "2")
    scenario = SCENARIOS[path](faulty_s3, tmp_path)
    struck = faulty_s3.faults.taken
    MODES[mode](scenario.target)
    try:
        came, error = scenario.act(), None
    except FinetuneError as raised:
        came, error = TOLD, raised
    struck = faulty_s3.faults.taken - struck
    faulty_s3.restart()
    left = scenario.left()
    assert SILENT not in (came, left)
    assert (TOLD if TOLD in (came, left) else RIGHT) == (TOLD if mode in LASTING else RIGHT)
    assert mode in MAY_MISS or bool(struck) == (mode not in WITHOUT_EFFECT)
    if error is not None:
        assert scenario.named(error), error
        assert mode in AT_REST or scenario.act() == RIGHT  # the next try finds nothing in its way


def test_the_page_on_guarantees_has_a_row_for_every_fault() -> None:
    rows = [line.split(" | ")[:2] for line in (REPOSITORY / "docs/guarantees.md").read_text().splitlines()]
    told = {mode: TOLD if mode in LASTING else RIGHT for mode in MODES}
    assert {row[0].removeprefix("| "): row[1] for row in rows if row[1:2] in ([TOLD], [RIGHT])} == told
