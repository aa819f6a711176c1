import hashlib
from pathlib import Path

import pytest

from gateway.link.named_files import read_named

DIGEST = hashlib.sha256(b"a detector").hexdigest()


def test_a_file_is_read_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(b"a detector")
    assert read_named(str(tmp_path), DIGEST) == b"a detector"


def test_one_that_is_damaged_or_gone_is_refused_never_half_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_named(str(tmp_path), DIGEST)
    (tmp_path / DIGEST).write_bytes(b"a detec")
    with pytest.raises(ValueError, match="damaged"):
        read_named(str(tmp_path), DIGEST)
