/* SPDX-License-Identifier: MIT
 *
 * "Did you mean …?" for options, commands and configuration keys.
 */
#ifndef TRAPEZE_CONFIG_SUGGEST_H
#define TRAPEZE_CONFIG_SUGGEST_H

#include <stddef.h>

/* Keeps the candidate nearest to a mistyped word. */
struct suggest {
    const char *word;
    const char *best; /* borrowed from suggest_offer(); NULL while nothing is near */
    size_t best_distance;
};

void suggest_start(struct suggest *suggest, const char *word);
void suggest_offer(struct suggest *suggest, const char *candidate);

#endif
