/* What `characters.c` and `byte_pairs.c` have in common. */

#ifndef BRICKROAD_LOOPS_H
#define BRICKROAD_LOOPS_H

#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* The character at `text`, of `left` bytes, and how many bytes it takes; 0 if they are no character.
   Surrogates are taken as they are: Python can write them. */
static inline int character_at(const uint8_t *text, int64_t left, uint32_t *code_point)
{
    uint8_t lead = text[0];
    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    int size = lead >= 0xF8 ? 0 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 0;
    if (size == 0 || size > left)
        return 0;
    uint32_t value = lead & (0x7F >> size);
    for (int place = 1; place < size; place++) {
        if ((text[place] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (text[place] & 0x3F);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < least[size]) /* spelt longer than it need be: no UTF-8 */
        return 0;
    *code_point = value;
    return size;
}

#endif
