/* SPDX-License-Identifier: MIT
 *
 * See e1000_parts.h.
 */
#include "dev/e1000_parts.h"

#include <stddef.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"

/* ---- EEPROM (5.3, 13.4.3) ---- */

enum {
    EECD_SK = 1,
    EECD_CS = 2,
    EECD_DI = 4,
    EECD_DO = 8,
    EECD_FLASH = 0x10,
    EECD_REQUEST = 0x40,
    EECD_GRANT = 0x80,
    EECD_PRESENT = 0x100
};
enum { EERD_START = 1, EERD_DONE = 0x10 };
/* Start bit, two bits of operation, six of address. */
enum { COMMAND_BITS = 9, COMMAND_READ = 6, ADDRESS_BITS = 6, CHECKSUM_WORD = 63 };

void e1000_eeprom_init(struct e1000_eeprom *eeprom, const uint8_t mac[6])
{
    static const uint16_t fixed[E1000_EEPROM_WORDS] = {
        [0x0a] = 0x4408, [0x0b] = 0x001e, [0x0c] = 0x8086, [0x0d] = 0x100e,
        [0x0e] = 0x8086, [0x0f] = 0x3040, [0x14] = 0x7061, [0x21] = 0x1008,
    };
    uint16_t sum = 0;
    *eeprom = (struct e1000_eeprom){0};
    memcpy(eeprom->words, fixed, sizeof(fixed));
    for (unsigned i = 0; i < 3; i++)
        eeprom->words[i] = load_le16(mac + 2 * i);
    for (unsigned i = 0; i < CHECKSUM_WORD; i++)
        sum = (uint16_t)(sum + eeprom->words[i]);
    eeprom->words[CHECKSUM_WORD] = (uint16_t)(0xbaba - sum); /* 5.6.35 */
}

/* A rising edge of the clock while selected. */
static void clock_bit(struct e1000_eeprom *eeprom, bool in)
{
    if (eeprom->bits_in == COMMAND_BITS) {
        if (eeprom->bits_out > 0)
            eeprom->bits_out--;
        return;
    }
    if (eeprom->bits_in == 0 && !in)
        return; /* waits for the start bit */
    eeprom->shift = (uint16_t)(eeprom->shift << 1 | in);
    if (++eeprom->bits_in < COMMAND_BITS)
        return;
    /* Of all operations only reading does anything: the words are ours. A zero comes first. */
    if (eeprom->shift >> ADDRESS_BITS == COMMAND_READ) {
        eeprom->out = eeprom->words[eeprom->shift & (E1000_EEPROM_WORDS - 1)];
        eeprom->bits_out = 17;
    }
}

void e1000_eeprom_set_pins(struct e1000_eeprom *eeprom, uint32_t eecd)
{
    bool rises = (eecd & EECD_SK) != 0 && (eeprom->pins & EECD_SK) == 0;
    eeprom->pins = eecd & (EECD_SK | EECD_CS | EECD_DI | EECD_FLASH | EECD_REQUEST);
    if ((eecd & EECD_CS) == 0)
        eeprom->shift = eeprom->bits_in = eeprom->bits_out = 0;
    else if (rises)
        clock_bit(eeprom, (eecd & EECD_DI) != 0);
}

uint32_t e1000_eeprom_pins(const struct e1000_eeprom *eeprom)
{
    uint32_t eecd = eeprom->pins | EECD_PRESENT;
    if ((eecd & EECD_REQUEST) != 0)
        eecd |= EECD_GRANT;
    bool one = eeprom->bits_out == 0 ||
               (eeprom->bits_out <= 16 && (eeprom->out >> (eeprom->bits_out - 1) & 1) != 0);
    return one ? eecd | EECD_DO : eecd;
}

uint32_t e1000_eeprom_read(const struct e1000_eeprom *eeprom, uint32_t eerd)
{
    unsigned word = eerd >> 8 & 0xff;
    if ((eerd & EERD_START) == 0 || word >= E1000_EEPROM_WORDS)
        return eerd;
    return (uint32_t)eeprom->words[word] << 16 | word << 8 | EERD_DONE;
}

static bool eeprom_post_restore(void *object, struct error **err)
{
    const struct e1000_eeprom *eeprom = object;
    if (eeprom->bits_in <= COMMAND_BITS && eeprom->bits_out <= 17)
        return true;
    return error_set(err, ERROR_USAGE, "the saved state has an impossible EEPROM");
}

static const struct state_field eeprom_fields[] = {
    STATE_UINT(struct e1000_eeprom, pins, "pins"),
    STATE_UINT(struct e1000_eeprom, shift, "shift"),
    STATE_UINT(struct e1000_eeprom, bits_in, "bits_in"),
    STATE_UINT(struct e1000_eeprom, bits_out, "bits_out"),
    STATE_UINT(struct e1000_eeprom, out, "out"),
    STATE_END,
};
const struct state_table e1000_eeprom_state = {"e1000-eeprom", 1, eeprom_fields, NULL,
                                               eeprom_post_restore};

/* ---- PHY (13.4.8.1 and on) ---- */

enum { MDIC_READ = 2, MDIC_WRITE = 1, MDIC_READY = 1 << 28, MDIC_ERROR = 1 << 30 };
enum { PHY_ADDRESS = 1, PHY_CONTROL = 0, PHY_STATUS = 1, PHY_SPECIFIC_STATUS = 17 };
enum { CONTROL_RESET = 0x8000, CONTROL_RESTART = 0x0200 };
enum { STATUS_LINK = 0x0004, STATUS_NEGOTIATED = 0x0020 };
enum { SPECIFIC_LINK = 0x0400, SPECIFIC_SETTLED = 0x0800 };

void e1000_phy_init(struct e1000_phy *phy)
{
    *phy = (struct e1000_phy){.words = {
                                  [PHY_CONTROL] = 0x1140,
                                  [PHY_STATUS] = 0x7949,
                                  [2] = 0x0141, /* Marvell */
                                  [3] = 0x0c20, /* 88E1011 */
                                  [4] = 0x0de1,
                                  [5] = 0x45e1,
                                  [9] = 0x0e00,
                                  [10] = 0x3c00,
                                  [15] = 0x3000,
                                  [16] = 0x0360,
                                  [PHY_SPECIFIC_STATUS] = 0xa000, /* 1000 Mb/s, full duplex */
                                  [20] = 0x0d60,
                              }};
}

static void set_bits(uint16_t *word, uint16_t bits, bool on)
{
    *word = on ? *word | bits : *word & (uint16_t)~bits;
}

void e1000_phy_set_link(struct e1000_phy *phy, bool up)
{
    set_bits(&phy->words[PHY_STATUS], STATUS_LINK | STATUS_NEGOTIATED, up);
    set_bits(&phy->words[PHY_SPECIFIC_STATUS], SPECIFIC_LINK | SPECIFIC_SETTLED, up);
}

static void phy_write(struct e1000_phy *phy, unsigned reg, uint16_t value)
{
    switch (reg) {
    case PHY_CONTROL: /* resetting and negotiating take no time */
        phy->words[reg] = value & (uint16_t) ~(CONTROL_RESET | CONTROL_RESTART);
        return;
    case PHY_STATUS:
    case 2:
    case 3:
    case 5:
    case 10:
    case 15:
    case PHY_SPECIFIC_STATUS:
        return;
    default:
        phy->words[reg] = value;
    }
}

uint32_t e1000_phy_access(struct e1000_phy *phy, uint32_t mdic)
{
    unsigned reg = mdic >> 16 & 31, operation = mdic >> 26 & 3;
    mdic &= ~(uint32_t)MDIC_ERROR;
    if ((mdic >> 21 & 31) != PHY_ADDRESS)
        return mdic | MDIC_ERROR | MDIC_READY;
    if (operation == MDIC_READ)
        mdic = (mdic & 0xffff0000) | phy->words[reg];
    else if (operation == MDIC_WRITE)
        phy_write(phy, reg, (uint16_t)mdic);
    return mdic | MDIC_READY;
}

static const struct state_field phy_fields[] = {
    STATE_UINTS(struct e1000_phy, words, "words"),
    STATE_END,
};
const struct state_table e1000_phy_state = {"e1000-phy", 1, phy_fields, NULL, NULL};
