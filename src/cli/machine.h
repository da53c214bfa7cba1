/* SPDX-License-Identifier: MIT
 *
 * What `trapeze run` and `trapeze create` share: options as rows for their tables, and the
 * machine's description that they lead to.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLI_MACHINE_H
#define TRAPEZE_CLI_MACHINE_H

#include "cli/cli.h"
#include "client/image.h"
#include "client/saved.h"
#include "client/worker.h"
#include "config/machine.h"

#define CLI_WHAT_OPTIONS                                                                           \
    {"image", 'i', "NAME",                                                                         \
     "Boot the guest image NAME: 'debian' (a Debian 13 system; the first run builds it) or "       \
     "'tiny' "                                                                                     \
     "(kernel and busybox). The machine gets a private copy of the image's disk; that of 'run' "   \
     "is "                                                                                         \
     "gone afterwards.",                                                                           \
     "What to run"},                                                                               \
        {"arch", 0, "ARCH",                                                                        \
         "The guest's architecture: 'riscv64' (default), or 'x86_64' on a host with KVM. With "     \
         "--image it is the image's, and 'x86_64' chooses the one for it.",                        \
         NULL},                                                                                    \
        {"kernel", 'k', "FILE",                                                                    \
         "Boot a Linux kernel (RISC-V Image format or ELF; x86_64: bzImage, or ELF with a PVH entry). Trapeze itself is a riscv64 guest's SBI "    \
         "firmware then, unless --firmware names another.",                                        \
         NULL},                                                                                    \
        {"initrd", 0, "FILE", "Initial RAM disk for the kernel.", NULL},                           \
        {"append", 'a', "STR",                                                                     \
         "Kernel command line. With --image it is added to the image's own. Default for "          \
         "--kernel: "                                                                              \
         "'console=ttyS0'.",                                                                       \
         NULL},                                                                                    \
    {                                                                                              \
        "firmware", 0, "FILE",                                                                     \
            "M-mode firmware such as OpenSBI (it then starts the kernel), or a bare-metal ELF "    \
            "program, "                                                                            \
            "whose exit code becomes trapeze's exit status. x86_64: an image for QEMU's pc, such " \
            "as Debian's OVMF (/usr/share/OVMF/OVMF_CODE_4M.fd), which starts the kernel if one "  \
            "is named, and otherwise what is on the disks; an instance keeps its variables. "      \
            "SeaBIOS (/usr/share/seabios/bios-256k.bin) starts disks alone.",                      \
            NULL                                                                                   \
    }

#define CLI_SIZE_OPTIONS                                                                           \
    {"memory", 'm', "SIZE", "Guest memory, e.g. 512M or 2G; a bare number is MiB. Default: 512M.", \
     "The machine"},                                                                               \
        {"cpus", 'c', "N", "Number of vCPUs, 1 to 8. Default: 1.", NULL},                          \
        {"max-cpus", 0, "N",                                                                       \
         "How many vCPUs the machine has room for; its guest starts with those of --cpus and can " \
         "switch the others on and off (trapeze set NAME cpus=N). Default: as many as --cpus.",    \
         NULL},                                                                                    \
        {"cpu", 0, "MODEL[,FEATURE=on|off...]",                                                    \
         "What an x86_64 guest is told that its processor is: 'host' (default), all that this "    \
         "host has, or a model that other hosts have as well, so that the guest can migrate "      \
         "between them while it runs: a level such as x86-64-v3, or a name such as EPYC-Rome or "  \
         "Skylake-Server ('trapeze host' lists those that this host has). Features have the names " \
         "that Linux gives them; those that a host does not have are refused, unless enforce=off " \
         "leaves them out. vmx=on or svm=on lets the guest run guests of its own (it is then not " \
         "saved or migrated), pmu=on gives it performance counters, smt=on makes two vCPUs each "  \
         "threads of a core.",                                                                     \
         NULL},                                                                                    \
    {                                                                                              \
        "disk", 'd', "FILE[,NAME=VALUE...]",                                                       \
            "Attach FILE, or nbd://HOST/EXPORT, as a virtio disk; may be given several times "     \
            "(vda, vdb, "                                                                          \
            "...). The guest writes to the file itself. A comma in a file name is written twice. " \
            "What may "                                                                            \
            "follow:\n"                                                                            \
            "readonly: nothing is ever written to it.\n"                                           \
            "format=raw|fixed|qcow2: say it, rather than have the first bytes looked at; see "     \
            "'trapeze "                                                                            \
            "disk'.\n"                                                                             \
            "serial=TEXT: up to 20 bytes that the guest can read.\n"                               \
            "bus=virtio|scsi|ahci: a virtio disk of its own (the default; vda ...), or one (sda "   \
            "...) on the machine's virtio SCSI adapter, which takes and gives up disks while the " \
            "guest runs, or on its AHCI controller, for guests without virtio drivers.\n"          \
            "address=TARGET[:LUN] (scsi) or PORT (ahci): where on it; by default the next free "   \
            "place.\n"                                                                             \
            "media=cdrom: an optical drive, see --cdrom.\n"                                        \
            "cache=writeback|none|unsafe: with the host's cache, without it (O_DIRECT), or with "  \
            "flushes "                                                                             \
            "ignored.\n"                                                                           \
            "werror=, rerror=enospc|report|stop: when writing or reading fails, tell the guest "   \
            "(report) or "                                                                         \
            "pause the machine until 'resume' (stop); enospc, the default, pauses if the host "    \
            "has no space "                                                                        \
            "left.\n"                                                                              \
            "iops=N, bps=SIZE: limits per second.\n"                                               \
            "discard=on|off: whether what the guest discards gives space back.\n"                  \
            "reconnect=SECONDS: how long a lost NBD server is waited for before requests fail; "   \
            "30.\n"                                                                                \
            "queues=N: queues for requests, 1 to 8; unless given one for each vCPU, or a single "  \
            "one if the interrupt controller has no messages (--interrupts plic).",                \
            NULL                                                                                   \
    }, \
    {                                                                                              \
        "cdrom", 0, "FILE[,NAME=VALUE...]",                                                        \
            "An optical drive with the disc in FILE (an ISO image), or empty if FILE is 'none'; "  \
            "on the SCSI adapter, or with bus=ahci a SATA drive. The control verbs 'eject' and "   \
            "'insert' change the disc. The same as --disk FILE,media=cdrom.",                      \
            NULL                                                                                   \
    }

/* What 'trapeze set' can change, too. */
#define CLI_LIMIT_OPTIONS                                                                          \
    {"cpu-weight", 0, "N",                                                                         \
     "The machine's part of CPUs that several of your machines want at once, 1 to 10000; 100 for " \
     "those without. Who does not want all of its part leaves it to the others.",                  \
     "Limits"},                                                                                    \
    {"cpu-cap", 0, "PERCENT",                                                                      \
     "How much of one CPU the machine uses at most; 150 is one and a half.", NULL},                \
    {                                                                                              \
        "balloon", 0, "[=SIZE]",                                                                   \
            "Give the guest a memory balloon: memory that it does not use goes back to the host "  \
            "by itself, and the control verb 'balloon' takes more. With SIZE, the guest keeps "    \
            "that much from the start.",                                                           \
            NULL                                                                                   \
    }

#define CLI_SEED_OPTIONS                                                                           \
    {"ssh-key", 0, "FILE",                                                                         \
     "Let who has the secret key to the public key in FILE log in by ssh: it goes to the guest "   \
     "in "                                                                                         \
     "a NoCloud seed, a small disk that cloud-init and our images read. May be given several "     \
     "times.",                                                                                     \
     "First boot"},                                                                                \
        {"hostname", 0, "NAME", "The guest's host name, in the same seed.", NULL},                 \
    {                                                                                              \
        "user-data", 0, "FILE",                                                                    \
            "The seed's user-data as it is (#cloud-config or a script), instead of these two.",    \
            NULL                                                                                   \
    }

/* What the options add up to. */
struct cli_machine {
    struct machine_config config;
    struct image_copy copy; /* of the image's disk, for a run */
    struct saved_image saved; /* of --resume; fd -1: none */
    char *image_disk;       /* the original, which `keep` puts among the disks */
    int seed;               /* the seed's disk, a descriptor; -1: none */
    bool keep;              /* the machine is to last: nothing is copied yet */
    const char *base;       /* a .vmx to start from; NULL: that of --vmx, if any */
};

/* `keep` and `base` are the caller's. `client` learns where the description has the console go; it may be NULL. False: err. */
bool cli_machine_configure(const struct cli_args *args, struct client_options *client,
                           struct cli_machine *machine, struct error **err);
void cli_machine_clear(struct cli_machine *machine);

#endif
