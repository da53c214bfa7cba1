# SPDX-License-Identifier: MIT
"""A machine's way from one worker to another, by the workers' own verbs and socket pairs between them.

    with Handover(source.control, target.control, streams=2, options={"downtime-ns": 10_000_000}) as h:
        h.commit()
        print(h.progress[-1]["downtime-ns"])

The target is a worker that was started with `trapeze run … --incoming` and the source's description.
"""
import array
import json
import select
import socket
import struct
import tempfile
import time

import machine


class Control:
    """A worker's control socket; descriptors may go along with a request."""

    def __init__(self, path, patience=machine.LIMIT_S):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end = time.monotonic() + patience
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < end, path
                time.sleep(0.01)
        greeting = self.read()
        assert greeting["trapeze"] == "worker"
        self.pid = greeting["pid"]

    def read(self):
        def exactly(count):
            data = b""
            while len(data) < count:
                more = self.socket.recv(count - len(data))
                assert more, "the worker has hung up"
                data += more
            return data
        return json.loads(exactly(struct.unpack("<I", exactly(4))[0]))

    def ask(self, verb, arguments=None, fds=()):
        text = json.dumps({"id": 1, "verb": verb, "arguments": arguments or {}}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("<I", len(text)) + text], rights)
        while True:
            answer = self.read()
            if "event" not in answer:
                return answer

    def close(self):
        self.socket.close()


def begin(path, verb, arguments, fds):
    """Until the machine is built: who started it does not know when."""
    control = Control(path)
    while True:
        answer = control.ask(verb, arguments, fds)
        if "not built yet" not in answer.get("error", ""):
            break
        time.sleep(0.01)
    control.close()
    assert "error" not in answer, answer["error"]


class Handover:
    def __init__(self, source, target, streams=2, options=None, connect=socket.socketpair):
        self.progress = []
        self.said = {"source": [], "target": []}  # what else they said
        self.record = tempfile.TemporaryFile()
        self.talks = {}
        pairs = [connect() for _ in range(streams)]
        ends = {}
        for side in "source", "target":
            self.talks[side], ends[side] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        same = {key: value for key, value in (options or {}).items() if key == "disks"}
        begin(target, "incoming", same, [ends["target"].fileno(), self.record.fileno(),
                                       *(pair[1].fileno() for pair in pairs)])
        begin(source, "migrate", options or {},
              [ends["source"].fileno(), *(pair[0].fileno() for pair in pairs)])
        for end in *ends.values(), *(end for pair in pairs for end in pair):
            end.close()

    def recover(self, source, target, streams=2, connect=socket.socketpair):
        """New streams for a post-copy that has lost its own."""
        for side, path in ("source", source), ("target", target):
            self.talks[side].close()
            self.talks[side], end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pairs = [connect() for _ in range(streams)] if side == "source" else pairs
            begin(path, "migrate-recover", {},
                  [end.fileno(), *(pair[side == "target"].fileno() for pair in pairs)])
            end.close()
        for end in (end for pair in pairs for end in pair):
            end.close()

    def say(self, side, what):
        self.talks[side].send(json.dumps({"do": what}).encode())

    def taken(self):
        """Whether the target has noted that the machine is its, before it ran it."""
        self.record.seek(0)
        return self.record.read() == b"here"

    def wait(self, side, *events):
        """Until `side` says one of these; what it said."""
        end = time.monotonic() + machine.LIMIT_S
        while True:
            talk = self.talks[side]
            assert select.select([talk], [], [], end - time.monotonic())[0], (events, self.said)
            event = self.heard(side, 0)
            assert event != "hung up", f"the {side} has hung up: {self.said}"
            if event in events:
                return self.said[side][-1]

    def heard(self, side, seconds):
        """The next event of a side, if one comes soon; what is progress is kept as by wait()."""
        talk = self.talks[side]
        if not select.select([talk], [], [], seconds)[0]:
            return None
        data = talk.recv(65536)
        said = json.loads(data) if data else {"event": "hung up"}
        (self.progress if said["event"] == "progress" and side == "source" else self.said[side]).append(said)
        return said["event"]

    def over(self, side):
        """Whether it has said how it ended, or will not say anything any more."""
        return any(said["event"] in ("done", "failed", "uncertain", "hung up") for said in self.said[side])

    def commit(self):
        """The whole way: it runs there."""
        said = self.wait("source", "commit?", "failed")
        assert said["event"] == "commit?", said
        self.say("source", "commit")
        said = self.wait("source", "done", "failed", "uncertain")
        assert said["event"] == "done", said
        self.wait("target", "done")
        assert self.taken()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for talk in self.talks.values():
            talk.close()
        self.record.close()
