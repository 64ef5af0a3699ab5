"""Programs that attack the machine they run on, in Python.

An attack has succeeded if it prints "took". `written` adds the imports and, at the end, this print. Names with a dollar
are facts of the machine outside (`tests.rewards.test_code_attacks` has them): a secret and the file that holds it, a
folder to write to, the port of a server, and the like.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import NamedTuple

USER, ROOT_ONLY, ELSEWHERE = "user", "root", "elsewhere"


class Attack(NamedTuple):
    """A program, and who succeeds with it without a sandbox. ELSEWHERE: other limits hold, or the machine decides."""

    tries: str
    program: str
    without: str = USER

    def written(self, facts: Mapping[str, object]) -> str:
        """The whole program."""
        return BEGINNING + Template(self.program).substitute(facts) + "\nprint('took', flush=True)\nos._exit(0)\n"


BEGINNING = """\
import ctypes, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def call(*numbers):
    '''Make a call of the kernel that may fail, but not because it is refused (1) or missing (38).'''
    result = libc.syscall(*numbers)
    assert result >= 0 or ctypes.get_errno() not in (1, 38)
    return result

"""
READ_MEMORY = """
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
room = ctypes.create_string_buffer($length)
own, other = Piece(ctypes.addressof(room), $length), Piece($address, $length)
libc.process_vm_readv($pid, ctypes.byref(own), 1, ctypes.byref(other), 1, 0)
assert room.raw == b'$secret'
"""
USE_OPEN_FILE = """
def read(file):
    try:
        return os.pread(file, 100, 0)
    except OSError:
        return b''
assert any(read(file) == b'$secret' for file in range(3, 1024))
"""
FORK = """
for _ in range(50):
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
"""
LEAVE_DAEMON = """
if os.fork() == 0:
    os.setsid()
    time.sleep(1)
    os._exit(0)
"""
BARE_FORK = """
if call($clone, 17, 0, 0, 0, 0) == 0:
    os._exit(0)
"""
START_THREADS = """
threading.stack_size(32768)
for _ in range(400):
    threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
"""
ATTACKS = [
    # Files and the secrets in them.
    Attack("read a file of the user", "assert open('$secret_file').read() == '$secret'"),
    Attack("read a file through a link", "os.symlink('$secret_file', 'a'); open('a').read()"),
    Attack("write a file outside of its folder", "open('$folder/new', 'w').write('x')"),
    Attack("read the accounts of the machine", "open('/etc/passwd').read()"),
    Attack("see the folders of the machine", "assert {'home', 'tmp'} & {*os.listdir('/')}"),
    Attack("look into /sys", "os.listdir('/sys/kernel')"),
    Attack("list the trainer's packages", "assert os.listdir('$packages')"),
    Attack("import the trainer's packages", "sys.path.append('$packages'); import packaging"),
    Attack("change Python itself", "import json; open(json.__file__, 'a')", ROOT_ONLY),
    Attack("read shared memory", "open('/dev/shm/$shared').read()"),
    Attack("use an open file of the trainer", USE_OPEN_FILE, ELSEWHERE),
    Attack("mount a file system", "assert libc.mount(b'x', b'/work', b'tmpfs', 0, 0) == 0", ELSEWHERE),
    Attack("change its root", "os.chroot('.')", ROOT_ONLY),
    # The trainer and other processes.
    Attack("read the trainer's environment", "assert b'PATH' in open('/proc/$pid/environ', 'rb').read()"),
    Attack("read its own environment", "assert 'PATH' in os.environ", ELSEWHERE),
    Attack("read the trainer's memory", READ_MEMORY, ROOT_ONLY),
    Attack("signal the trainer", "os.kill($pid, 0)"),
    Attack("trace the trainer", "assert libc.ptrace(0x4206, $pid, 0, 0) == 0", ELSEWHERE),
    Attack("start 50 processes", FORK),
    Attack("leave a daemon", LEAVE_DAEMON),
    Attack("start a process by the bare call", BARE_FORK),
    Attack("start a shell", "os.execv('/bin/sh', ['sh', '-c', 'echo took'])"),
    Attack("start 400 threads", START_THREADS),
    Attack("learn the name of the machine", "assert os.uname().nodename == '$host'"),
    Attack("type into the terminal", "import fcntl; fcntl.ioctl(os.open('/dev/tty', 2), 0x5412, b'x')", ELSEWHERE),
    # The network.
    Attack("reach a server by TCP", "socket.create_connection(('127.0.0.1', $port), 2)"),
    Attack("send a datagram", "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"),
    Attack("look up a name", "socket.getaddrinfo('localhost', 80)"),
    Attack("reach an abstract socket", "socket.socket(socket.AF_UNIX).connect('\\0$shared')"),
    Attack("ask the kernel about the network", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    # Memory, disk, time and output.
    Attack("fill the disk", "for number in range(40): open(str(number), 'wb').write(bytes(1_000_000))"),
    Attack("make 500 files", "for number in range(500): open(str(number), 'w').close()"),
    Attack("make 500 folders", "for number in range(500): os.mkdir(str(number))"),
    Attack("take 1 GiB of memory", "bytearray(2**30)", ELSEWHERE),
    Attack("take memory of no process", "id = libc.shmget(0, 4096, 0o1600); libc.shmctl(id, 0, 0); assert id >= 0"),
    Attack("take memory in files without a name", "os.write(os.memfd_create('a'), b'x')"),
    Attack("run for ever", "while True: pass", ELSEWHERE),
    Attack("wait for ever", "time.sleep(3600)", ELSEWHERE),
    Attack("flood its output", "print('took' * 2**20)", ELSEWHERE),
    # Rights, and parts of the kernel that have had holes.
    Attack("raise its own limits", "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", ELSEWHERE),
    Attack("become root", "os.setuid(0); assert os.getuid() == 0", ROOT_ONLY),
    Attack("make a user namespace", "assert libc.unshare(0x10000000) == 0", ELSEWHERE),
    Attack("use the kernel's keys", "call($add_key, b'user', b'a', b'b', 1, -2)", ELSEWHERE),
    Attack("use io_uring", "call(425, 1, 0)", ELSEWHERE),
    Attack("load a program into the kernel", "call($bpf, 99, 0, 0)", ELSEWHERE),
    Attack("read the kernel's log", "call($syslog, 10, 0, 0)", ELSEWHERE),
]
