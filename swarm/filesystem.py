"""What kind of filesystem a path is on: kernel locks can be trusted on local ones only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "sshfs", "lustre", "gpfs", "mmfs", "beegfs",
    "beegfs_nodev", "ceph", "ceph-fuse", "afs", "auristorfs", "coda", "glusterfs", "orangefs",
    "pvfs2", "panfs", "wekafs", "juicefs", "davfs", "davfs2", "afpfs", "ncpfs", "s3fs", "gcsfuse",
    "rclone", "goofys", "mountpoint-s3", "blobfuse2",
})  # fmt: skip


def network_filesystem(path: Path) -> str | None:
    """The type of the network filesystem that `path` (it need not exist) is on; `None`: local."""
    partitions = psutil.disk_partitions(all=True)
    kind = filesystem_type(path.resolve(), ((p.mountpoint, p.fstype) for p in partitions))
    return kind if kind.lower().removeprefix("fuse.") in _NETWORK else None


def filesystem_type(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """The type of the deepest mount (folder, type) above an absolute path; of equals, the last."""
    above = [
        (len(Path(folder).parts), kind) for folder, kind in mounts if path.is_relative_to(folder)
    ]
    deepest = max((depth for depth, _ in above), default=0)
    return next((kind for depth, kind in reversed(above) if depth == deepest), "")
