import errno
import hashlib
import os

import pytest

from pocketvit.core.errors import StorageError
from pocketvit.core.files import atomic_path, read_json, sha256_of, write_bytes, write_json


def test_json_round_trip_keeps_unicode(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"classe": "été", "n": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"classe": "été", "n": [1, 2.5, None]}


def test_nan_is_refused_because_other_json_readers_would(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


def test_sha256_matches_hashlib(tmp_path):
    write_bytes(tmp_path / "a", b"pocket")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"pocket").hexdigest()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, code):
    target = tmp_path / "model.bin"
    target.write_bytes(b"good")
    with pytest.raises(StorageError) as caught, atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(code, os.strerror(code))
    assert str(target) in caught.value.message
    assert target.read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_any_other_exception_also_leaves_the_old_file(tmp_path):
    target = tmp_path / "model.bin"
    target.write_bytes(b"good")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"good"
    assert len(list(tmp_path.iterdir())) == 1
