"""What a program gives up before it starts: its user, its capabilities, and dangerous calls."""

import ctypes
import errno
import os
import platform
import struct
from contextlib import suppress

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
NEW_USER, NEW_NS, NEW_PID, NEW_NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
NEW_IPC, NEW_UTS = 0x08000000, 0x04000000
ISOLATED = NEW_NS | NEW_PID | NEW_NET | NEW_IPC | NEW_UTS
NEW_NAMESPACE = 0x7E020000  # the flags of clone that make a namespace of any kind
MS_REC, MS_PRIVATE, MOUNT_SETATTR, AT_RECURSIVE = 16384, 1 << 18, 442, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2

# System calls that a program has no use for, by machine: every door to the network, to other
# processes and to new privileges, and memory that no limit counts.
_SAME = (425, 428, 429, 430, 431, 432, 433, 438, 442, 447)
DENIED = {
    "x86_64": (29, 41, 68, 101, 155, 161, 165, 166, 175, 246, 248, 249, 250, 272, 298, 304, 308)
    + (310, 311, 312, 313, 319, 321, 323, *_SAME),
    "aarch64": (39, 40, 41, 51, 97, 104, 105, 117, 186, 194, 198, 217, 218, 219, 241, 265, 268)
    + (270, 271, 272, 273, 279, 280, 282, *_SAME),
}
# Starting and killing programs: execve, execveat, kill, tkill, tgkill, pidfd_send_signal, fork.
OTHER_PROGRAMS = {
    "x86_64": (57, 58, 59, 62, 200, 234, 322, 424),
    "aarch64": (129, 130, 131, 221, 281, 424),
}
MACHINES = {"x86_64": (0xC000003E, 56), "aarch64": (0xC00000B7, 220)}  # audit number, clone
CLONE3 = 435

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a C function; -1 raises OSError."""
    if getattr(libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def become(uid: int) -> None:
    # Groups before users: afterwards there is no right to change them.
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    # Results are ignored: the kernel knows fewer than 64 and refuses the others.
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    # Version 3 of the interface; all three sets empty.
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    # Needed by the filter below, and set-uid programs gain nothing.
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def filter_calls(more: tuple[int, ...] = ()) -> None:
    """Refuse the denied system calls with EPERM, and any other machine's calling convention."""
    machine = platform.machine()
    number, clone = MACHINES[machine]
    # Instructions of classic BPF; a line is (instruction, jump if true, if false, operand).
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, missing, allow = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x7FFF0000
    code = [(load, 0, 0, 4), (equal, 1, 0, number), (give, 0, 0, refuse), (load, 0, 0, 0)]
    # x32: the same machine with other call numbers, which would pass the list.
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    # clone3 has its flags in memory, where a filter cannot look; on ENOSYS glibc uses clone.
    code += [(equal, 0, 1, CLONE3), (give, 0, 0, missing)]
    for denied in (*DENIED[machine], *more):
        code += [(equal, 0, 1, denied), (give, 0, 0, refuse)]
    code += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_bit, 0, 1, NEW_NAMESPACE)]
    code += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(packed))
    call("prctl", PR_SET_SECCOMP, 2, program, 0, 0)


def leave_namespaces(kinds: int) -> bool:
    """Enter new namespaces; true with a user namespace, OSError where the kernel refuses."""
    mapped = True
    if os.geteuid() == 0:
        # Root without its capabilities, as in a container, goes on as any other user.
        with suppress(OSError):
            call("unshare", kinds)
            mapped = False
    if mapped:
        call("unshare", NEW_USER | kinds)
    # Private: mounts made here must not appear outside.
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    return mapped


def map_user(uid: int, gid: int) -> None:
    """Call the user of a new user namespace 1000 there."""
    # In this order: without "deny" an unprivileged process may not write gid_map.
    maps = {"setgroups": "deny", "uid_map": f"1000 {uid} 1", "gid_map": f"1000 {gid} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def change_mount(path: bytes, *, forbid: int = 0, allow: int = 0, flags: int = 0) -> None:
    """Set and clear attributes of the mount at ``path``."""
    content = struct.pack("QQQQ", forbid, allow, 0, 0)
    # -100 is AT_FDCWD. By number, since old glibc has no mount_setattr.
    call("syscall", MOUNT_SETATTR, -100, path, flags, content, len(content))


def make_read_only() -> None:
    """Make every mount of this mount namespace read-only."""
    change_mount(b"/", forbid=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, flags=AT_RECURSIVE)


def confine() -> None:
    """Give up the network, writing, other programs and privileges, and keep this file system.

    For a worker that scores with a trusted library which may evaluate what it is given; as far as
    the kernel allows.
    """
    uid, gid = os.geteuid(), os.getegid()
    # A kernel without namespaces for us still takes the filter of system calls below.
    with suppress(OSError):
        if leave_namespaces(NEW_NS | NEW_NET | NEW_IPC):
            map_user(uid, gid)
        make_read_only()
    drop_capabilities()
    machine = platform.machine()
    if machine in OTHER_PROGRAMS:
        filter_calls(OTHER_PROGRAMS[machine])
