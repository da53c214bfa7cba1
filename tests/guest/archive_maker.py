# SPDX-License-Identifier: MIT
"""Archives of machines (src/archive/pack.h) by other software than ours, and spoiled ones."""
import hashlib
import io
import json
import tarfile


def store_zstd(data, run=0):
    """A zstd frame (RFC 8878) of blocks that are stored, and `run` zero bytes in blocks that
    repeat one."""
    out = bytearray(b"\x28\xb5\x2f\xfd\x00\x38")  # window of 128 KiB
    pieces = [data[at:at + 131072] for at in range(0, len(data), 131072)]
    for piece in pieces:
        out += (len(piece) << 3).to_bytes(3, "little") + piece
    for _ in range(run // 131072):
        out += (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return bytes(out + (1).to_bytes(3, "little"))


def extents_sum(data):
    return hashlib.sha256((f"0 {len(data)}\n" if data else "").encode() + data).hexdigest()


class Archive:
    """One of ours, by other software; members and manifest can be spoiled."""

    def __init__(self, text, files=()):
        self.text = text.encode()
        self.files = dict(files)
        self.manifest = {
            "trapeze-archive": 1, "name": "evil", "description": "evil.vmx",
            "files": [{"name": name, "size": len(data), "data": len(data)}
                      for name, data in self.files.items()],
            "notes": []}
        self.sums = {"evil.vmx": extents_sum(self.text),
                     **{name: extents_sum(data) for name, data in self.files.items()}}
        self.more = []  # (TarInfo, bytes) before the sums
        self.tail = b""
        self.run = 0

    def add(self, name, data, **row):
        """One more file."""
        self.files[name] = data
        self.manifest["files"].append({"name": name, "size": len(data), "data": len(data), **row})
        self.sums[name] = extents_sum(data)

    def write(self, path):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            def add(name, data, info=None):
                info = info or tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            add("manifest.json", self.manifest if isinstance(self.manifest, bytes)
                else json.dumps(self.manifest).encode())
            add("evil.vmx", self.text)
            for name, data in self.files.items():
                add(name, data)
            for info, data in self.more:
                add(None, data, info)
            add("sums.json", json.dumps(self.sums).encode())
        with open(path, "wb") as file:
            file.write(store_zstd(out.getvalue() + self.tail, self.run))
        return path


def member(name, kind=tarfile.REGTYPE, data=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data
