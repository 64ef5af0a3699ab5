"""The system calls that a program in the sandbox may not make, as a filter that the kernel runs (seccomp).

Namespaces and limits hold most attacks. The filter closes what they leave open: further processes, whose memory would
add up, memory that no limit counts, sockets, and parts of the kernel that a program on stdin and stdout has no use for.
A refused call fails with EPERM, so an honest program gets an exception and is not killed.

The filter is a program for the kernel's classic BPF machine. An instruction is (operation, steps to jump if true, steps
to jump if false, constant), packed in 8 bytes. Numbers are those of `linux/filter.h`, `linux/seccomp.h` and the tables
of system calls of Linux.
"""

from __future__ import annotations

import struct

# Architecture as the kernel names it in a filter's data (AUDIT_ARCH_*), and the index in the pairs below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Calls from this number on are as new as io_uring, or newer, and have the same number on all machines. The C library
# does without them: the kernel says that it has no such call. The 32-bit calls of x86_64 (x32) have larger numbers.
FIRST_NEW_CALL = 424
CLONE = (56, 220)
REFUSED_CALLS = {  # (number on x86_64, number on aarch64); None: not on this machine
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_setup": (206, 0),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "personality": (135, 92),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _FLAGS_AT = 0, 4, 16  # places in the filter's data; flags are the first argument of clone
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_CLONE_THREAD = 0x00010000


def call_filter(machine: str, *, threads: bool = True) -> bytes:
    """The filter for processes of ``machine``, as `os.uname` names it. It may start ``threads``, but no processes.

    Raises ValueError for a machine whose system calls have numbers that are not known here.
    """
    if machine not in MACHINES:
        raise ValueError(f"no filter of system calls for a machine {machine!r}; known: {', '.join(MACHINES)}")
    architecture, column = MACHINES[machine]
    numbers = [pair[column] for pair in REFUSED_CALLS.values() if pair[column] is not None]
    count = len(numbers)
    program = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, count + 5, 0, FIRST_NEW_CALL),  # to ENOSYS
        (_EQUAL, 0, 2, CLONE[column]),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_ANY_BIT, count if threads else count + 1, count + 1, _CLONE_THREAD),  # to ALLOW, to EPERM
        *((_EQUAL, count - place, 0, number) for place, number in enumerate(numbers)),  # to EPERM
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
