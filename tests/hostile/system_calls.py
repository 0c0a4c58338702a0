"""Calls the kernel where no trial has business, and counts what is not refused."""

import ctypes
import errno
import sys

NUMBERS = {  # of x86_64, with arguments that would do nothing
    "ptrace": (101, -1, 0, 0, 0),
    "process_vm_writev": (311, 0, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 0, 0),
    "unshare": (272, 0),
    "setns": (308, -1, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "bpf": (321, -1, 0, 0),
    "keyctl": (250, -1, 0, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "x32": (0x40000000 + 39,),
    "clone into a user namespace": (56, 0x10000000, 0, 0, 0, 0),
}
libc = ctypes.CDLL(None, use_errno=True)
allowed = []
for name, (number, *arguments) in NUMBERS.items():
    result = libc.syscall(number, *map(ctypes.c_long, arguments))
    if result == 0 and name.startswith("clone"):
        libc._exit(0)
    if result != -1 or ctypes.get_errno() != errno.EPERM:
        allowed.append(name)
sys.exit(f"allowed: {allowed}")
