# SPDX-License-Identifier: MIT
"""Certificates for tests, each NAME.pem and NAME.key in a folder."""
import os
import subprocess

LIMIT_S = 300


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=LIMIT_S)


def make_authority(folder, name):
    path = os.path.join(folder, name)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", path + ".key", "-out", path + ".pem", "-days", "2", "-subj", f"/CN={name}")


def make_certificate(folder, name, authority, *extensions):
    path, authority = os.path.join(folder, name), os.path.join(folder, authority)
    with open(path + ".ext", "w", encoding="ascii") as file:
        file.write("\n".join(extensions) + "\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            path + ".key", "-out", path + ".csr", "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", path + ".csr", "-CA", authority + ".pem", "-CAkey",
            authority + ".key", "-CAcreateserial", "-days", "2", "-extfile", path + ".ext",
            "-out", path + ".pem")
    os.chmod(path + ".key", 0o600)
