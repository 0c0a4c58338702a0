"""seccomp: system calls that a trial has no business with fail, whatever user it runs as.

The filter is a BPF program, made here from a table; numbers are of linux/seccomp.h, linux/audit.h,
linux/bpf_common.h and each architecture's asm/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # a 32-bit word at an offset; of the constant
_EQUAL, _AT_LEAST = 0x15, 0x35  # jumps
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_DESTINATION_AT = _ARGUMENTS_AT + 4 * 8  # of sendto: the fifth, whose halves are words
_X32_BIT = 0x40000000
_AF_UNIX, _AF_NETLINK = 1, 16
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW…

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_…, column below
_SOCKET, _CLONE, _PRLIMIT, _SENDTO = (41, 198), (56, 220), (302, 261), (44, 206)

_REFUSED = {  # name: its number on x86_64 and aarch64; None where it does not exist
    # to other programs: the network, and sockets of tmux, docker, an ssh agent
    "connect": (42, 203), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # into other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "perf_event_open": (298, 241),
    # to another view of the files
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "unshare": (272, 97),
    "setns": (308, 268), "quotactl": (179, 60), "open_by_handle_at": (304, 265),
    "swapon": (167, 224), "swapoff": (168, 225),
    # into the kernel
    "bpf": (321, 280), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "reboot": (169, 142), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "acct": (163, 89), "iopl": (172, None), "ioperm": (173, None),
    # to the keys of the user
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
}  # fmt: skip

# These do nothing and say they did. Landlock does not guard the attributes of files, so that those
# of the user would be in reach; but a copy that wants to keep a mode (shutil.copy, a linker) goes
# on. A trial must stay on its worker's cores; but ROCm's threads do not start where this fails.
_PRETENDED = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "sched_setaffinity": (203, 122),
}  # fmt: skip
_UNSUPPORTED = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
}  # fmt: skip
_UNKNOWN = {"clone3": (435, 435)}  # its flags cannot be seen; libc then takes clone

_VERDICTS = (
    (_REFUSED, errno.EPERM),
    (_PRETENDED, 0),
    (_UNSUPPORTED, errno.EOPNOTSUPP),
    (_UNKNOWN, errno.ENOSYS),
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def program() -> bytes | None:
    """The filter for this machine; `None` for an architecture without a table."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None or sys.maxsize < 2**32:
        return None
    architecture, column = machine
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    load_number = _instruction(_LOAD, _NUMBER_AT)
    parts = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, architecture, 1, 0) + refuse,  # such as 32-bit calls
        load_number,
        _instruction(_AT_LEAST, _X32_BIT, 0, 1) + refuse,
    ]
    for table, code in _VERDICTS:
        verdict = _instruction(_RETURN, _ERRNO | code)
        numbers = (row[column] for row in table.values())
        parts += [_instruction(_EQUAL, n, 0, 1) + verdict for n in numbers if n is not None]
    allow = _instruction(_RETURN, _ALLOW)
    parts += [
        # socket(): of other families than these there is none to be had.
        _instruction(_EQUAL, _SOCKET[column], 0, 5),
        _instruction(_LOAD, _ARGUMENTS_AT),
        _instruction(_EQUAL, _AF_UNIX, 1, 0),
        _instruction(_EQUAL, _AF_NETLINK, 0, 1),
        allow,
        refuse,
        # clone(): threads and processes, but no namespace.
        _instruction(_EQUAL, _CLONE[column], 0, 5),
        _instruction(_LOAD, _ARGUMENTS_AT),
        _instruction(_AND, _NEW_NAMESPACES),
        _instruction(_EQUAL, 0, 0, 1),
        allow,
        refuse,
        # sendto(): to the other end of the socket, but to no address, such as journald's.
        _instruction(_EQUAL, _SENDTO[column], 0, 6),
        _instruction(_LOAD, _DESTINATION_AT),
        _instruction(_EQUAL, 0, 0, 2),
        _instruction(_LOAD, _DESTINATION_AT + 4),
        _instruction(_EQUAL, 0, 1, 0),
        refuse,
        allow,
        # prlimit64(): its own limits only, which it names 0.
        _instruction(_EQUAL, _PRLIMIT[column], 0, 3),
        _instruction(_LOAD, _ARGUMENTS_AT),
        _instruction(_EQUAL, 0, 1, 0),
        refuse,
        allow,
    ]
    return b"".join(parts)


def install(code: bytes) -> None:
    """Filter the system calls of this process and all it will start. Needs no_new_privs."""
    loaded = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(loaded), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp was refused")


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A `struct sock_filter`; a jump skips that many of the instructions that follow."""
    return struct.pack("HBBI", code, if_true, if_false, value)
