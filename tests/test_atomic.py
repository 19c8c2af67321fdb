"""Files and folders that are there whole or not at all."""

import pytest

from mbjax import atomic


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "a.json"
    atomic.write_text(file, "old π")
    with atomic.writing(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_text() == "old π"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    atomic.write_text(file, "old")
    with pytest.raises(TypeError), atomic.writing(file) as stream:
        stream.writelines([b"ne", "w"])  # pyright: ignore
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_there_when_it_is_whole_and_the_first_one_stays(tmp_path):
    folder = tmp_path / "deep" / "a"
    with atomic.making(folder) as slow:
        (slow / "file").write_text("slow")
        with atomic.making(folder) as fast:
            (fast / "file").write_text("fast")
            assert not folder.exists()
    assert (folder / "file").read_text() == "fast"
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.making(tmp_path / "a") as part:
        (part / "missing" / "file").write_text("x")
    assert not list(tmp_path.iterdir())
