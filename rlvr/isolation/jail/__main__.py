"""The child side of the sandbox: a program of its own, which imports only the standard library.

Started as ``python -I -S -B jail JOB CONTROL`` with the file descriptors of a JSON job and of a
pipe for its reports. Three processes follow each other: this one (*outer*) leaves the host's
namespaces; its child (*init*, process 1 of the new process-id namespace) builds a file system of
libraries and one temporary directory; and that one's child runs the program without any privilege.
When init ends, the kernel kills whatever the program left behind, in whatever session it hides.
"""

import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time

import harness
from privileges import (
    ISOLATED,
    MOUNT_ATTR_RDONLY,
    become,
    call,
    change_mount,
    drop_capabilities,
    filter_calls,
    leave_namespaces,
    make_read_only,
    map_user,
)

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC = 2, 4, 4096, 16384
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MNT_DETACH, PIVOT_ROOT = 2, {"x86_64": 155, "aarch64": 41}
FIRST_UID = 0x70000000  # users that no system has: one for each sandbox that root starts


def library_folders() -> list[str]:
    """Return the folders that a Python program without packages reads."""
    standard = os.path.dirname(os.__file__)
    folders = [path for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64") if os.path.isdir(path)]
    for path in (standard, os.path.join(sys.base_prefix, "lib")):
        if os.path.isdir(path) and not any(path.startswith(f"{top}/") for top in folders):
            folders.append(path)
    return folders


def build_root(megabytes: int) -> None:
    """Replace the file system by read-only libraries, three devices and an empty ``/tmp``."""
    devices = ("/dev/null", "/dev/zero", "/dev/urandom")
    # Opened before /tmp is covered: paths below it may be hidden afterwards.
    sources = [(path, os.open(path, os.O_PATH)) for path in (*library_folders(), *devices)]
    options = b"size=4m,nr_inodes=4096,mode=755"
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, options)
    os.makedirs("/tmp/tmp")
    options = f"size={megabytes}m,nr_inodes=4096,mode=777".encode()
    call("mount", b"tmpfs", b"/tmp/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, options)
    for path, descriptor in sources:
        target = f"/tmp{path}"
        if path in devices:
            os.makedirs("/tmp/dev", exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        else:
            os.makedirs(target, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        # Through /proc/self/fd: the path itself may be hidden by the new /tmp.
        call("mount", source, target.encode(), None, MS_BIND | MS_REC, None)
        os.close(descriptor)
    os.makedirs("/tmp/old")
    # pivot_root, not chroot: root can leave a chroot.
    call("syscall", PIVOT_ROOT[platform.machine()], b"/tmp", b"/tmp/old")
    os.chdir("/")
    # Detached: the old root is busy as long as this process has files of it open.
    call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    make_read_only()
    # Last: /tmp is the one place that may be written to.
    change_mount(b"/tmp", allow=MOUNT_ATTR_RDONLY)
    os.chdir("/tmp")


def set_limits(limits: dict, count_processes: bool) -> None:
    """Set the resource limits of the program and of everything that it starts."""
    # One second more of processor time than of wall clock: the clock should end it first.
    memory, seconds = limits["megabytes"] << 20, int(limits["seconds"]) + 1
    values = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: memory,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if count_processes:
        values[resource.RLIMIT_NPROC] = limits["processes"]
    for kind, value in values.items():
        resource.setrlimit(kind, (value, value))


class Jail:
    """One sandbox: which protections it could not have, and its way to report to the parent."""

    def __init__(self, job: dict, control: int) -> None:
        self.job, self.control = job, control
        self.missing: list[str] = []
        self.alone = self.mapped = False  # own namespaces; by way of a user namespace
        self.root = os.geteuid() == 0  # root's processes are never counted

    def report(self, **content: object) -> None:
        os.write(self.control, json.dumps(content).encode() + b"\n")

    def attempt(self, protection: str, step, *arguments: object) -> bool:
        """Take one step; where the kernel refuses it, note the protection as missing."""
        try:
            step(*arguments)
            return True
        except (OSError, KeyError, AttributeError) as error:
            self.missing.append(f"{protection} ({error})")
            return False

    def enter(self) -> None:
        uid, gid = os.geteuid(), os.getegid()

        def leave() -> None:
            self.mapped = leave_namespaces(ISOLATED)

        self.alone = self.attempt("namespaces", leave)
        if self.mapped:
            map_user(uid, gid)

    def may_become_another(self) -> bool:
        if self.mapped or os.geteuid() != 0:
            return False
        try:
            # A harmless call that needs the capability to become another user.
            os.setgroups(os.getgroups())
            return True
        except OSError:
            return False  # root without its capabilities

    def supervise(self) -> None:
        """Be init: build the file system, run the program, end with it or at the deadline."""
        limits = self.job["limits"]
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Orphans of the program become children of this process, which `kill_all` can find.
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        uid = FIRST_UID + self.job["number"] if self.may_become_another() else None
        if uid is None and not self.mapped:
            self.missing.append("user of its own")
        private = self.alone and self.attempt("file system", build_root, limits["megabytes"])
        folder = None if private else scratch_folder(uid)
        # Blocked before the fork, so that `wait` cannot miss the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = os.fork()
        if child == 0:
            self.run_program(uid)
        try:
            self.report(exit=wait(child, time.monotonic() + limits["seconds"]))
        finally:
            if not self.alone:
                kill_all(uid)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def run_program(self, uid: int | None) -> None:
        """Drop everything and run the program; never return."""
        code, job = 1, self.job
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            os.setsid()
            # Before Linux 5.14 the limit counts all processes of the user, whatever the namespace.
            release = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
            counted = uid is not None or (self.mapped and not self.root and release >= (5, 14))
            if not counted:
                self.missing.append("process limit (needs user namespaces, Linux 5.14, not root)")
            set_limits(job["limits"], counted)
            if uid is not None:
                become(uid)
            drop_capabilities()
            self.attempt("system call filter", filter_calls)
            # Before the program can run: from here on it may write to no report.
            self.report(missing=self.missing)
            if self.missing and job["required"]:
                os._exit(1)
            keep_only({0, 1, 2, *job["keep"]})
            sys.path.pop(0)  # the folder of this file
            code = harness.main(job["program"])
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n"[:2000].encode("utf-8", "replace"))
        os._exit(code)


def keep_only(descriptors: set[int]) -> None:
    """Close every other descriptor, above all that of the reports."""
    # Gaps between the kept ones are closed, each with one call.
    ordered = sorted(descriptors)
    for low, high in zip(ordered, [*ordered[1:], 1 << 20], strict=True):
        os.closerange(low + 1, high)


def wait(child: int, deadline: float) -> int | str:
    """Reap until ``child`` ends and return its exit code (negative: signal), or ``timeout``."""
    while (left := deadline - time.monotonic()) > 0:
        # -1: as process 1, or subreaper, orphans must be reaped as well.
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
    return "timeout"


def scratch_folder(uid: int | None) -> str:
    """Enter a temporary folder, where there is no file system of one's own."""
    folder = tempfile.mkdtemp(prefix="rlvr-sandbox-")
    if uid is not None:
        os.chown(folder, uid, uid)
    os.chdir(folder)
    return folder


def kill_all(uid: int | None) -> None:
    """Kill what the program left, where no process namespace does it: orphans come to us."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        # kill(-1) reaches every process of the calling user, so a child becomes that user.
        if uid is not None and os.fork() == 0:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
            os._exit(0)
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            orphans = [int(word) for word in file.read().split()]
        for orphan in orphans if uid is None else ():
            os.kill(orphan, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if uid is not None else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def main() -> int:
    job_file, control = int(sys.argv[1]), int(sys.argv[2])
    with open(job_file, "rb") as file:
        job = json.loads(file.read())
    jail = Jail(job, control)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, this goes first
        os.environ.clear()
        jail.enter()
        init = os.fork()
        if init == 0:
            jail.supervise()
            os._exit(0)
        os.waitpid(init, 0)
    except BaseException as error:
        jail.report(failed=f"{type(error).__name__}: {error}")
    os._exit(0)


if __name__ == "__main__":
    main()
