"""Programs that try to do harm, to live on, or to be counted as right; for tests and for `bench/hostile_programs.py`.

Each is asked for `f(x)`, the square of x. `HARM` and `BURDEN` hold statements: put before or into a right `f`, so that
only what they do can make it fail. `CHEATS` are whole programs whose `f` is wrong and that try to pass all the same.
"""

from __future__ import annotations

import random
import stat
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from polythink.problems.sandbox import Outcome, Sandbox, Test

TEST = Test(("assert f(2) == 4", "assert f(3) == 9", "assert [f(x) for x in range(5)] == [0, 1, 4, 9, 16]"), ("f",))
RIGHT = "def f(x):\n    return x * x\n"

# kind: (statements, reasons one of which the outcome must give; "" for a program that is right all the same).
# MARK stands for a name of its own for files, VICTIM for a folder with a file `victim` that must stay as it is.
HARM: dict[str, tuple[str, str]] = {
    # processes
    "fork bomb": ("import os\nwhile True: os.fork()", "forbidden"),
    "fork once and wait": ("import os, time\nif os.fork() == 0: time.sleep(100)", "forbidden"),
    "forkpty": ("import os\nos.forkpty()", "forbidden exception"),
    "daemon": ("import os\nos.setsid()\nif os.fork(): os._exit(0)\nif os.fork(): os._exit(0)\n"
     "while True: pass", "forbidden"),
    "multiprocessing": ("import multiprocessing\nmultiprocessing.Process(target=print).start()", "exception forbidden"),
    "threads": ("import threading\n"
     "while True: threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", "exception forbidden"),
    "raw thread": ("import _thread\n_thread.start_new_thread(print, ())", "exception forbidden"),
    "subprocess": ("import subprocess\nsubprocess.run(['sleep', '1000'])", "exception forbidden"),
    "os.system": ("import os\nassert os.system('sleep 1000') == 0", "exception forbidden"),
    "popen": ("import os\nos.popen('sleep 1000').read()", "exception forbidden"),
    "spawn": ("import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 1000'], {})", "forbidden"),
    "exec": ("import os\nos.execv('/bin/sleep', ['sleep', '1000'])", "forbidden"),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "forbidden"),
    "kill the group": ("import os\nos.killpg(0, 9)", "forbidden"),
    "stop the parent": ("import os\nos.kill(os.getppid(), 19)", "forbidden"),
    "pidfd": ("import os\nos.pidfd_open(os.getppid())", "forbidden exception"),
    # files: writing
    "write here": ("open('MARK', 'w').write('x')", "forbidden"),
    "write to /tmp": ("open('/tmp/MARK', 'w').write('x')", "forbidden"),
    "write to home": ("import os\nopen(os.path.expanduser('~/MARK'), 'w')", "forbidden"),
    "os.open": ("import os\nos.open('/tmp/MARK', os.O_CREAT | os.O_WRONLY)", "forbidden"),
    "pathlib": ("import pathlib\npathlib.Path('/tmp/MARK').write_text('x')", "exception forbidden"),
    "tempfile": ("import tempfile\nopen(tempfile.mkdtemp() + '/MARK', 'w')", "exception forbidden"),
    "/dev/shm": ("f_ = open('/dev/shm/MARK', 'wb')\nwhile True: f_.write(bytes(1 << 20))", "forbidden"),
    "shared memory": ("from multiprocessing import shared_memory\n"
     "shared_memory.SharedMemory('MARK', True, 1 << 20)", "exception forbidden"),
    "mmap a file": ("import mmap, os\nmmap.mmap(os.open('VICTIM/victim', os.O_RDWR), 0)[0] = 1", "exception forbidden"),
    "symlink": ("import os\nos.symlink('/etc/passwd', '/tmp/MARK')", "forbidden"),
    "link": ("import os\nos.link('VICTIM/victim', 'VICTIM/MARK')", "forbidden"),
    "mkdir": ("import os\nos.mkdir('/tmp/MARK')", "forbidden"),
    "mkfifo": ("import os\nos.mkfifo('/tmp/MARK')", "forbidden"),
    "append": ("open('VICTIM/victim', 'a').write('x')", "forbidden"),
    "truncate": ("import os\nos.truncate('VICTIM/victim', 0)", "forbidden"),
    "unlink": ("import os\nos.unlink('VICTIM/victim')", "forbidden"),
    "rename": ("import os\nos.rename('VICTIM/victim', 'VICTIM/MARK')", "forbidden"),
    "rmtree": ("import shutil\nshutil.rmtree('VICTIM')", "forbidden exception"),
    "chmod": ("import os\nos.chmod('VICTIM/victim', 0)", "forbidden"),
    "chown": ("import os\nos.chown('VICTIM/victim', 1, 1)", "forbidden"),
    "utime": ("import os\nos.utime('VICTIM/victim', (0, 0))", "forbidden"),
    "memfd": ("import os\nos.memfd_create('MARK')", "forbidden exception"),
    # files: reading, and where it is
    "read /etc/passwd": ("open('/etc/passwd').read()", "forbidden"),
    "read the victim": ("open('VICTIM/victim').read()", "forbidden"),
    "read /proc": ("open('/proc/self/environ').read()", "forbidden"),
    "list a folder": ("import os\nos.listdir('/')", "forbidden"),
    "chdir": ("import os\nos.chdir('/')", "forbidden"),
    "chroot": ("import os\nos.chroot('/tmp')", "forbidden"),
    # network
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "forbidden exception"),
    "listen": ("import socket\nsocket.socket().listen()", "forbidden exception"),
    "DNS": ("import socket\nsocket.getaddrinfo('localhost', 80)", "forbidden exception"),
    "urllib": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1')", "exception forbidden"),
    # limits and memory of the interpreter
    "raise the limits": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
     "x_ = bytes(1 << 33)", "exception forbidden memory"),
    "ctypes fork": ("import ctypes\nassert ctypes.CDLL(None).fork() >= 0", "exception forbidden"),
    "ctypes open": ("import ctypes\nassert ctypes.CDLL(None).open(b'/tmp/MARK', 66, 511) >= 0", "exception forbidden"),
    "ctypes setrlimit": ("import ctypes\n"
     "assert ctypes.CDLL(None).setrlimit(9, ctypes.byref((ctypes.c_ulong * 2)(-1, -1))) == 0", "exception forbidden"),
    "ctypes ptrace": ("import ctypes, os\n"
     "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0", "exception forbidden"),
    "ctypes new filter": ("import ctypes\nassert ctypes.CDLL(None).prctl(22, 2, 0, 0, 0) == 0", "exception forbidden"),
    "wild pointer": ("import ctypes\nctypes.string_at(8)", "killed exception forbidden"),
    "abort": ("import os\nos.abort()", "killed"),
    "faulthandler": ("import faulthandler\nfaulthandler._stack_overflow()", "killed exception"),
}  # fmt: skip

BURDEN: dict[str, tuple[str, str]] = {
    # time
    "loop": ("while True: pass", "timeout"),
    "sleep": ("import time\ntime.sleep(1000)", "timeout"),
    "a power without end": ("n_ = 9\nn_ ** n_ ** n_", "timeout memory"),
    "catastrophic regex": ("import re\nre.match('(a+)+$', 'a' * 50 + 'b')", "timeout"),
    "sum in C": ("sum(iter(lambda: 1, 0))", "timeout"),
    "ignore signals": ("import signal\nfor n_ in (1, 2, 3, 14, 15, 24):\n    signal.signal(n_, signal.SIG_IGN)\n"
     "while True: pass", "timeout"),
    "catch everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout"),
    # memory
    "list": ("x_ = []\nwhile True: x_.append(bytes(1 << 20))", "memory timeout"),
    "bytes": ("bytes(2 << 30)", "memory"),
    "huge int": ("1 << (1 << 40)", "memory"),
    "string repeat": ("'ab' * (1 << 40)", "memory"),
    "mmap": ("import mmap\nmmap.mmap(-1, 1 << 40)", "exception forbidden"),
    # the stack
    "recursion": ("def g_(): g_()\ng_()", "exception"),
    "recursion without limit": ("import sys\nsys.setrecursionlimit(10 ** 9)\ndef g_(): g_()\n"
     "g_()", "killed memory exception timeout"),
    "recursion in C": ("import sys\nsys.setrecursionlimit(10 ** 9)\nclass G_:\n"
     "    def __getattr__(self, n): return getattr(self, n + 'x')\nG_().x", "killed memory exception timeout"),
    # output
    "stdout": ("while True: print('spam' * 1000)", "output"),
    "stderr": ("import sys\nwhile True: sys.stderr.write('spam' * 1000)", "output"),
    "descriptor 1": ("import os\nwhile True: os.write(1, bytes(1 << 16))", "output"),
    # ends
    "os._exit(0)": ("import os\nos._exit(0)", "killed"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "exception"),
    "SystemExit": ("raise SystemExit(0)", "exception"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "exception"),
    "close everything": ("import os\nos.closerange(0, 1000)", "killed"),
    "write everywhere": ("import os\nfor n_ in range(20):\n    try: os.write(n_, b'passed' * 99)\n"
     "    except OSError: pass", "killed output"),
    "an exception without a name": ("class E(BaseException):\n    def __str__(self): raise self\nraise E", "exception"),
    "input": ("input()", "exception"),
    # nothing wrong
    "exit at the end": ("import atexit, os\natexit.register(os._exit, 1)", ""),
    "junk in the output": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe passed')\n"
     "print('\\ud800'.encode('utf-8', 'replace'))", ""),
    "empty surroundings": ("import os, sys\nassert not os.environ and sys.stdin.read() == ''", ""),
    "close stdout": ("import sys\nsys.stdout.close()", ""),
}  # fmt: skip

CHEATS: dict[str, tuple[str, str]] = {
    "equal to everything": ("class Any:\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
     "def f(x): return Any()", "assertion"),
    "an int equal to everything": ("class I(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\n"
     "def f(x): return I(0)", "assertion"),
    "a list equal to everything": ("class L(list):\n    __eq__ = lambda s, o: True\ndef f(x): return L()", "assertion"),
    "another class": ("class C:\n    __class__ = property(lambda s: int)\n    __eq__ = lambda s, o: True\n"
     "def f(x): return C()", "assertion exception killed"),
    "a class of its own for int": ("import builtins\nbuiltins.int = type('int', (), {'__eq__': lambda s, o: True})\n"
     "def f(x): return int()", "assertion exception killed"),
    "no AssertionError": ("import builtins\nbuiltins.AssertionError = StopIteration\n"
     "builtins.isinstance = lambda *a: True\ndef f(x): return 0", "assertion exception killed"),
    "patched judge": ("import sys\nfor m in list(sys.modules.values()):\n"
     "    if 'judge' in getattr(m, '__name__', ''):\n        m._run = lambda *a: ('', '')\n"
     "def f(x): return 0", "assertion"),
    "patched json": ("import json\njson.dumps = lambda *a, **k: '[0, \"\", \"\"]'\n"
     "json.loads = lambda *a, **k: True\ndef f(x): return 0", "assertion killed exception"),
    "print passed": ("def f(x):\n    print('passed'); print('[0, \"\", \"\"]')\n    return 0", "assertion"),
    "exit 0 in the call": ("import os\ndef f(x): os._exit(0)", "killed"),
    "SystemExit in the call": ("def f(x): raise SystemExit(0)", "exception"),
    "StopIteration in the call": ("def f(x): raise StopIteration(x * x)", "exception"),
    "GeneratorExit in the call": ("def f(x): raise GeneratorExit", "exception"),
    "AssertionError in the call": ("def f(x): raise AssertionError", "assertion exception"),
    "report on the pipe": ("import os, struct\nd = b'[0, \"\", \"\"]'\nfor n in (3, 4):\n"
     "    try: os.write(n, (struct.pack('!I', len(d)) + d) * 5)\n    except OSError: pass\n"
     "def f(x): return 0", "killed"),
    "replies in advance": ("import os, struct\nd = b'{\"loaded\": true}'\n"
     "os.write(4, (struct.pack('!I', len(d)) + d) * 9)\ndef f(x): return 0", "killed assertion"),
    "reads frames": ("import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
     "        for v in list(frame.f_globals.values()) + list(frame.f_locals.values()):\n"
     "            if isinstance(v, str) and 'assert f' in v and 'def' not in v: return eval(v.split('==')[1])\n"
     "        frame = frame.f_back\n    return 'nothing found'", "assertion"),
    "searches memory": ("import gc\ndef f(x):\n    for o in gc.get_objects():\n"
     "        for v in (o.values() if type(o) is dict else o if type(o) in (list, tuple) else ()):\n"
     "            if type(v) is str and 'assert f(' + str(x) in v: return eval(v.split('==')[1])\n"
     "    return 'nothing found'", "assertion timeout"),
    "tracing": ("import sys\ndef t(frame, event, arg):\n    frame.f_trace_opcodes = True\n    return t\n"
     "sys.settrace(t)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0", "assertion"),
    "__debug__": ("import builtins\nbuiltins.__dict__['__debug__'] = False\ndef f(x):\n    assert False\n"
     "    return 0", "assertion exception"),
    "a generator for ever": ("import itertools\ndef f(x): return itertools.count()", "assertion"),
    "a coroutine": ("async def f(x): return x * x", "assertion"),
    "too long a result": ("def f(x): return 'a' * (1 << 22)", "output"),
    "too deep a result": ("def f(x):\n    r = []\n    for _ in range(10 ** 5): r = [r]\n"
     "    return r", "exception killed"),
    "a result within itself": ("def f(x):\n    r = []\n    r.append(r)\n    return r", "exception"),
    "no function": ("f = 5", "exception"),
    "another name": ("def g(x): return x * x", "exception"),
    "numbers for text": ("def f(x): return str(x * x)", "assertion"),
}  # fmt: skip

# What breaks or burdens the compiler; `syntax` if it says so itself, otherwise its process ended
NESTS: dict[str, tuple[str, str]] = {
    "brackets": ("x_ = " + "(" * 100_000 + ")" * 100_000, "syntax memory killed timeout"),
    "lists": ("x_ = " + "[" * 300 + "]" * 300, "syntax memory killed timeout"),
    "signs": ("x_ = " + "-" * 200_000 + "1", "syntax memory killed timeout"),
    "attributes": ("x_ = lambda y: y" + ".z" * 200_000, "syntax memory killed timeout"),
    "a long sum": ("x_ = lambda y: " + "y + " * 100_000 + "1", "syntax memory killed timeout"),
    "blocks": ("\n".join(" " * depth + "if 1:" for depth in range(120)), "syntax"),
    "a null byte": ("x_ = '\0'", "syntax"),
    "a lone surrogate": ("x_ = '\ud800'", "syntax exception"),
    "no end": ("def f(x", "syntax"),
}


@dataclass(frozen=True)
class Hostile:
    """A program, its kind, and the reasons of which its outcome must give one ("": it must pass)."""

    kind: str
    source: str
    reasons: tuple[str, ...]

    def allows(self, outcome: Outcome) -> bool:
        return outcome.reason in self.reasons and outcome.passed == (not outcome.reason)


KINDS = (*HARM, *BURDEN, *CHEATS, *NESTS)


def program(kind: str, mark: str, victim: Path, inside: bool = False, swallow: bool = False) -> Hostile:
    """The program of that kind. Of statements: `inside` the function, or before it; `swallow`: in a try that hides
    what they raise, after which the right result is returned."""
    if kind in CHEATS:
        text, reasons = CHEATS[kind]
        return Hostile(kind, text, tuple(reasons.split()))
    if kind in NESTS:
        text, reasons = NESTS[kind]
        return Hostile(kind, f"{text}\n{RIGHT}", tuple(reasons.split()))
    text, reasons = (HARM | BURDEN)[kind]
    text = text.replace("MARK", mark).replace("VICTIM", str(victim))
    allowed = tuple(reasons.split()) or ("",)
    if swallow:
        text = f"try:\n{indent(text, '    ')}\nexcept BaseException:\n    pass"
        allowed = (*allowed, "")
    source = f"def f(x):\n{indent(text, '    ')}\n    return x * x\n" if inside else f"{text}\n{RIGHT}"
    return Hostile(kind, dedent(source), allowed)


def ordinary(rng: random.Random) -> Hostile:
    """A right or a wrong program without tricks."""
    texts = {
        "def f(x):\n    return x * x": "",
        "def f(x):\n    return sum(x for _ in range(abs(x)))": "",
        "f = lambda x: x ** 2": "",
        "import math\nclass F:\n    def __call__(self, x): return math.prod([x, x])\nf = F()": "",
        "def f(x):\n    return x + x": "assertion",
        "def f(x):\n    return 4": "assertion",
        "def f(x):\n    return [][x]": "exception",
        "def f(x):\n    print(x * x)": "assertion",
    }
    text = rng.choice(list(texts))
    return Hostile("ordinary, right" if not texts[text] else "ordinary, wrong", text, (texts[text],))


@dataclass(frozen=True)
class Victim:
    """A folder with a file that anybody may change, so that only the sandbox keeps a program from it."""

    folder: Path

    def changed(self) -> bool:
        """Whether anything in it is not as it was."""
        file = self.folder / "victim"
        if [entry.name for entry in self.folder.iterdir()] != ["victim"]:
            return True
        return file.read_text() != "victim" or stat.S_IMODE(file.stat().st_mode) != 0o666 or file.stat().st_mtime == 0


def victim_folder(folder: Path) -> Victim:
    folder.chmod(0o777)
    (folder / "victim").write_text("victim")
    (folder / "victim").chmod(0o666)
    return Victim(folder)


def strays(mark: str) -> set[str]:
    """Files whose names begin with a mark, wherever programs may try to write."""
    places = (Path(), Path.home(), Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"), Path("/"))
    return {str(entry) for place in places if place.is_dir() for entry in place.glob(f"{mark}*")}


def left_processes(sandbox: Sandbox) -> list[int]:
    """Processes, besides the sandbox's keepers, that are below one of them or carry its command line."""
    keepers = {keeper._process.pid: keeper._folder for keeper in sandbox._idle.queue if keeper}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in keepers:
            try:
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                command = (entry / "cmdline").read_text()
            except OSError:  # it has just ended
                continue
            if parent in keepers or any(folder in command for folder in keepers.values()):
                found.append(int(entry.name))
    return found
