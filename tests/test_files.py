"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from dal_jax.files import sync_directory, write_atomically


@pytest.fixture
def events(monkeypatch):
    """What reaches the disk, in order: synced paths and the targets of renames."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        seen.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().suffix))
        fsync(descriptor)

    def note_replace(source, target, **options):
        seen.append(("rename", Path(target).suffix))
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(os, "rename", note_replace)
    return seen


def test_content_is_on_disk_before_its_name_and_the_name_at_return(tmp_path, events):
    directory = tmp_path / "run.d"
    directory.mkdir()
    (directory / "a.json").write_text("old")
    write_atomically(directory / "a.json", lambda file: file.write(b"new"))
    assert events == [("sync", ".partial"), ("rename", ".json"), ("sync", ".d")]
    assert [file.name for file in directory.iterdir()] == ["a.json"]
    assert (directory / "a.json").read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_older_file_stays_where_the_new_one_fails(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    (tmp_path / "a").write_text("old")
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a", write)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("a", "old")
    ]


def test_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "a", lambda file: None)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("number", "raised"), [(22, False), (5, True)])
def test_only_a_file_system_without_directory_sync_is_excused(
    tmp_path, monkeypatch, number, raised
):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if raised:
        with pytest.raises(OSError, match=os.strerror(number)):
            sync_directory(tmp_path)
    else:
        sync_directory(tmp_path)
