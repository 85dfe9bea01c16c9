"""Which file systems always answer."""

import pytest

from star_rl.evidence import storage


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    """Write the table of mounts; ``{}`` stands for the folder of the test."""

    def write(*lines):
        file = tmp_path / "mountinfo"
        here = str(tmp_path).replace(" ", r"\040")
        file.write_text("".join(f"{number} 1 0:1 / {line.format(here)}\n" for number, line in enumerate(lines)))
        monkeypatch.setattr(storage, "_MOUNTS", file)
        storage.on_local_disk.cache_clear()

    yield write
    storage.on_local_disk.cache_clear()


def test_the_longest_mount_point_decides_and_of_two_on_one_point_the_later(mounts, tmp_path):
    (tmp_path / "net" / "store").mkdir(parents=True)
    (tmp_path / "network").mkdir()
    mounts("/ rw - ext4 /dev/vda rw", "{}/net rw shared:1 - nfs4 server:/x rw")
    assert storage.on_local_disk(tmp_path) and storage.on_local_disk(tmp_path / "network")
    assert not storage.on_local_disk(tmp_path / "net" / "store")
    mounts("/ rw - ext4 /dev/vda rw", "{}/net rw - nfs4 server:/x rw", "{}/net rw - tmpfs tmpfs rw")
    assert storage.on_local_disk(tmp_path / "net" / "store")


def test_blanks_in_a_mount_point_and_links_are_read(mounts, tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    mounts("/ rw - xfs /dev/vda rw", r"{}/a\040b rw - fuse.sshfs host:/x rw")
    assert not storage.on_local_disk(tmp_path / "link")


def test_what_cannot_be_told_is_not_local(mounts, tmp_path, monkeypatch):
    mounts("/ rw - ext4 /dev/vda rw")
    assert not storage.on_local_disk(tmp_path / "absent")
    monkeypatch.setattr(storage, "_MOUNTS", tmp_path / "no-proc")
    storage.on_local_disk.cache_clear()
    assert not storage.on_local_disk(tmp_path)
