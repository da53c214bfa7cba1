# SPDX-License-Identifier: MIT
#
# A thin front of Meson: everything real is in meson.build and scripts/.

PREFIX ?= /usr/local
MAKEFLAGS += --no-print-directory

.PHONY: all run test test-all bench install clean help

all: ## build build/trapeze (release, with debug information)
	@scripts/configure.sh build
	@ninja -C build

run: ## install what is needed, build, and boot Debian in a virtual machine
	@scripts/install-packages.sh run
	@$(MAKE) all
	@if [ -t 0 ]; then exec build/trapeze run --image debian; \
	else exec scripts/run-unattended.py build/trapeze --image debian; fi

test: ## install what tests need, build, run the quick tier of all tests
	@scripts/install-packages.sh test
	@scripts/test.sh quick

test-all: ## the same with full counts; takes long
	@scripts/install-packages.sh test
	@scripts/test.sh full

bench: ## compare with QEMU and with no machine at all; ARGS="--quick" is shorter, --help lists more
	@scripts/install-packages.sh bench
	@$(MAKE) all
	@ninja -C build bench/guest-host bench/guest-riscv64
	@bench/bench.py $(ARGS)

install: all ## install into PREFIX (/usr/local); DESTDIR is respected
	@meson configure build --prefix $(PREFIX)
	@meson install -C build

clean: ## remove all build directories
	rm -rf build build-asan

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
