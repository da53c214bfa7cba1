/* SPDX-License-Identifier: MIT
 *
 * Machines whose disks and NICs came and went, by chance: one made anew of the description becomes
 * the same, and takes their state up. And disks that stay and get other files.
 */
#include "vm_world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/state.h"
#include "block/chain.h"
#include "vm/replace.h"

static const uint32_t idle[] = {0x0000006f}; /* j . */

struct machine {
    struct world w;
    struct block_chain chains[MACHINE_MAX_DISKS];
    int links[MACHINE_MAX_NICS];
    int files[MACHINE_MAX_DISKS]; /* by a disk's number */
    int peers[64];
    size_t peer_count;
    unsigned made; /* disks and NICs, ever */
};

static uint32_t chance(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % below;
}

static int link_of(struct machine *m)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    m->peers[m->peer_count++] = pair[1];
    return pair[0];
}

/* Of a size of its own. */
static int new_file(struct machine *m)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)(512 * (100 + m->made++))), 0);
    return fd;
}

static void choose_disk(struct machine *m, struct machine_disk *disk, bool live, uint32_t *seed)
{
    char name[32];
    machine_disk_init(disk);
    snprintf(name, sizeof(name), "disk %u", m->made);
    disk->path = strdup(name);
    disk->format = strdup("raw");
    disk->bus =
        live || chance(seed, 2) != 0 ? MACHINE_BUS_SCSI + chance(seed, 4) / 3 : MACHINE_BUS_VIRTIO;
    disk->media = disk->bus != MACHINE_BUS_VIRTIO && chance(seed, 5) == 0;
    disk->read_only = chance(seed, 4) == 0;
}

static void choose_nic(struct machine *m, struct machine_nic *nic, uint32_t *seed)
{
    char mac[18];
    snprintf(mac, sizeof(mac), "02:00:00:00:00:%02x", m->made++);
    *nic = (struct machine_nic){.mac = strdup(mac),
                                .model = strdup(chance(seed, 2) != 0 ? "virtio" : "e1000")};
}

static void open_machine(struct machine *m)
{
    *m = (struct machine){.peer_count = 0};
    world_open(&m->w);
}

static void make(struct machine *m)
{
    m->w.env.disks = m->chains;
    m->w.env.nics = m->links;
    world_make(&m->w);
}

static void close_machine(struct machine *m)
{
    world_close(&m->w);
    for (size_t i = 0; i < m->peer_count; i++)
        close(m->peers[i]);
}

/* One that starts with some, so that what comes behind them on the board is not where it always is.
 */
static void begin(struct machine *m, uint32_t *seed)
{
    open_machine(m);
    struct machine_config *config = &m->w.config;
    world_give(&m->w, &config->firmware, idle, sizeof(idle));
    config->disk_count = chance(seed, 4);
    config->nic_count = chance(seed, 3);
    config->pci_slots = chance(seed, 3);
    config->balloon = chance(seed, 2) != 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        choose_disk(m, &config->disks[i], false, seed);
        m->files[i] = new_file(m);
        m->chains[i] = (struct block_chain){{dup(m->files[i])}, 1};
    }
    for (size_t i = 0; i < config->nic_count; i++) {
        choose_nic(m, &config->nics[i], seed);
        m->links[i] = link_of(m);
    }
    make(m);
    assert_true(vm_start(m->w.vm, &m->w.err));
    assert_true(vm_pause(m->w.vm, &m->w.err));
}

static void attach_disk(struct machine *m, uint32_t *seed)
{
    struct machine_disk disk;
    size_t number;
    bool rescan;
    choose_disk(m, &disk, true, seed);
    int fd = new_file(m);
    struct block_chain files = {{dup(fd)}, 1};
    if (vm_disk_attach(m->w.vm, &disk, &files, &number, &rescan, &m->w.err)) {
        m->files[number] = fd;
    } else { /* there is no room */
        assert_non_null(m->w.err);
        error_free(m->w.err);
        m->w.err = NULL;
        close(fd);
    }
    machine_disk_clear(&disk);
}

static void attach_nic(struct machine *m, uint32_t *seed)
{
    struct machine_nic nic;
    size_t number;
    choose_nic(m, &nic, seed);
    assert_true(vm_nic_attach(m->w.vm, &nic, link_of(m), -1, &number, &m->w.err));
    machine_nic_clear(&nic);
}

static void detach_one(struct machine *m, uint32_t *seed)
{
    struct vm *vm = m->w.vm;
    size_t number = chance(seed, MACHINE_MAX_DISKS);
    struct vm_disk_status disk;
    if (vm_get_disk(vm, number, &disk) && strcmp(disk.bus, "virtio") != 0) {
        assert_true(vm_disk_detach(vm, number, true, &m->w.err));
        close(m->files[number]);
    } else if (number < vm_nic_count(vm)) {
        (void)vm_nic_detach(vm, number, true, NULL);
    }
}

static void let_come_and_go(struct machine *m, uint32_t *seed)
{
    for (unsigned i = chance(seed, 14); i > 0; i--)
        switch (chance(seed, 4)) {
        case 0:
            attach_disk(m, seed);
            break;
        case 1:
            if (vm_nic_count(m->w.vm) < 5)
                attach_nic(m, seed);
            break;
        default:
            detach_one(m, seed);
        }
}

/* Of the same parts, as whoever starts it knows them. */
static void make_again(struct machine *to, const struct machine *from)
{
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(from->w.vm, order);
    open_machine(to);
    machine_config_clear(&to->w.config);
    vm_describe(from->w.vm, &to->w.config);
    free(to->w.config.firmware);
    world_give(&to->w, &to->w.config.firmware, idle, sizeof(idle));
    assert_int_equal(to->w.config.disk_count, count);
    for (size_t i = 0; i < count; i++)
        to->chains[i] = (struct block_chain){{dup(from->files[order[i]])}, 1};
    for (size_t i = 0; i < to->w.config.nic_count; i++)
        to->links[i] = link_of(to);
    make(to);
}

static void close_files(struct machine *m)
{
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(m->w.vm, order);
    for (size_t i = 0; i < count; i++)
        close(m->files[order[i]]);
}

static void assert_goes_on(struct machine *from, struct machine *to)
{
    struct state_buffer saved = {0}, again = {0};
    vm_save_state(from->w.vm, &saved);
    assert_true(vm_restore_state(to->w.vm, saved.data, saved.size, &to->w.err));
    assert_no_error(to->w.err);
    vm_save_state(to->w.vm, &again);
    assert_int_equal(saved.size, again.size);
    assert_memory_equal(saved.data, again.data, saved.size);
    state_buffer_free(&saved);
    state_buffer_free(&again);
    assert_true(vm_start_paused(to->w.vm, &to->w.err));
}

static void what_came_and_went_is_found_again(void **state)
{
    (void)state;
    for (uint32_t turn = 0; turn < tier_count(60, 3000); turn++) {
        struct machine from, to;
        uint32_t seed = turn;
        begin(&from, &seed);
        let_come_and_go(&from, &seed);
        make_again(&to, &from);
        char *saved = vm_layout(from.w.vm), *before = vm_layout(to.w.vm);
        assert_true(vm_fits_layout(before, saved, &to.w.err));
        assert_true(vm_arrange(to.w.vm, saved, false, &to.w.err));
        assert_no_error(to.w.err);
        char *after = vm_layout(to.w.vm);
        assert_string_equal(after, saved);
        assert_goes_on(&from, &to);
        /* What it has become goes on in the same way, and so does what comes to it. */
        to.made = from.made;
        for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
            if (i < vm_disk_count(to.w.vm) && vm_config(to.w.vm)->disks[i].path != NULL)
                to.files[i] = dup(from.files[i]);
        let_come_and_go(&to, &seed);
        struct machine third;
        make_again(&third, &to);
        char *last = vm_layout(to.w.vm);
        assert_true(vm_arrange(third.w.vm, last, false, &third.w.err));
        assert_goes_on(&to, &third);
        free(saved), free(before), free(after), free(last);
        close_files(&from), close_files(&to);
        close_machine(&from), close_machine(&to), close_machine(&third);
    }
}

/* A layout of before there were places, of a machine to which nothing came and of which nothing
 * went. */
static void layouts_without_places_fit(void **state)
{
    (void)state;
    struct machine m;
    uint32_t seed = 5;
    begin(&m, &seed);
    struct machine again;
    make_again(&again, &m);
    char *now = vm_layout(m.w.vm), *old = calloc(strlen(now) + 1, 1);
    for (char *line = now, *to = old; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        line[length] = '\0';
        char *at = strstr(line, " slot "), *drive = strstr(line, " at ");
        if (at != NULL)
            *at = '\0';
        if (drive != NULL)
            *drive = '\0';
        to += sprintf(to, "%s\n", line);
        line += length + 1;
    }
    assert_null(strstr(old, "slot"));
    assert_true(vm_arrange(again.w.vm, old, false, &again.w.err));
    char *other = calloc(strlen(old) + 32, 1);
    sprintf(other, "%sshare x\n", old);
    assert_false(vm_fits_layout(now, other, &again.w.err));
    error_free(again.w.err);
    again.w.err = NULL;
    free(now), free(old), free(other);
    close_files(&m);
    close_machine(&m), close_machine(&again);
}

/* Another count of disks, another NIC: a sentence, and the machine is as it was. */
static void another_machine_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *find, *put, *says;
    } cases[] = {
        {"disk 0 ", "disk 1 scsi disk 9 at 5:0 unit 9\ndisk 0 ", "disk"},
        {"nic 0 ", "nic 1 02:00:00:00:77:77\nnic 0 ", "nic"},
        {"02:00:00:00:00:", "02:00:00:00:77:", "nic 0"},
        {"device rng0 virtio-rng", "device rng0 virtio-r", "rng0"},
        {"harts 1", "harts 2", "harts 2"},
    };
    struct machine m;
    uint32_t seed = 0;
    do { /* until one has them all */
        begin(&m, &seed);
        if (m.w.config.disk_count > 0 && m.w.config.nic_count > 0)
            break;
        close_files(&m);
        close_machine(&m);
    } while (true);
    struct machine to;
    make_again(&to, &m);
    char *layout = vm_layout(to.w.vm);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char other[8192];
        const char *at = strstr(layout, cases[i].find);
        assert_non_null(at);
        snprintf(other, sizeof(other), "%.*s%s%s", (int)(at - layout), layout, cases[i].put,
                 at + strlen(cases[i].find));
        assert_false(vm_fits_layout(layout, other, &to.w.err));
        assert_error(&to.w.err, ERROR_USAGE, cases[i].says);
        assert_false(vm_arrange(to.w.vm, other, false, &to.w.err));
        assert_error(&to.w.err, ERROR_USAGE, cases[i].says);
        char *now = vm_layout(to.w.vm);
        assert_string_equal(now, layout);
        free(now);
        if (strcmp(cases[i].says, "nic 0") == 0) { /* a clone's own */
            assert_true(vm_arrange(to.w.vm, other, true, &to.w.err));
            assert_no_error(to.w.err);
        }
    }
    free(layout);
    close_files(&m);
    close_machine(&m), close_machine(&to);
}

/* What a stranger may send: it is refused or becomes the machine, and nothing else happens. */
static void strange_layouts_do_no_harm(void **state)
{
    (void)state;
    static const char *const pieces[] = {"slot 1",
                                         "slot 33",
                                         "slot 0",
                                         "slot 4000000000",
                                         "slot 7",
                                         "unit 3",
                                         "unit 99",
                                         "at 9:1",
                                         "disk 15",
                                         "disk 0",
                                         "nic 7",
                                         "nic 1",
                                         "device net0 virtio-net",
                                         "device disk0 virtio-blk",
                                         "device scsi0 virtio-scsi",
                                         "device ahci0 ahci"};
    /* Turn 121 puts two drives into one place. */
    for (uint32_t turn = 0; turn < tier_count(130, 20000); turn++) {
        struct machine from, to;
        uint32_t seed = turn * 7 + 1;
        begin(&from, &seed);
        let_come_and_go(&from, &seed);
        make_again(&to, &from);
        char *saved = vm_layout(from.w.vm), other[8192];
        snprintf(other, sizeof(other), "%s", saved);
        for (unsigned k = 1 + chance(&seed, 3); k > 0; k--) {
            const char *piece = pieces[chance(&seed, ARRAY_SIZE(pieces))];
            size_t word = strcspn(piece, " ");
            char *at = other + chance(&seed, (uint32_t)strlen(other));
            char *found = memmem(at, strlen(at), piece, word);
            size_t length = found != NULL ? strcspn(found + word + 1, " \n") + word + 1 : 0;
            char rest[8192];
            if (found == NULL || strlen(other) + 64 > sizeof(other))
                continue;
            snprintf(rest, sizeof(rest), "%s", found + length);
            sprintf(found, "%s%s", piece, rest);
        }
        if (vm_arrange(to.w.vm, other, false, &to.w.err)) {
            char *now = vm_layout(to.w.vm);
            assert_string_equal(now, other);
            free(now);
        } else {
            assert_non_null(to.w.err);
        }
        free(saved);
        close_files(&from);
        close_machine(&from), close_machine(&to);
    }
}

/* The file by a description of its own, as somebody else would open it. */
static int opened(int file)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static bool lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static bool is_locked(int file)
{
    int fd = opened(file);
    bool locked = !lock(fd);
    close(fd);
    return locked;
}

static bool replace(struct machine *m, size_t disk, int file, const char *name)
{
    struct block_chain files = {{opened(file)}, 1};
    return vm_disk_replace(m->w.vm, disk, name, &files, &m->w.err);
}

static void expect_disk(struct machine *m, int file, const char *name, uint64_t size)
{
    struct vm_disk_status disk;
    assert_no_error(m->w.err);
    assert_true(vm_get_disk(m->w.vm, 0, &disk));
    assert_string_equal(disk.path, name);
    assert_true(disk.size == size && is_locked(file));
}

/* Behind a disk that stays: another file, or the same one when its size has changed. What is
 * refused changes nothing; of a file that is left the lock is free, and never that of the one that
 * is used. */
static void a_disk_gets_other_files(void **state)
{
    (void)state;
    struct machine m;
    open_machine(&m);
    struct machine_config *config = &m.w.config;
    world_give(&m.w, &config->firmware, idle, sizeof(idle));
    config->disk_count = 2;
    for (size_t i = 0; i < 2; i++) {
        struct machine_disk *disk = &config->disks[i];
        machine_disk_init(disk);
        disk->path = strdup("first");
        disk->format = strdup("raw");
        disk->bus = i == 0 ? MACHINE_BUS_VIRTIO : MACHINE_BUS_SCSI;
        m.files[i] = new_file(&m);
        m.chains[i] = (struct block_chain){{opened(m.files[i])}, 1};
        assert_true(lock(m.chains[i].fds[0]));
    }
    make(&m);
    assert_true(vm_start(m.w.vm, &m.w.err));
    int other = new_file(&m), odd = memfd_create("odd", MFD_CLOEXEC);
    expect_disk(&m, m.files[0], "first", 51200);
    assert_true(replace(&m, 0, other, "second"));
    expect_disk(&m, other, "second", 512 * 102);
    assert_false(is_locked(m.files[0]));
    assert_int_equal(ftruncate(other, 512 * 500), 0);
    assert_true(replace(&m, 0, other, "second"));
    expect_disk(&m, other, "second", 512 * 500);

    int owner = opened(m.files[0]);
    assert_true(lock(owner));
    assert_false(replace(&m, 0, m.files[0], "first"));
    assert_error(&m.w.err, ERROR_HOST, "disk 'first': another process");
    close(owner);
    assert_int_equal(ftruncate(odd, 513), 0);
    assert_false(replace(&m, 0, odd, "odd"));
    assert_error(&m.w.err, ERROR_USAGE, "not a positive multiple of 512");
    assert_false(replace(&m, 1, odd, "odd"));
    assert_error(&m.w.err, ERROR_USAGE, "disk 1 is no raw disk on bus=virtio");
    assert_false(replace(&m, 2, odd, "odd"));
    assert_error(&m.w.err, ERROR_USAGE, "there is no disk 2");
    expect_disk(&m, other, "second", 512 * 500);

    assert_true(vm_pause(m.w.vm, &m.w.err));
    assert_true(replace(&m, 0, m.files[0], "first"));
    expect_disk(&m, m.files[0], "first", 51200);
    assert_false(is_locked(other));
    assert_true(vm_resume(m.w.vm, &m.w.err));
    close(other), close(odd);
    close_files(&m);
    close_machine(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_came_and_went_is_found_again),
        cmocka_unit_test(layouts_without_places_fit),
        cmocka_unit_test(another_machine_is_refused),
        cmocka_unit_test(strange_layouts_do_no_harm),
        cmocka_unit_test(a_disk_gets_other_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
