/* SPDX-License-Identifier: MIT
 *
 * Edit distance with adjacent transpositions (optimal string alignment), without case. A
 * candidate counts as near when about a third of its letters or fewer are wrong, or when the
 * word is the beginning of it.
 */
#include "config/suggest.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { LONGEST = 64 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][LONGEST + 1];
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b_length; j++)
        above[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                cb == tolower((unsigned char)a[i - 2]))
                row[j] = least(row[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_length];
}

void suggest_start(struct suggest *suggest, const char *word)
{
    suggest->word = word;
    suggest->best = NULL;
    suggest->best_distance = strlen(word) / 3 + 2;
}

void suggest_offer(struct suggest *suggest, const char *candidate)
{
    size_t word_length = strlen(suggest->word), length = strlen(candidate);
    if (word_length == 0 || word_length > LONGEST || length > LONGEST)
        return;
    size_t found = distance(suggest->word, word_length, candidate, length);
    if (word_length >= 3 && strncasecmp(suggest->word, candidate, word_length) == 0)
        found = 1;
    if (found < suggest->best_distance && found < length) {
        suggest->best = candidate;
        suggest->best_distance = found;
    }
}
