# SPDX-License-Identifier: MIT
"""Raw disks to test with."""
import os
import random


def make_raw(folder, name, size, seed):
    """Data, zeros and holes in no order."""
    source = random.Random(seed)
    path = os.path.join(folder, name)
    with open(path, "wb") as out:
        out.truncate(size)
        for _ in range(40):
            out.seek(source.randrange(0, size // 512) * 512)
            length = min(source.choice([512, 4096, 70000 // 512 * 512, 300 * 1024]),
                         size - out.tell())
            out.write(source.randbytes(length) if source.random() < 0.8 else bytes(length))
    return path
