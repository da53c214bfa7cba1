/* SPDX-License-Identifier: MIT
 *
 * See imsic.h. The line is driven with the lock held, so that two threads that change a file
 * cannot leave it at the level of the one that came first.
 */
#include "isa/riscv64/imsic.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "isa/riscv64/hart.h"

/* Registers by number (A §3.8). */
enum { EIDELIVERY = 0x70, EITHRESHOLD = 0x72, EIP0 = 0x80, EIE0 = 0xc0, FILE_END = 0x100 };

static const unsigned line_of[RV_IMSIC_LEVELS] = {
    [RV_IMSIC_M] = RV_IRQ_MEI,
    [RV_IMSIC_S] = RV_IRQ_SEI,
};

/* Lower identities come first; 0: none. */
static unsigned top(const struct rv_imsic_file *file)
{
    for (unsigned word = 0; word < RV_IMSIC_WORDS; word++) {
        uint64_t ready = file->pending[word] & file->enabled[word];
        if (ready == 0)
            continue;
        unsigned identity = 64 * word + (unsigned)__builtin_ctzll(ready);
        return file->threshold == 0 || identity < file->threshold ? identity : 0;
    }
    return 0;
}

static void drive(struct rv_hart *hart, enum rv_imsic_level level)
{
    const struct rv_imsic_file *file = &hart->imsic.file[level];
    vcpu_set_interrupt(&hart->vcpu, line_of[level], file->delivery == 1 && top(file) != 0);
}

void rv_imsic_init(struct rv_hart *hart, bool present)
{
    pthread_mutex_init(&hart->imsic.lock, NULL);
    hart->imsic.present = present;
    if (present)
        hart->vcpu.messages = &rv_imsic_messages;
}

void rv_imsic_destroy(struct rv_hart *hart)
{
    pthread_mutex_destroy(&hart->imsic.lock);
}

void rv_imsic_restored(struct rv_hart *hart)
{
    if (!hart->imsic.present)
        return;
    pthread_mutex_lock(&hart->imsic.lock);
    for (unsigned level = 0; level < RV_IMSIC_LEVELS; level++)
        drive(hart, level);
    pthread_mutex_unlock(&hart->imsic.lock);
}

/* ---- messages ---- */

static void send(struct vcpu *vcpu, unsigned level, uint32_t identity)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    if (level >= RV_IMSIC_LEVELS || identity == 0 || identity > RV_IMSIC_IDENTITIES)
        return;
    pthread_mutex_lock(&hart->imsic.lock);
    hart->imsic.file[level].pending[identity / 64] |= UINT64_C(1) << (identity % 64);
    drive(hart, level);
    pthread_mutex_unlock(&hart->imsic.lock);
}

static void reset(struct vcpu *vcpu)
{
    struct rv_hart *hart = rv_hart_of(vcpu);
    pthread_mutex_lock(&hart->imsic.lock);
    for (unsigned level = 0; level < RV_IMSIC_LEVELS; level++) {
        hart->imsic.file[level] = (struct rv_imsic_file){0};
        drive(hart, level);
    }
    pthread_mutex_unlock(&hart->imsic.lock);
}

const struct vcpu_messages rv_imsic_messages = {send, reset};

/* ---- the owner's side ---- */

uint64_t rv_imsic_top(struct rv_hart *hart, enum rv_imsic_level level)
{
    struct rv_imsic_file *file = &hart->imsic.file[level];
    pthread_mutex_lock(&hart->imsic.lock);
    unsigned identity = file->reported = top(file);
    pthread_mutex_unlock(&hart->imsic.lock);
    return (uint64_t)identity << 16 | identity;
}

void rv_imsic_claim(struct rv_hart *hart, enum rv_imsic_level level, bool reported)
{
    struct rv_imsic_file *file = &hart->imsic.file[level];
    pthread_mutex_lock(&hart->imsic.lock);
    unsigned identity = reported ? file->reported : top(file);
    /* Identity 0 does not exist, its bit is never set. */
    file->pending[identity / 64] &= ~(UINT64_C(1) << (identity % 64));
    drive(hart, level);
    pthread_mutex_unlock(&hart->imsic.lock);
}

/* The eip or eie word that a register shows, NULL for those behind the last identity. */
static uint64_t *word_of(struct rv_imsic_file *file, unsigned number)
{
    unsigned word = (number - (number < EIE0 ? EIP0 : EIE0)) / 2;
    uint64_t *words = number < EIE0 ? file->pending : file->enabled;
    return word < RV_IMSIC_WORDS ? &words[word] : NULL;
}

bool rv_imsic_exists(unsigned number)
{
    /* Of the arrays' 32-bit registers RV64 has every other one (A §3.8.3). */
    return number >= EIDELIVERY && number < FILE_END && (number < EIP0 || number % 2 == 0);
}

uint64_t rv_imsic_read(struct rv_hart *hart, enum rv_imsic_level level, unsigned number)
{
    struct rv_imsic_file *file = &hart->imsic.file[level];
    uint64_t value = 0;
    pthread_mutex_lock(&hart->imsic.lock);
    if (number == EIDELIVERY)
        value = file->delivery;
    else if (number == EITHRESHOLD)
        value = file->threshold;
    else if (number >= EIP0 && word_of(file, number) != NULL)
        value = *word_of(file, number);
    pthread_mutex_unlock(&hart->imsic.lock);
    return value;
}

static uint64_t changed(uint64_t old, uint64_t set, uint64_t clear)
{
    return (old | set) & ~clear;
}

void rv_imsic_write(struct rv_hart *hart, enum rv_imsic_level level, unsigned number, uint64_t set,
                    uint64_t clear)
{
    struct rv_imsic_file *file = &hart->imsic.file[level];
    pthread_mutex_lock(&hart->imsic.lock);
    uint64_t *word = number >= EIP0 ? word_of(file, number) : NULL;
    if (number == EIDELIVERY) {
        uint64_t value = changed(file->delivery, set, clear);
        if (value <= 1) /* WARL: another value changes nothing */
            file->delivery = value;
    } else if (number == EITHRESHOLD) {
        file->threshold = changed(file->threshold, set, clear) & RV_IMSIC_IDENTITIES;
    } else if (word != NULL) {
        uint64_t fixed = word == file->pending || word == file->enabled ? 1 : 0;
        *word = changed(*word, set, clear) & ~fixed;
    }
    drive(hart, level);
    pthread_mutex_unlock(&hart->imsic.lock);
}

/* ---- state ---- */

static bool file_restored(void *object, struct error **err)
{
    struct rv_imsic_file *file = object;
    file->reported = 0;
    if (file->delivery <= 1 && file->threshold <= RV_IMSIC_IDENTITIES &&
        ((file->pending[0] | file->enabled[0]) & 1) == 0)
        return true;
    error_set(err, ERROR_HOST, "a hart's interrupt file has impossible contents");
    error_hint(err, "The saved state is damaged or was made by another version of Trapeze");
    return false;
}

static const struct state_field file_fields[] = {
    STATE_UINT(struct rv_imsic_file, delivery, "eidelivery"),
    STATE_UINT(struct rv_imsic_file, threshold, "eithreshold"),
    STATE_UINTS(struct rv_imsic_file, pending, "eip"),
    STATE_UINTS(struct rv_imsic_file, enabled, "eie"),
    STATE_END,
};

const struct state_table rv_imsic_file_state = {"imsic-file", 1, file_fields, NULL, file_restored};
