/* SPDX-License-Identifier: MIT
 *
 * Every SBI function with good and bad arguments, called by a guest in S-mode.
 */
#include "vm_world.h"

/* At the image's start + 64: carries out the calls at + 0x800 and notes their results. */
static const uint32_t caller[] = {
    0x02200293, /* li t0,0x22 */
    0x10429073, /* csrw sie,t0: what ends a suspend; sstatus.SIE stays off */
    0x00000417, /* auipc s0,0 */
    0x7b840413, /* addi s0,s0,0x7b8 */
    0x00043883, /* 1: ld a7,0(s0) */
    0x00843803, /* ld a6,8(s0) */
    0x01043503, /* ld a0,16(s0) */
    0x01843583, /* ld a1,24(s0) */
    0x02043603, /* ld a2,32(s0) */
    0x02843683, /* ld a3,40(s0) */
    0x03043703, /* ld a4,48(s0) */
    0x03843783, /* ld a5,56(s0) */
    0x00000073, /* ecall */
    0x04a43023, /* sd a0,64(s0) */
    0x04b43423, /* sd a1,72(s0) */
    0x05040413, /* addi s0,s0,80 */
    0xfd1ff06f, /* j 1b */
};

/* At + 0x100: a hart that begins notes a0, a1 and satp | sstatus.SIE at + 0x600 + 64 * hart,
 * and makes the call that stands behind them. */
static const uint32_t beginner[] = {
    0x00000417, /* auipc s0,0 */
    0x50040413, /* addi s0,s0,0x500 */
    0x00651393, /* slli t2,a0,6 */
    0x00740433, /* add s0,s0,t2 */
    0x180022f3, /* csrr t0,satp */
    0x10002373, /* csrr t1,sstatus */
    0x00237313, /* andi t1,t1,2 */
    0x0062e2b3, /* or t0,t0,t1 */
    0x00a43023, /* sd a0,0(s0) */
    0x00b43423, /* sd a1,8(s0) */
    0x00543823, /* sd t0,16(s0) */
    0x02043883, /* ld a7,32(s0) */
    0x02843803, /* ld a6,40(s0) */
    0x03043503, /* ld a0,48(s0) */
    0x03843583, /* ld a1,56(s0) */
    0x00000073, /* ecall */
    0x01143c23, /* sd a7,24(s0): it returned */
    0x0000006f, /* j . */
};

enum { CALLS_AT = 0x800, CALL_BYTES = 80, BEGINNER_AT = 0x100, NOTES_AT = 0x600 };
#define IMAGE   (RAM + 2 * MIB)
#define TEXT_AT (IMAGE + 0x7c0)
#define MASK_AT (IMAGE + 0x7e0)
#define ALL     UINT64_MAX

enum {
    BASE = 0x10,
    TIME = 0x54494d45,
    IPI = 0x735049,
    RFENCE = 0x52464e43,
    HSM = 0x48534d,
    SRST = 0x53525354,
    DBCN = 0x4442434e
};
enum { OK = 0, UNSUPPORTED = -2, PARAM = -3, ADDRESS = -5, AVAILABLE = -6 };

struct call {
    uint64_t extension, function, args[3];
    int64_t error;
    uint64_t value;
};

static const struct call calls[] = {
    {BASE, 0, {0}, OK, 2 << 24},
    {BASE, 3, {BASE}, OK, 1},
    {BASE, 3, {TIME}, OK, 1},
    {BASE, 3, {IPI}, OK, 1},
    {BASE, 3, {RFENCE}, OK, 1},
    {BASE, 3, {HSM}, OK, 1},
    {BASE, 3, {SRST}, OK, 1},
    {BASE, 3, {DBCN}, OK, 1},
    {BASE, 3, {1}, OK, 1},          /* legacy console */
    {BASE, 3, {0x504d55}, OK, 0},   /* PMU */
    {BASE, 3, {0x53555350}, OK, 0}, /* SUSP */
    {BASE, 3, {0x4e41434c}, OK, 0}, /* NACL */
    {BASE, 3, {9}, OK, 0},          /* the legacy space ends at 8 */
    {BASE, 7, {0}, UNSUPPORTED, 0},
    {0x504d55, 0, {0}, UNSUPPORTED, 0},
    {UINT64_MAX, 0, {0}, UNSUPPORTED, 0},
    {TIME, 1, {0}, UNSUPPORTED, 0},
    {TIME, 0, {ALL}, OK, 0},
    /* a hart mask names harts that exist, or none (SBI §3.1) */
    {IPI, 0, {1, 0}, OK, 0},
    {IPI, 0, {3, 0}, OK, 0},
    {3, 0, {0, 0x77}, OK, 0x77}, /* the legacy call that clears it */
    {IPI, 0, {0, ALL}, OK, 0},   /* everybody, this hart too: see the suspend below */
    {IPI, 0, {4, 0}, PARAM, 0},
    {IPI, 0, {2, 1}, PARAM, 0},
    {IPI, 0, {1, 2}, PARAM, 0},
    {IPI, 0, {UINT64_C(1) << 63, 0}, PARAM, 0},
    {IPI, 0, {1, ALL - 1}, PARAM, 0},
    {IPI, 1, {0, 0}, UNSUPPORTED, 0},
    {RFENCE, 0, {3, 0}, OK, 0},
    {RFENCE, 1, {ALL, ALL, 0x1000}, OK, 0}, /* ranges and ASIDs: vm_fence.c */
    {RFENCE, 2, {1, 0, 0}, OK, 0},
    {RFENCE, 0, {4, 0}, PARAM, 0},
    {RFENCE, 1, {1, 9}, PARAM, 0},
    {RFENCE, 3, {1, 0}, UNSUPPORTED, 0}, /* no hypervisor extension */
    {RFENCE, 7, {1, 0}, UNSUPPORTED, 0},
    /* harts: one is started, the other stopped */
    {HSM, 2, {0}, OK, 0},
    {HSM, 2, {1}, OK, 1},
    {HSM, 2, {2}, PARAM, 0},
    {HSM, 2, {ALL}, PARAM, 0},
    {HSM, 0, {0, IMAGE + BEGINNER_AT, 0}, AVAILABLE, 0},
    {HSM, 0, {2, IMAGE + BEGINNER_AT, 0}, PARAM, 0},
    {HSM, 0, {1, 0x1000, 0}, ADDRESS, 0},
    {HSM, 0, {1, FINISHER, 0}, ADDRESS, 0},
    {HSM, 0, {1, RAM + 64 * MIB, 0}, ADDRESS, 0},
    {HSM, 0, {1, IMAGE + BEGINNER_AT + 1, 0}, ADDRESS, 0},
    {HSM, 3, {1, 0, 0}, PARAM, 0},
    {HSM, 3, {0x0fffffff, 0, 0}, PARAM, 0},
    {HSM, 3, {0x10000000, 0, 0}, UNSUPPORTED, 0},
    {HSM, 3, {0x80000000, 0x1000, 0}, ADDRESS, 0},
    {HSM, 3, {0, 0, 0}, OK, 0}, /* over at once: there is an IPI */
    {HSM, 4, {0}, UNSUPPORTED, 0},
    {HSM, 0, {1, IMAGE + BEGINNER_AT, 0xabcdef}, OK, 0},
    {HSM, 0, {1, IMAGE + BEGINNER_AT, 0xabcdef}, AVAILABLE, 0}, /* start pending */
    {3, 0, {0, 0x77}, OK, 0x77},                                /* clears the IPI */
    {TIME, 0, {100000}, OK, 0},
    {HSM, 3, {0, 0, 0}, OK, 0}, /* until the timer; the other hart has stopped by then */
    {HSM, 2, {1}, OK, 1},
    {SRST, 0, {3, 0}, PARAM, 0},
    {SRST, 0, {0, 2}, PARAM, 0},
    {SRST, 0, {0xf0000000, 0}, UNSUPPORTED, 0},
    {SRST, 1, {0, 0}, UNSUPPORTED, 0},
    {DBCN, 0, {5, TEXT_AT, 0}, OK, 5},
    {DBCN, 0, {0, TEXT_AT, 0}, OK, 0},
    {DBCN, 0, {5, TEXT_AT, 1}, PARAM, 0},
    {DBCN, 0, {5, 0x1000, 0}, PARAM, 0},
    {DBCN, 0, {5, FINISHER, 0}, PARAM, 0},
    {DBCN, 0, {5, RAM + 64 * MIB - 4, 0}, PARAM, 0},
    {DBCN, 0, {5, ALL - 1, 0}, PARAM, 0},
    {DBCN, 1, {5, IMAGE + 0x7f0, 0}, OK, 0}, /* nobody typed anything */
    {DBCN, 1, {5, FINISHER, 0}, PARAM, 0},
    {DBCN, 2, {'!'}, OK, 0},
    {DBCN, 3, {0}, UNSUPPORTED, 0},
    /* legacy calls leave a1 alone */
    {1, 0, {'?', 0x77}, OK, 0x77},
    {2, 0, {0, 0x77}, -1, 0x77},
    {4, 0, {0, 0x77}, OK, 0x77},
    {4, 0, {MASK_AT, 0x77}, OK, 0x77},
    {4, 0, {0x10, 0x77}, ADDRESS, 0x77},
    {5, 0, {MASK_AT, 0x77}, OK, 0x77},
    {6, 0, {MASK_AT, 0x77}, OK, 0x77},
    {7, 0, {0x10, 0x77}, ADDRESS, 0x77},
    {0, 0, {200000, 0x77}, OK, 0x77},
    {3, 0, {0, 0x77}, OK, 0x77},
    /* begins again as another hart would, and switches the machine off */
    {HSM, 3, {0x80000000, IMAGE + BEGINNER_AT, 0x123456}, OK, 0},
};

static void make_caller(uint8_t *file, size_t size)
{
    struct boot_bytes image;
    make_image(&image, caller, sizeof(caller));
    memcpy(file, image.data, image.size);
    memcpy(file + BEGINNER_AT, beginner, sizeof(beginner));
    memcpy(file + (TEXT_AT - IMAGE), "hello", 5);
    store_le64(file + (MASK_AT - IMAGE), 3);
    const uint64_t then[2][3] = {{SRST, 0, 0}, {HSM, 1, 0}}; /* off; hart stop */
    for (unsigned hart = 0; hart < 2; hart++)
        for (unsigned i = 0; i < 3; i++)
            store_le64(file + NOTES_AT + 64 * hart + 32 + 8 * i, then[hart][i]);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        uint8_t *at = file + CALLS_AT + CALL_BYTES * i;
        assert_true(at + CALL_BYTES <= file + size);
        store_le64(at, calls[i].extension);
        store_le64(at + 8, calls[i].function);
        for (unsigned arg = 0; arg < 3; arg++)
            store_le64(at + 16 + 8 * arg, calls[i].args[arg]);
        store_le64(at + 64, 0xdead); /* results of a call that was never made */
    }
}

static void every_sbi_call(void **state)
{
    static uint8_t file[CALLS_AT + CALL_BYTES * ARRAY_SIZE(calls)];
    (void)state;
    make_caller(file, sizeof(file));
    struct world w;
    world_open(&w);
    world_give(&w, &w.config.kernel, file, sizeof(file));
    /* Deterministic: a hart that is started does not run before the starter's turn ends. */
    w.config.deterministic = true;
    w.config.cpus = 2;
    world_make(&w);
    world_run(&w);
    assert_int_equal(w.end, VM_END_POWEROFF);
    for (size_t i = 0; i + 1 < ARRAY_SIZE(calls); i++) { /* the last does not return */
        int64_t error = (int64_t)guest_word(&w, IMAGE + CALLS_AT + CALL_BYTES * i + 64);
        uint64_t value = guest_word(&w, IMAGE + CALLS_AT + CALL_BYTES * i + 72);
        if (error != calls[i].error || value != calls[i].value)
            fail_msg("call %zu (%#llx, %llu): error %lld, value %#llx; not %lld, %#llx", i,
                     (unsigned long long)calls[i].extension, (unsigned long long)calls[i].function,
                     (long long)error, (unsigned long long)value, (long long)calls[i].error,
                     (unsigned long long)calls[i].value);
    }
    assert_string_equal(w.text, "hello!?");
    static const uint64_t opaque[] = {0x123456, 0xabcdef};
    for (unsigned hart = 0; hart < 2; hart++) {
        uint64_t notes = IMAGE + NOTES_AT + 64 * hart;
        assert_true(guest_word(&w, notes) == hart);
        assert_true(guest_word(&w, notes + 8) == opaque[hart]);
        assert_true(guest_word(&w, notes + 16) == 0);
        assert_true(guest_word(&w, notes + 24) == 0); /* neither call returned */
    }
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sbi_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
