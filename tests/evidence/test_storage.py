"""Which file systems always answer."""

from types import SimpleNamespace

import psutil
import pytest

from star_rl.evidence.shard import on_local_disk


@pytest.fixture
def mounts(monkeypatch):
    """Set the mounts of this machine, as (mount point, file system), in their order."""

    def mount(*rows):
        found = [SimpleNamespace(mountpoint=str(point), fstype=kind) for point, kind in rows]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
        on_local_disk.cache_clear()

    yield mount
    on_local_disk.cache_clear()


def test_the_longest_mount_point_decides_and_of_two_on_one_point_the_later(mounts, tmp_path):
    (tmp_path / "net" / "store").mkdir(parents=True)
    (tmp_path / "network").mkdir()
    mounts(("/", "ext4"), (tmp_path / "net", "nfs4"))
    assert on_local_disk(tmp_path) and on_local_disk(tmp_path / "network")
    assert not on_local_disk(tmp_path / "net" / "store")
    mounts(("/", "ext4"), (tmp_path / "net", "nfs4"), (tmp_path / "net", "tmpfs"))
    assert on_local_disk(tmp_path / "net" / "store")


def test_blanks_in_a_mount_point_and_links_are_read(mounts, tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    mounts(("/", "xfs"), (tmp_path / "a b", "fuse.sshfs"))
    assert not on_local_disk(tmp_path / "link")


def test_an_unknown_mount_is_not_local(mounts, tmp_path, monkeypatch):
    mounts(("/", "ext4"))
    assert not on_local_disk(tmp_path / "absent")
    mounts()
    assert not on_local_disk(tmp_path)

    def missing(all):
        raise FileNotFoundError("/proc/self/mounts")

    monkeypatch.setattr(psutil, "disk_partitions", missing)
    on_local_disk.cache_clear()
    assert not on_local_disk(tmp_path)


def test_this_machine_s_own_mounts_are_read(tmp_path):
    on_local_disk.cache_clear()
    assert not on_local_disk("/proc") and isinstance(on_local_disk(tmp_path), bool)
