/* SPDX-License-Identifier: MIT
 *
 * The two chips that an 82540EM has at its side, as its registers reach them: a Microwire EEPROM
 * of 64 words (93C46) and a Marvell 88E1011 PHY.
 *
 * Threads: under the device's lock.
 */
#ifndef TRAPEZE_DEV_E1000_PARTS_H
#define TRAPEZE_DEV_E1000_PARTS_H

#include <stdbool.h>
#include <stdint.h>

struct state_table;

#define E1000_EEPROM_WORDS 64
#define E1000_PHY_WORDS    32

struct e1000_eeprom {
    uint16_t words[E1000_EEPROM_WORDS]; /* constant: from the MAC address */
    uint32_t pins;                      /* EECD as written */
    uint16_t shift;                     /* bits that came in since the start bit */
    uint8_t bits_in, bits_out;          /* how many; of the word that goes out, still to come */
    uint16_t out;
};

struct e1000_phy {
    uint16_t words[E1000_PHY_WORDS];
};

void e1000_eeprom_init(struct e1000_eeprom *eeprom, const uint8_t mac[6]);
void e1000_eeprom_set_pins(struct e1000_eeprom *eeprom, uint32_t eecd);
uint32_t e1000_eeprom_pins(const struct e1000_eeprom *eeprom);
/* What EERD reads after `eerd` was written to it (13.4.4). */
uint32_t e1000_eeprom_read(const struct e1000_eeprom *eeprom, uint32_t eerd);

void e1000_phy_init(struct e1000_phy *phy);
void e1000_phy_set_link(struct e1000_phy *phy, bool up);
/* What MDIC reads after `mdic` was written to it (13.4.8). */
uint32_t e1000_phy_access(struct e1000_phy *phy, uint32_t mdic);

extern const struct state_table e1000_eeprom_state, e1000_phy_state;

#endif
