"""UNIT PROGRAM [ARGUMENT...]: runs a program under what a systemd unit forbids by filters of system
calls, which is the part of a unit that can break a program and needs no systemd to try."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys

LIBRARY = ctypes.CDLL("libseccomp.so.2", use_errno=True)
LIBRARY.seccomp_init.restype = ctypes.c_void_p
ALLOW = 0x7FFF0000
NOT_EQUAL, EQUAL, AT_LEAST, MASKED_EQUAL = 1, 4, 5, 7
# Namespaces, as clone, unshare and setns name them: mnt, cgroup, uts, ipc, user, pid, net.
NAMESPACES = [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
SCHED_FIFO, SCHED_RR, SCHED_DEADLINE = 1, 2, 6
HIGHEST_FAMILY = 63


class Compare(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operator", ctypes.c_int),
                ("first", ctypes.c_uint64), ("second", ctypes.c_uint64)]


class Filter:
    def __init__(self, otherwise):
        self.context = ctypes.c_void_p(LIBRARY.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action, name, *compares):
        number = LIBRARY.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            return  # not of this kernel's headers, so not of the program's either
        array = (Compare * len(compares))(*[Compare(*compare) for compare in compares])
        done = LIBRARY.seccomp_rule_add_array(
            self.context, ctypes.c_uint32(action), number, len(compares), array)
        # Calls that are no calls on this machine cannot have rules about their arguments.
        assert done in (0, -errno.EDOM, -errno.EINVAL, -errno.EACCES), (name, done)

    def load(self):
        done = LIBRARY.seccomp_load(self.context)
        assert done == 0, os.strerror(-done)


def fails(number):
    return 0x00050000 | number


def read_unit(path):
    settings = {}
    for line in open(path, encoding="utf-8"):
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def calls(name):
    """The system calls of a group, or the one that is named."""
    if not name.startswith("@"):
        return {name}
    told = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name],
                          check=True, capture_output=True, text=True).stdout
    found = set()
    for line in told.splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            found |= calls(word)
    return found


def forbid_arguments(unit):
    """Everything that the unit forbids by arguments, or as a whole beside the list of calls."""
    is_on = lambda key: unit.get(key, ["no"])[-1] == "yes"
    filter = Filter(ALLOW)
    denied = fails(errno.EPERM)
    families = [FAMILIES[name] for name in unit["RestrictAddressFamilies"][-1].split()]
    for family in range(HIGHEST_FAMILY + 1):
        if family not in families:
            filter.rule(fails(errno.EAFNOSUPPORT), "socket", (0, EQUAL, family, 0))
    filter.rule(fails(errno.EAFNOSUPPORT), "socket", (0, AT_LEAST, HIGHEST_FAMILY + 1, 0))
    if is_on("MemoryDenyWriteExecute"):
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        filter.rule(denied, "mmap", (2, MASKED_EQUAL, both, both))
        for name in ["mprotect", "pkey_mprotect"]:
            filter.rule(denied, name, (2, MASKED_EQUAL, mmap.PROT_EXEC, mmap.PROT_EXEC))
    if is_on("RestrictNamespaces"):
        for flag in NAMESPACES:
            for name in ["clone", "unshare"]:
                filter.rule(denied, name, (0, MASKED_EQUAL, flag, flag))
            filter.rule(denied, "setns", (1, MASKED_EQUAL, flag, flag))
        filter.rule(denied, "setns", (1, EQUAL, 0, 0))
        filter.rule(fails(errno.ENOSYS), "clone3")  # its flags cannot be seen
    if is_on("RestrictRealtime"):
        for policy in [SCHED_FIFO, SCHED_RR, SCHED_DEADLINE]:
            filter.rule(denied, "sched_setscheduler", (1, EQUAL, policy, 0))
    if is_on("LockPersonality"):
        filter.rule(denied, "personality", (0, NOT_EQUAL, 0, 0))
    filter.load()


def allow_listed(unit):
    """`SystemCallFilter=`: the first list says what is allowed, those with ~ take away from it."""
    allowed = set(calls("@default"))
    for words in unit["SystemCallFilter"]:
        names = set().union(*[calls(name) for name in words.lstrip("~").split()])
        allowed = allowed - names if words.startswith("~") else allowed | names
    filter = Filter(fails(getattr(errno, unit["SystemCallErrorNumber"][-1])))
    for name in sorted(allowed):
        filter.rule(ALLOW, name)
    filter.load()


def main():
    unit = read_unit(sys.argv[1])
    forbid_arguments(unit)
    allow_listed(unit)
    os.execv(sys.argv[2], sys.argv[2:])


main()
