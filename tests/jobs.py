"""Jobs for worker processes: one that answers, and the ways in which one does not."""

import ctypes
import os
import signal
import time


def echo(value):
    return value


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def span(seconds):
    """Return the worker's pid, and its begin and end by the clock that all processes share."""
    begin = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), begin, time.monotonic()


def begin_and_wait(path):
    open(path, "w").close()
    time.sleep(60)


def spin():
    while True:
        pass


def big_power():
    """Hang inside one C call, where no Python signal handler runs."""
    return len(str(7 ** (10**9)))


def segfault():
    ctypes.string_at(0)


def swallow():
    return len(bytearray(8 << 30))


def leave():
    os._exit(0)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("no such thing")


def shout():
    os.write(1, b"noise that is no message")
    print("more noise")
    return "heard"


def run(name, *arguments):
    return globals()[name](*arguments)
