/* SPDX-License-Identifier: MIT
 *
 * What a learning switch knows: behind which port a MAC address was last seen, per VLAN. A bounded
 * hash table; an entry is forgotten after five minutes (IEEE 802.1D), or earlier when another
 * address needs its place.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_SWITCH_TABLE_H
#define TRAPEZE_NET_SWITCH_TABLE_H

#include <stdint.h>

#include "net/frame.h"

#define NET_TABLE_SLOTS  4096
#define NET_TABLE_AGE_NS (INT64_C(300) * 1000000000)

struct net_table {
    struct net_table_entry {
        uint8_t mac[NET_MAC_BYTES];
        uint16_t vlan;
        int port; /* -1: empty */
        int64_t seen_ns;
    } slots[NET_TABLE_SLOTS];
};

void net_table_init(struct net_table *table);
/* Group addresses are not learnt. */
void net_table_learn(struct net_table *table, const uint8_t *mac, uint16_t vlan, int port,
                     int64_t now_ns);
/* -1: unknown, or a group: every port of the VLAN. */
int net_table_find(const struct net_table *table, const uint8_t *mac, uint16_t vlan,
                   int64_t now_ns);
void net_table_forget(struct net_table *table, int port);

#endif
