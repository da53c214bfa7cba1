#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Python's own test suite in Debian (the debian-dev image has python3 and its tests): a subset that
tries a processor and a kernel hard and passes wherever Python works. Full tier only.

    python.py TRAPEZE [ENGINE]
"""
import os
import re
import sys

os.environ.setdefault("TRAPEZE_TEST_LIMIT_S", "9000")  # one command runs many modules
import tap  # noqa: E402
from machine import Debian, Shared, full_tier_image  # noqa: E402

TRAPEZE = os.path.abspath(sys.argv[1])
ENGINE = sys.argv[2] if len(sys.argv) > 2 else "auto"
MAIN = Shared(lambda: Debian(TRAPEZE, "--engine", ENGINE, "--image", "debian-dev", "--cpus", "2",
                             "--memory", "1536M"))

# Each group is one run of Python's test runner, two modules at a time.
GROUPS = {
    "numbers": """
        abstract_numbers augassign binop cmath complex decimal float format fractions hash int
        int_literal long math math_property numeric_tower pow random range statistics strtod
        unary""",
    "text": """
        bytes codeccallbacks codecs difflib fstring html re str string string_literals textwrap
        tokenize ucn unicodedata userstring""",
    "formats": """
        base64 binascii bz2 configparser csv gzip hashlib hmac json lzma marshal pickle
        pickletools plistlib quopri struct tarfile tomllib xml_etree xml_etree_c zipfile zlib""",
    "language": """
        ast bool builtin call class compare compile contextlib coroutines dataclasses descr dis
        enum exceptions except_star extcall funcattrs gc generators genexps grammar isinstance
        iter metaclass named_expressions opcache operator patma peepholer property raise scope
        super syntax sys_settrace types typing unpack with yield_from""",
}
# Modules of the suite that are not run, by the reason.
LEFT_OUT = {
    "for other systems": """
        _osx_support android apple devpoll kqueue launcher msvcrt osx_env startfile winapi
        winconsoleio winreg winsound wmi""",
    "want a terminal, a display, a locale or a library that the image has not": """
        _locale c_locale_coercion curses dbm dbm_gnu dbm_ndbm getpass idle locale openpty pyrepl
        readline repl syslog tcl termios tkinter ttk ttk_textonly tty turtle utf8_mode
        webbrowser""",
    "want a network, or servers and their time limits": """
        codecmaps_cn codecmaps_hk codecmaps_jp codecmaps_kr codecmaps_tw docxmlrpc ftplib
        httplib httpservers imaplib poplib robotparser smtplib smtpnet socket socketserver ssl
        timeout urllib urllib2 urllib2_localnet urllib2net urllib_response urllibnet wsgiref
        xmlrpc""",
    "want more memory or disk than the guest has": """
        bigaddrspace bigmem zipfile64""",
    "want Python's headers, source tree or build, a debugger, perf or pip": """
        asdl_parser capi cext clinic cppext dtrace embed ensurepip external_inspection
        free_threading frozen gdb generated_cases getpath peg_generator perf_profiler perfmaps
        regrtest script_helper stable_abi_ctypes sysconfig tools venv xxlimited xxtestfuzz""",
    "crash on purpose, or judge by time": """
        cprofile faulthandler file_eintr profile pstats resource timeit""",
    "like one that is taken, by other names": """
        codecencodings_cn codecencodings_hk codecencodings_iso2022 codecencodings_jp
        codecencodings_kr codecencodings_tw dbm_dumb dbm_sqlite3 dictcomps dict_version index
        longexp multibytecodec multiprocessing_forkserver multiprocessing_main_handling
        multiprocessing_spawn picklebuffer richcmp setcomps structseq unpack_ex""",
    "Python about Python: minutes more, and no instruction or system call that the others do not run": """
        __all__ _colorize _interpchannels _interpreters _opcode abc atexit audit baseexception
        bdb bufio calendar charmapcodec cmd cmd_line cmd_line_script code code_module codeop
        colorsys compileall compiler_assemble compiler_codegen contains copyreg decorators
        descrtut doctest dynamic dynamicclassattribute email eof errno exception_group
        exception_hierarchy exception_variations filecmp fileinput fileutils finalization flufl
        fnmatch frame future_stmt generator_stop genericalias genericclass genericpath getopt
        gettext glob global grp htmlparser http_cookiejar http_cookies import importlib inspect
        interpreters ioctl iterlen keyword keywordonlyarg linecache lltrace logging mailbox
        mimetypes minidom module modulefinder monitoring netrc ntpath opcodes optimizer optparse
        pdb pep646_syntax pkg pkgutil platform positional_only_arg posixpath pprint print
        pulldom pwd py_compile pyclbr pydoc pyexpat reprlib rlcompleter runpy sax secrets shelve
        shlex site source_encoding stat strftime stringprep subclassinit sundry support symtable
        sys sys_setprofile tabnanny trace traceback tracemalloc type_aliases type_annotations
        type_cache type_comments type_params typechecks unicode_file unicode_file_functions
        unicode_identifiers unittest univnewlines unparse urlparse utf8source warnings wave
        xml_dom_minicompat xml_dom_xmlbuilder zipapp zipimport zipimport_support""",
    "have not yet been run to their end here, so nothing is known of them": """
        argparse array asyncgen asyncio bisect buffer collections concurrent_futures context
        contextlib_async copy ctypes datetime defaultdict deque dict dictviews eintr enumerate
        epoll fcntl file fileio fork1 functools graphlib heapq io ipaddress itertools largefile
        list listcomps memoryio memoryview mmap multiprocessing_fork ordered_dict os pathlib
        poll popen posix pty queue sched select selectors set shutil signal slice sort sqlite3
        strptime subprocess tempfile thread threadedtempfile threading threading_local
        threadsignals time tuple userdict userlist uuid wait3 wait4 weakref weakset zoneinfo""",
}


def passes(name):
    modules = ["test_" + word for word in GROUPS[name].split()]
    full_tier_image("debian-dev", TRAPEZE)
    with MAIN.use() as debian:
        # Without core dumps and what waits for a network, a display or gigabytes.
        debian.send("python3 -m test -j2 -u none --timeout 3000 --slowest "
                    f"{' '.join(modules)} > log 2>&1 < /dev/null; echo ended=$? >> log\n")
        debian.shell()
        log = debian.run("cat log")
        for line in re.findall(r"^- (test_.*: .*)", log, re.M):
            print("#", line, flush=True)
        run = re.search(r"^Total test files: run=(\d+)/(\d+)(.*)", log, re.M)
        assert run and "\nended=0" in log and "Result: SUCCESS" in log, log[-6000:]
        # Some are packages, and count as what is in them.
        assert int(run[1]) == int(run[2]) >= len(modules), log[-6000:]
        print("#", run[0], flush=True)


def test_every_module_is_run_or_left_out_for_a_reason():
    full_tier_image("debian-dev", TRAPEZE)
    known = " ".join([*GROUPS.values(), *LEFT_OUT.values()]).split()
    with MAIN.use() as debian:
        files = debian.run("ls /usr/lib/python3.*/test | cat")
        there = re.findall(r"^test_(\w+?)(?:\.py)?$", files, re.M)
        assert sorted(known) == sorted(there), set(known) ^ set(there)


def make_test(name):
    def test():
        passes(name)
    test.__name__ = "test_" + name
    return test


sys.exit(tap.main([test_every_module_is_run_or_left_out_for_a_reason, *map(make_test, GROUPS)]))
