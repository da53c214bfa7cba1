/* SPDX-License-Identifier: MIT
 *
 * The .vmx format: what is written is read back equal; what is wrong is named with its line.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "config/nvram.h"
#include "config/suggest.h"
#include "config/text.h"
#include "config/vmx.h"

static void full_config(struct machine_config *config)
{
    machine_config_init(config);
    config->name = strdup("a \"quoted\" | name\twith tab");
    config->memory = UINT64_C(768) << 20;
    config->cpus = 3;
    config->code_cache = 320 << 10;
    config->host_features = strdup("none,+fma");
    config->kernel = strdup("/k");
    config->append = strdup("console=ttyS0 x=\"1 2\"");
    config->no_reboot = true;
    config->deterministic = true;
    config->seed = UINT64_MAX;
    config->ram_backend = MACHINE_RAM_MEMFD;
    config->virtio = MACHINE_VIRTIO_MMIO;
    config->disks[0] = (struct machine_disk){.path = strdup("/a,b"), .read_only = true};
    config->disks[1] = (struct machine_disk){.path = strdup("/c"), .serial = strdup("S 1")};
    config->disk_count = 2;
    config->nics[0] = (struct machine_nic){.net = MACHINE_NET_CUSTOM,
                                           .vnet = strdup("internal:a"),
                                           .mac = strdup("02:00:00:00:00:01"),
                                           .vlan = 7,
                                           .rate = 10000};
    config->nics[1] = (struct machine_nic){
        .mtu = 9000, .forward = strdup("tcp:1:2 udp:3:4"), .host_loopback = true};
    config->nic_count = 2;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct machine_config config, again;
    struct error *err = NULL;
    size_t size, size_again;
    full_config(&config);
    char *text = vmx_write(&config, &size);
    machine_config_init(&again);
    assert_true(vmx_parse(text, size, "t", &again, &err));
    char *text_again = vmx_write(&again, &size_again);
    assert_string_equal(text, text_again);
    assert_string_equal(again.name, config.name);
    assert_string_equal(again.append, config.append);
    assert_int_equal(again.code_cache, 320 << 10);
    assert_string_equal(again.host_features, "none,+fma");
    assert_int_equal(again.seed, UINT64_MAX);
    assert_int_equal(again.nic_count, 2);
    assert_int_equal(again.nics[0].net, MACHINE_NET_CUSTOM);
    assert_string_equal(again.nics[0].vnet, "internal:a");
    assert_string_equal(again.nics[0].mac, "02:00:00:00:00:01");
    assert_int_equal(again.nics[0].vlan, 7);
    assert_int_equal(again.nics[0].rate, 10000);
    assert_int_equal(again.nics[1].net, MACHINE_NET_NAT);
    assert_int_equal(again.nics[1].mtu, 9000);
    assert_string_equal(again.nics[1].forward, "tcp:1:2 udp:3:4");
    assert_true(again.nics[1].host_loopback && !again.nics[0].host_loopback);
    assert_int_equal(again.disk_count, 2);
    assert_true(again.disks[0].read_only);
    assert_false(again.disks[1].read_only);
    assert_string_equal(again.disks[1].serial, "S 1");
    free(text);
    free(text_again);
    machine_config_clear(&config);
    machine_config_clear(&again);
}

static void test_reads_what_people_write(void **state)
{
    (void)state;
    static const char text[] = "# a machine\r\n\n  MEMSIZE=\"64\"\r\nnumvcpus   =  \"2\"\n"
                               "trapeze.pciSlots = \"8\"\n"
                               "trapeze.vsockCid = \"7\"\ntrapeze.vsockSocket = \"v\"\n"
                               "scsi0:0.filename = \"d|2F|22\"\n";
    struct machine_config config;
    machine_config_init(&config);
    assert_true(vmx_parse(text, sizeof(text) - 1, "t", &config, NULL));
    assert_int_equal(config.memory, 64 << 20);
    assert_int_equal(config.cpus, 2);
    assert_string_equal(config.disks[0].path, "d/\"");
    assert_int_equal(config.pci_slots, 8);
    assert_int_equal(config.vsock_cid, 7);
    assert_string_equal(config.vsock_socket, "v");
    config.kernel = strdup("k");
    struct error *err = NULL;
    assert_true(machine_config_check(&config, &err));
    config.vsock_cid = 2; /* the host's */
    assert_false(machine_config_check(&config, &err));
    assert_non_null(strstr(error_message(err), "CID"));
    error_free(err);
    err = NULL;
    config.pci_slots = 9;
    assert_false(machine_config_check(&config, &err));
    assert_non_null(strstr(error_message(err), "8 slots"));
    error_free(err);
    machine_config_clear(&config);
}

static void test_errors_name_line_and_cause(void **state)
{
    (void)state;
    static const struct {
        const char *text, *wanted, *also;
    } cases[] = {
        {"\nmemzise = \"1\"", "t:2: unknown key 'memzise'", "memsize"},
        {"memsize = 12", "t:1:", "double quotes"},
        {"memsize = \"a\"", "t:1: not a number of MiB: 'a'", NULL},
        {"memsize = \"99999999999999999999\"", "t:1:", NULL},
        {"numvcpus = \"-1\"", "t:1: not a number", NULL},
        {"memsize", "t:1: expected key = \"value\"", NULL},
        {"trapeze.noReboot = \"maybe\"", "t:1: trapeze.noReboot 'maybe'", "FALSE, TRUE"},
        {"displayName = \"a\"b\"", "t:1:", "|22"},
        {"displayName = \"a|2\"", "t:1: '|' is not followed", NULL},
        {"displayName = \"a|00\"", "t:1: '|' is not followed", NULL},
        {"scsi0:256.fileName = \"x\"", "t:1: there is no such place", NULL},
        {"scsi0:99999999999999999999.fileName = \"x\"", "t:1: there is no such place", NULL},
        {"ethernet0.connectionType = \"wifi\"", "t:1: connectionType 'wifi'", "nat, hostonly"},
        {"memsize = \"1\"\n# x\nMemSize = \"2\"", "t:3: the key 'MemSize' stands in line 1", NULL},
        {"displayName = \"\xff\"", "t:1: this is not UTF-8", "iconv"},
        {"displayName = \"\xc0\x80\"", "t:1: this is not UTF-8", NULL},
        {"displayName = \"\xed\xa0\x80\"", "t:1: this is not UTF-8", NULL},
        {"displayName = \"a\" b", "t:1: the value must stand", NULL},
        {"display name = \"a\"", "t:1: expected key", NULL},
        {"trapeze.xyzzy = \"a\"", "t:1: unknown key", NULL},
        {"scsi0:0.fielName = \"a\"", "t:1: unknown key", "scsi0:0.fileName"},
        {"scsi0:0.trapeze.colour = \"a\"", "t:1: a disk has no property", NULL},
        {"scsi0:0.mode = \"independent-nonpersistent\"", "t:1: mode", "persistent"},
        {"scsi0:0.mode = \"persistent\"", "t: disk scsi0:0 has no fileName", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct machine_config config;
        struct error *err = NULL;
        machine_config_init(&config);
        assert_false(vmx_parse(cases[i].text, strlen(cases[i].text), "t", &config, &err));
        assert_non_null(err);
        assert_ptr_equal(strstr(error_message(err), cases[i].wanted), error_message(err));
        if (cases[i].also != NULL)
            assert_non_null(strstr(error_message(err), cases[i].also));
        error_free(err);
        machine_config_clear(&config);
    }
}

/* As Workstation 17 writes one for a Debian guest, with the hands of a user in it. */
static const char vmware[] =
    "#!/usr/bin/vmware\r\n.encoding = \"UTF-8\"\r\nconfig.version = \"8\"\r\n"
    "virtualHW.version = \"21\"\r\npciBridge0.present = \"TRUE\"\r\n"
    "pciBridge4.virtualDev = \"pcieRootPort\"\r\nvmci0.present = \"TRUE\"\r\n"
    "nvram = \"Debian 12.x.nvram\"\r\nvirtualHW.productCompatibility = \"hosted\"\r\n"
    "displayName = \"Debian \xc3\xbc 12.x\"\r\nfirmware = \"efi\"\r\nguestOS = \"debian12-64\"\r\n"
    "tools.syncTime = \"FALSE\"\r\nsound.autoDetect = \"TRUE\"\r\nsound.virtualDev = \"hdaudio\"\r\n"
    "sound.present = \"TRUE\"\r\nnumvcpus = \"2\"\r\ncpuid.coresPerSocket = \"1\"\r\n"
    "memsize = \"2048\"   # a lot\r\nscsi0.virtualDev = \"lsilogic\"\r\nscsi0.present = \"TRUE\"\r\n"
    "sata0.present = \"TRUE\"\r\nscsi0:10.fileName = \"third.raw\"\r\n"
    "scsi0:2.fileName = \"second.raw\"\r\nscsi0:0.fileName = \"Debian 12.x.raw\"\r\n"
    "scsi0:0.present = \"TRUE\"\r\nscsi0:1.fileName = \"gone.raw\"\r\nscsi0:1.present = \"FALSE\"\r\n"
    "sata0:1.deviceType = \"cdrom-image\"\r\nsata0:1.fileName = \"/iso/debian.iso\"\r\n"
    "sata0:1.present = \"TRUE\"\r\nide1:0.present = \"TRUE\"\r\nide1:0.fileName = \"auto detect\"\r\n"
    "ide1:0.deviceType = \"atapi-cdrom\"\r\nusb.present = \"TRUE\"\r\nehci.present = \"TRUE\"\r\n"
    "svga.graphicsMemoryKB = \"786432\"\r\nethernet0.addressType = \"generated\"\r\n"
    "ethernet0.virtualDev = \"e1000\"\r\nethernet0.connectionType = \"nat\"\r\n"
    "ethernet0.present = \"TRUE\"\r\nethernet0.generatedAddress = \"00:0c:29:aa:bb:cc\"\r\n"
    "ethernet0.generatedAddressOffset = \"0\"\r\nethernet0.pciSlotNumber = \"33\"\r\n"
    "ethernet1.present = \"TRUE\"\r\nethernet1.connectionType = \"custom\"\r\n"
    "ethernet1.vnet = \"/dev/vmnet2\"\r\nethernet1.virtualDev = \"vmxnet3\"\r\n"
    "ethernet2.connectionType = \"bridged\"\r\nserial0.fileType = \"file\"\r\n"
    "serial0.present = \"TRUE\"\r\nserial0.fileName = \"console.txt\"\r\nfloppy0.present = \"FALSE\"\r\n"
    "extendedConfigFile = \"Debian 12.x.vmxf\"\r\nsomething.new = \"1\"";

static struct text *parse(const char *bytes, size_t size)
{
    struct error *err = NULL;
    struct text *text = text_parse(bytes, size, "t", &err);
    assert_no_error(err);
    assert_non_null(text);
    return text;
}

static void assert_text(const struct text *text, const char *wanted)
{
    size_t size;
    char *bytes = text_write(text, &size);
    assert_string_equal(bytes, wanted);
    assert_int_equal(size, strlen(wanted));
    free(bytes);
}

static bool is_noted(const struct vmx_notes *notes, const char *key)
{
    for (size_t i = 0; i < notes->count; i++)
        if (strcmp(notes->list[i].key, key) == 0)
            return true;
    return false;
}

static void test_reads_what_vmware_writes(void **state)
{
    (void)state;
    static const char *const noted[] = {"firmware", "sound.present", "cpuid.coresPerSocket",
                                        "scsi0.virtualDev", "ide1:0.deviceType", "usb.present",
                                        "ehci.present", "ethernet1.virtualDev",
                                        "ethernet2.connectionType", "something.new"};
    struct text *text = parse(vmware, sizeof(vmware) - 1);
    struct vmx_notes notes = {0};
    struct machine_config config;
    struct error *err = NULL;
    machine_config_init(&config);
    vmx_read(text, &config, &notes, &err);
    assert_no_error(err);
    for (size_t i = 0; i < sizeof(noted) / sizeof(noted[0]); i++)
        if (!is_noted(&notes, noted[i]))
            fail_msg("%s is not noted", noted[i]);
    assert_int_equal(notes.count, sizeof(noted) / sizeof(noted[0]));
    char *sentence = vmx_notes_sentence(&notes, "t");
    assert_non_null(strstr(sentence, "sound.present (line 16)"));
    free(sentence);
    assert_string_equal(config.name, "Debian \xc3\xbc 12.x");
    assert_string_equal(config.guest_os, "debian12-64");
    assert_int_equal(config.memory >> 20, 2048);
    assert_int_equal(config.disk_count, 4); /* in the order of their places, which have gaps */
    assert_string_equal(config.disks[0].path, "Debian 12.x.raw");
    assert_string_equal(config.disks[1].path, "second.raw");
    assert_string_equal(config.disks[2].path, "third.raw");
    assert_string_equal(config.disks[3].path, "/iso/debian.iso");
    assert_int_equal(config.disks[3].media, 1);
    assert_int_equal(config.disks[2].media, 0);
    assert_false(config.disks[2].read_only);
    assert_int_equal(config.nic_count, 3);
    assert_string_equal(config.nics[0].mac, "00:0c:29:aa:bb:cc");
    assert_string_equal(config.nics[0].model, "e1000");
    assert_string_equal(config.nics[1].vnet, "internal:vmnet2");
    assert_string_equal(config.nics[1].model, "virtio");
    assert_int_equal(config.nics[2].net, MACHINE_NET_NAT);
    assert_int_equal(config.serial, MACHINE_SERIAL_FILE);
    vmx_resolve(&config, "/vm");
    assert_string_equal(config.disks[0].path, "/vm/Debian 12.x.raw");
    assert_string_equal(config.disks[3].path, "/iso/debian.iso");
    assert_string_equal(config.serial_path, "/vm/console.txt");
    vmx_notes_clear(&notes);
    machine_config_clear(&config);
    text_free(text);
}

/* What is not changed is not touched; what is, only where it stands. */
static void test_rewrites_what_changed(void **state)
{
    (void)state;
    struct text *text = parse(vmware, sizeof(vmware) - 1);
    struct machine_config config, again;
    machine_config_init(&config);
    assert_true(vmx_read(text, &config, NULL, NULL));
    vmx_update(text, &config);
    assert_text(text, vmware);

    config.memory = UINT64_C(512) << 20;
    config.nics[0].mac[0] = '1', config.nics[0].mac[1] = '2';
    machine_disk_clear(&config.disks[1]); /* scsi0:2 */
    memmove(&config.disks[1], &config.disks[2], 2 * sizeof(config.disks[0]));
    free(config.disks[2].path); /* another disc, in what is an optical drive still */
    config.disks[2].path = strdup("other.iso");
    machine_disk_init(&config.disks[3]); /* a new one, behind the others */
    config.disks[3].path = strdup("new.qcow2");
    config.disks[3].format = strdup("qcow2");
    vmx_update(text, &config);
    size_t size, size_again;
    char *bytes = text_write(text, &size);
    assert_non_null(strstr(bytes, "memsize = \"512\"   # a lot\r\nscsi0.virtualDev"));
    assert_null(strstr(bytes, "second.raw"));
    assert_non_null(strstr(bytes, "sata0:2.fileName = \"new.qcow2\"\r\n"));
    assert_non_null(strstr(bytes, "something.new = \"1\""));
    assert_non_null(strstr(bytes, "gone.raw"));
    struct text *reread = parse(bytes, size);
    machine_config_init(&again);
    assert_true(vmx_read(reread, &again, NULL, NULL));
    char *wanted = vmx_write(&config, &size), *got = vmx_write(&again, &size_again);
    assert_string_equal(wanted, got);
    assert_int_equal(again.disks[2].media, 1);
    again.disks[2].media = 0; /* and then one no more */
    vmx_update(reread, &again);
    machine_config_clear(&again);
    machine_config_init(&again);
    assert_true(vmx_read(reread, &again, NULL, NULL));
    assert_int_equal(again.disks[2].media, 0);
    free(wanted);
    free(got);
    free(bytes);
    text_free(reread);
    text_free(text);
    machine_config_clear(&config);
    machine_config_clear(&again);
}

static void test_text_is_kept(void **state)
{
    (void)state;
    static const char bytes[] = "\xef\xbb\xbf# top\n\n  a.B=\"1\"# why\n\tz = \"|22|7C\"\n";
    struct text *text = parse(bytes, sizeof(bytes) - 1);
    assert_text(text, bytes);
    assert_string_equal(text_get(text, "A.b"), "1");
    assert_string_equal(text_get(text, "Z"), "\"|");
    assert_null(text_get(text, "y"));
    text_set(text, "A.B", "x\"\xff\x01");
    text_set(text, "a.c", "new");
    text_set(text, "last", "");
    text_remove(text, "Z");
    text_remove(text, "nothing");
    static const char wanted[] = "\xef\xbb\xbf# top\n\n  a.B=\"x|22|FF|01\"# why\na.c = \"new\"\n"
                                 "last = \"\"\n";
    assert_text(text, wanted);
    text_free(text);
    text = parse(wanted, sizeof(wanted) - 1);
    assert_string_equal(text_get(text, "a.b"), "x\"\xff\x01");
    text_free(text);
    text = parse("a = \"1\"", 7);
    text_set(text, "b", "2");
    assert_text(text, "a = \"1\"\nb = \"2\"\n");
    text_free(text);
}

static void test_too_many(void **state)
{
    (void)state;
    char *bytes = NULL;
    size_t size;
    struct error *err = NULL;
    struct machine_config config;
    FILE *out = open_memstream(&bytes, &size);
    for (int i = 0; i <= MACHINE_MAX_DISKS; i++)
        fprintf(out, "scsi0:%d.fileName = \"x\"\n", i);
    fclose(out);
    machine_config_init(&config);
    assert_false(vmx_parse(bytes, size, "t", &config, &err));
    assert_error(&err, ERROR_USAGE, "at most 16 disks");
    machine_config_clear(&config);
    free(bytes);
    bytes = malloc(TEXT_MAX_LINES + 1);
    memset(bytes, '\n', TEXT_MAX_LINES + 1);
    struct text *text = text_parse(bytes, TEXT_MAX_LINES, "t", &err);
    assert_non_null(text);
    text_free(text);
    assert_null(text_parse(bytes, TEXT_MAX_LINES + 1, "t", &err));
    assert_error(&err, ERROR_USAGE, "20000 lines");
    memset(bytes, 'k', 300);
    memcpy(bytes + 300, "=\"\"", 3);
    assert_null(text_parse(bytes, 303, "t", &err));
    assert_error(&err, ERROR_USAGE, "255 bytes");
    free(bytes);
}

static void test_hostile_text(void **state)
{
    (void)state;
    struct machine_config config;
    machine_config_init(&config);
    assert_false(vmx_parse("a\0b", 3, "t", &config, NULL));
    assert_false(vmx_parse("", TEXT_MAX_SIZE + 1, "t", &config, NULL));
    assert_true(vmx_parse("", 0, "t", &config, NULL));
    machine_config_clear(&config);
}

static void test_check(void **state)
{
    (void)state;
    struct machine_config config;
    machine_config_init(&config);
    assert_false(machine_config_check(&config, NULL)); /* nothing to run */
    config.kernel = strdup("k");
    assert_true(machine_config_check(&config, NULL));
    config.cpus = 9;
    assert_false(machine_config_check(&config, NULL));
    config.cpus = 0;
    assert_false(machine_config_check(&config, NULL));
    config.cpus = 8;
    config.memory = MACHINE_MIN_MEMORY;
    assert_true(machine_config_check(&config, NULL));
    config.memory--;
    assert_false(machine_config_check(&config, NULL));
    machine_config_clear(&config);
}

static const char *nearest(const char *word, const char *const *candidates)
{
    struct suggest suggest;
    suggest_start(&suggest, word);
    for (; *candidates != NULL; candidates++)
        suggest_offer(&suggest, *candidates);
    return suggest.best;
}

static void test_suggest(void **state)
{
    (void)state;
    static const char *const words[] = {"memory", "kernel", "cpus", "console", NULL};
    assert_string_equal(nearest("memroy", words), "memory");
    assert_string_equal(nearest("mem", words), "memory");
    assert_string_equal(nearest("kernal", words), "kernel");
    assert_string_equal(nearest("cpu", words), "cpus");
    assert_null(nearest("xyzzy", words));
    assert_null(nearest("", words));
    char longest[200] = {0};
    memset(longest, 'a', sizeof(longest) - 1);
    assert_null(nearest(longest, words));
}

/* A description is a copy of its own. */
static void test_copy(void **state)
{
    (void)state;
    static const char text[] = "guestOS = \"other\"\nserial0.fileType = \"file\"\n"
                               "serial0.fileName = \"out\"\ntrapeze.parent = \"base\"\n"
                               "trapeze.expires = \"2026-12-24\"\nscsi0:0.fileName = \"d\"\n";
    struct machine_config config, copy;
    struct error *err = NULL;
    size_t sizes[2];
    machine_config_init(&config);
    vmx_parse(text, sizeof(text) - 1, "t", &config, &err);
    assert_no_error(err);
    machine_config_copy(&copy, &config);
    char *one = vmx_write(&config, &sizes[0]);
    machine_config_clear(&config); /* neither has anything of the other's */
    char *two = vmx_write(&copy, &sizes[1]);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(one, two, sizes[0]);
    free(one);
    free(two);
    machine_config_clear(&copy);
}

static void test_moments(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "soon", "2026", "2026-13-01", "2026-02-29", "2026-1-1",
                                      "2026-01-01T", "2026-01-01T25:00:00Z", "2026-01-01T00:00:00",
                                      "2026-01-01T00:00:00Z ", "2026-01-01 00:00:00Z"};
    int64_t moment;
    char text[24];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(machine_parse_time(bad[i], &moment));
    assert_true(machine_parse_time("1970-01-02", &moment));
    assert_int_equal(moment, 86400);
    assert_true(machine_parse_time("2026-12-24T18:00:01Z", &moment));
    machine_print_time(moment, text);
    assert_string_equal(text, "2026-12-24T18:00:01Z");
}

static void test_nvram(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"x", "nvram"},
        {"rtc.offset = \"1\"\n", "does not begin"},
        {"trapeze.nvram = \"2\"\n", "version that is unknown here: 2"},
        {"trapeze.nvram = \"1\"\nrtc.offset = \"1x\"\n", "n:2: '1x' is no number"},
        {"trapeze.nvram = \"1\"\nrtc.offset = \"\"\n", "no number"},
        {"trapeze.nvram = \"1\"\nrtc.offset = \"4611686018427387904\"\n", "no number"},
        {"trapeze.nvram = \"1\"\nrtc.offset = \"99999999999999999999\"\n", "no number"},
        {"trapeze.nvram = \"1\"\nboot = \"1\"\n", "n:2: nothing here is called 'boot'"},
    };
    struct nvram nvram = {7}, again;
    struct error *err = NULL;
    size_t size;
    assert_true(nvram_parse("", 0, "n", &nvram, &err)); /* a new machine's */
    assert_int_equal(nvram.rtc_offset, 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(nvram_parse(bad[i][0], strlen(bad[i][0]), "n", &nvram, &err));
        assert_non_null(strstr(error_message(err), "Without that file"));
        assert_error(&err, ERROR_USAGE, i == 0 ? "n:1" : bad[i][1]);
    }
    nvram.rtc_offset = -INT64_C(3600000000000);
    char *text = nvram_print(&nvram, &size);
    assert_string_equal(text, "trapeze.nvram = \"1\"\nrtc.offset = \"-3600000000000\"\n");
    assert_true(nvram_parse(text, size, "n", &again, &err));
    assert_int_equal(again.rtc_offset, nvram.rtc_offset);
    free(text);
    static const char with_flash[] = "trapeze.nvram = \"1\"\nrtc.offset = \"5\"\n\0\xff\xff";
    assert_true(nvram_parse(with_flash, sizeof(with_flash) - 1, "n", &again, &err));
    assert_int_equal(again.rtc_offset, 5);
    assert_true(nvram_parse("\0\xff", 2, "n", &again, &err)); /* nothing but a flash */
    assert_int_equal(again.rtc_offset, 0);
    text = malloc(NVRAM_MAX_SIZE + 1);
    memset(text, '\n', NVRAM_MAX_SIZE + 1);
    assert_false(nvram_parse(text, NVRAM_MAX_SIZE + 1, "n", &nvram, &err));
    assert_error(&err, ERROR_USAGE, "larger than 64 KiB");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_nvram),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_reads_what_people_write),
        cmocka_unit_test(test_errors_name_line_and_cause),
        cmocka_unit_test(test_reads_what_vmware_writes),
        cmocka_unit_test(test_rewrites_what_changed),
        cmocka_unit_test(test_text_is_kept),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_suggest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
