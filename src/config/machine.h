/* SPDX-License-Identifier: MIT
 *
 * The description of one virtual machine: what a user asked for, independent of how it is
 * built. It crosses from the CLI to the worker as text in the .vmx format
 * (config/vmx.h): `key = "value"` lines, VMware's own key names where they exist
 * (memsize, numvcpus, displayName, scsi0:0.fileName, ethernet0.connectionType), `trapeze.*`
 * otherwise.
 *
 * Ownership: the struct owns every string; machine_config_clear() frees them.
 */
#ifndef TRAPEZE_CONFIG_MACHINE_H
#define TRAPEZE_CONFIG_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define MACHINE_MAX_CPUS 8
#define MACHINE_MAX_CPU_WEIGHT 10000
#define MACHINE_MAX_CPU_CAP    100000 /* percent of one CPU */
#define MACHINE_MAX_QUEUES MACHINE_MAX_CPUS /* of a disk, pairs of a NIC */
#define MACHINE_MAX_DISKS 16
#define MACHINE_MIN_MEMORY (UINT64_C(32) << 20) /* bytes */
#define MACHINE_MAX_MEMORY (UINT64_C(256) << 30)
#define MACHINE_MIN_CODE_CACHE (UINT64_C(256) << 10) /* bytes */
#define MACHINE_MAX_CODE_CACHE (UINT64_C(1) << 30)  /* jumps reach 2 GiB */
#define MACHINE_MAX_APPEND 65536 /* bytes; the device tree has room for it */

struct machine_disk {
    unsigned slot; /* where a .vmx has it (vmx.c); 0: nowhere yet */
    char *path;    /* or an NBD URI */
    bool read_only;
    char *format;  /* NULL: by what it begins with (block/image.h) */
    char *serial;  /* NULL: none */
    char *backing; /* of an instance's: the file that it lies upon (daemon/backing.h); or NULL */
    unsigned bus;    /* enum machine_disk_bus */
    unsigned media;  /* 0: a disk; 1: an optical drive; its path may then be "" (empty) */
    char *address; /* on a bus of several drives; NULL: the next free one */
    unsigned cache;   /* enum machine_disk_cache */
    unsigned discard; /* 0: a guest's discards give space back; 1: they do nothing */
    unsigned werror, rerror; /* enum machine_disk_error */
    uint64_t iops, bps;      /* limits per second; 0: none */
    uint64_t reconnect;      /* NBD: seconds that a lost connection may take to come back */
    uint64_t queues;         /* for requests; 0: the machine chooses */
};

enum machine_disk_bus {
    MACHINE_BUS_AUTO, /* virtio, or scsi for an optical drive */
    MACHINE_BUS_VIRTIO,
    MACHINE_BUS_SCSI, /* virtio-scsi */
    MACHINE_BUS_AHCI
};
enum machine_disk_cache {
    MACHINE_CACHE_WRITEBACK,
    MACHINE_CACHE_NONE,
    MACHINE_CACHE_UNSAFE
};
/* What an I/O error does: tells the guest, or stops the machine (ENOSPC: when space ran out). */
enum machine_disk_error { MACHINE_ERROR_ENOSPC, MACHINE_ERROR_REPORT, MACHINE_ERROR_STOP };
#define MACHINE_DISK_RECONNECT 30 /* seconds, unless told otherwise */

void machine_disk_init(struct machine_disk *disk); /* defaults, no path */
void machine_disk_copy(struct machine_disk *to, const struct machine_disk *from);
void machine_disk_clear(struct machine_disk *disk);
bool machine_disk_check(const struct machine_disk *disk, struct error **err);
enum machine_disk_bus machine_disk_bus(const struct machine_disk *disk); /* not AUTO */
/* One property by its name ("cache") and as text. */
bool machine_disk_set(struct machine_disk *disk, const char *name, const char *value,
                      struct error **err);
/* Property `index` of machine_disk_property_count() as text; NULL: it has its default. */
const char *machine_disk_get(const struct machine_disk *disk, size_t index, char buffer[24],
                             const char **name);
size_t machine_disk_property_count(void);
#define MACHINE_MAX_NICS 8

/* What a NIC is connected to; VMware's names, for what they mean there. */
enum machine_net {
    MACHINE_NET_NAT,      /* the host's networks, through NAT */
    /* No way out. This host reaches the guest by forwarded ports or, if `vnet` is "ADDRESS/LENGTH",
     * by an interface that has that address. */
    MACHINE_NET_HOSTONLY,
    MACHINE_NET_BRIDGED,  /* the host's bridge `vnet` */
    MACHINE_NET_CUSTOM    /* `vnet` is "internal:NAME" or "tap:INTERFACE" */
};

struct machine_nic {
    unsigned slot; /* as of a disk */
    enum machine_net net;
    char *vnet;
    char *model;    /* "virtio" or "e1000"; NULL: virtio */
    char *mac;      /* "02:..."; NULL: one is made up */
    unsigned mtu;   /* 0: 1500 */
    unsigned vlan;  /* of an internal network; 0: none */
    unsigned queues; /* pairs; 0: the machine chooses */
    uint64_t rate;  /* kbit/s of each direction; 0: no limit */
    char *capture;  /* a file for its frames; NULL: none */
    char *forward;  /* "tcp:2222:22 udp:...", NAT and host-only; NULL: none */
    bool host_loopback; /* of NAT: 10.0.2.2 leads to what listens on this host's 127.0.0.1 */
};

/* Of a vsock's socket: names of the guest's ports are added to it. */
#define MACHINE_MAX_VSOCK_PATH 96 /* bytes */

#define MACHINE_MAX_PCI_SLOTS 8 /* for hot-plug */

#define MACHINE_MAX_SHARES 8
#define MACHINE_MAX_TAG    31 /* bytes */

/* A folder of the host that the guest can mount. */
struct machine_share {
    unsigned slot; /* as of a disk */
    char *path;
    char *tag;
    bool writable;
};

/* Where the console goes if nobody says otherwise; VMware's names for a serial port's end. */
enum machine_serial { MACHINE_SERIAL_TERMINAL, MACHINE_SERIAL_FILE, MACHINE_SERIAL_PIPE };

/* When a daemon starts a machine again that has ended. */
enum machine_restart { MACHINE_RESTART_NO, MACHINE_RESTART_ON_FAILURE, MACHINE_RESTART_ALWAYS };

/* What virtio devices are plugged into. */
enum machine_virtio { MACHINE_VIRTIO_PCI, MACHINE_VIRTIO_MMIO };

enum machine_ram_backend { MACHINE_RAM_ANONYMOUS, MACHINE_RAM_MEMFD };

struct machine_config {
    char *name;         /* displayName; NULL: none */
    char *owner;        /* who made it, a user's name; NULL: not said */
    char *guest_os;     /* guestOS, VMware's word for what runs there; NULL: not said */
    char *arch;         /* of machine_has_arch() */
    char *engine;       /* "interp", "dbt", "kvm", "auto": the fastest that works here */
    char *cpu;          /* of x86_64 guests: MODEL[,FEATURE=on|off]..., as --cpu; NULL: the host's */
    uint64_t code_cache; /* bytes of translations, of each vCPU, KiB multiple; 0: the default */
    char *host_features; /* what translations may use, as --host-cpu-features; NULL: everything */
    char *interrupts;   /* "plic", "aia" (APLIC and IMSIC), "auto": what the kernel can use */
    bool count_blocks;   /* translations count how often they run */
    char *trace;         /* as --trace; NULL: nothing */
    char *perf;          /* as --perf; NULL: no */
    uint64_t memory;    /* bytes, MiB multiple */
    unsigned cpus;      /* that run from the start on: 1..MACHINE_MAX_CPUS */
    unsigned max_cpus;  /* that the machine has, and its guest can switch on; 0: as many */
    char *kernel;       /* paths; NULL: none */
    char *initrd;
    char *append;
    char *firmware;     /* M-mode firmware or bare-metal ELF; NULL: the VMM is the SBI */
    struct machine_disk disks[MACHINE_MAX_DISKS];
    size_t disk_count;
    struct machine_nic nics[MACHINE_MAX_NICS];
    size_t nic_count;
    struct machine_share shares[MACHINE_MAX_SHARES];
    size_t share_count;
    unsigned pci_slots; /* PCIe root ports with a slot each, for NICs that come and go */
    unsigned vsock_cid; /* the guest's address; 0: no vsock */
    char *vsock_socket; /* path of the unix socket that leads to the guest; NULL: an instance's own */
    bool no_reboot;
    bool deterministic; /* virtual time from retired instructions, one thread, seeded entropy */
    uint64_t seed;      /* of entropy in deterministic mode */
    enum machine_ram_backend ram_backend;
    enum machine_virtio virtio;
    bool keyboard;      /* with Ctrl, Alt and Del, where boards have a place for one (x86-64) */
    bool boot_timer;    /* a register by which the guest says that it has booted */
    unsigned cpu_weight;   /* 1..10000, its part of CPUs that machines share; 0: not given */
    unsigned cpu_cap;      /* percent of one CPU; 0: none */
    bool balloon;          /* a virtio balloon */
    bool balloon_keeps;    /* which a guest that runs out of memory takes nothing from by itself */
    uint64_t balloon_size; /* bytes that the guest keeps at first; 0: all */
    enum machine_serial serial;
    char *serial_path;   /* a file, or a unix socket (PIPE) */
    bool virtio_console; /* the console is hvc0 (virtio) instead of ttyS0 (UART) */
    bool autostart;     /* a daemon starts it with the host */
    enum machine_restart restart;
    unsigned restart_tries; /* in a row; 0: no limit */
    char *dump_fdt;     /* write the device tree to this file and go on; NULL: no */
    char *parent;       /* the template whose files this instance's lie upon; NULL: none */
    unsigned snapshot;  /* of an instance: the one that it goes on from (daemon/snapshot.h); 0: none */
    char *expires;      /* as machine_parse_time() takes it; NULL: never */
};

/* Guest architectures that there is a board for: "riscv64", "x86_64". */
bool machine_has_arch(const char *arch);

/* Defaults: riscv64, auto, 512 MiB, 1 CPU. */
void machine_config_init(struct machine_config *config);
void machine_config_clear(struct machine_config *config);
void machine_config_copy(struct machine_config *to, const struct machine_config *from);

/* How many vCPUs it has, those included that do not run yet. */
unsigned machine_max_cpus(const struct machine_config *config);

/* "2026-12-24T18:00:00Z" or "2026-12-24", which begins at midnight: seconds since 1970. */
bool machine_parse_time(const char *text, int64_t *seconds);
/* The same, or how long from `now`: "12h", "30d", "8w". */
bool machine_parse_expiry(const char *text, int64_t now, int64_t *seconds);
void machine_print_time(int64_t seconds, char text[24]);

void machine_nic_clear(struct machine_nic *nic);
/* Copies the strings too. */
void machine_nic_copy(struct machine_nic *to, const struct machine_nic *from);
/* `number` is for messages. */
bool machine_nic_check(const struct machine_nic *nic, size_t number, struct error **err);

/* Six bytes of "02:00:5e:10:00:01", a single station's. */
bool machine_parse_mac(const char *text, uint8_t mac[6]);

/* "192.168.77.1/24": a host's address and its network's mask of 8 to 26 bits. */
bool machine_parse_network(const char *text, char address[16], unsigned *length);

/* An address of our own making, "02:...": always the same for a name and an index, or a random one
 * for no name. False: err. */
bool machine_make_mac(const char *name, size_t index, char text[18], struct error **err);

/* Checks what can be checked without opening a file: ranges, contradictions. */
bool machine_config_check(const struct machine_config *config, struct error **err);
/* The same of a machine that may have nothing to run yet. */
bool machine_config_check_parts(const struct machine_config *config, struct error **err);

#endif
