# SPDX-License-Identifier: MIT
"""How guest images are made; images/build is the entry point, images/README.md the contract."""
