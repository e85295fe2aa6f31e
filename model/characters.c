/* The two loops of the character tokenizer that see every byte of a corpus: counting characters, and turning them into ids.

   `tokenizer.py` has the same in numpy, which is what to read first, and what runs where this was not compiled. Both give
   the same results; a test compares them. Nothing here allocates, and nothing is read or written outside the given arrays,
   whatever the bytes are. Loaded by `compiled.py`, by which alone the signatures are known: a change of one of them is a
   new INTERFACE there and here. */

#include "loops.h"

EXPORTED const int32_t brickroad_interface = 3;

#define NOT_ASCII 0x8080808080808080u

/* Adds the characters of a text of `size` bytes to `counts`, by code point, of which there are `length`.
   Returns how many bytes were counted: less than `size` if the next character has no place there, or is none. */
EXPORTED int64_t brickroad_count(const uint8_t *text, int64_t size, int64_t *counts, int64_t length)
{
    int64_t ascii[4][128]; /* in turn, or the CPU waits for one addition before the next to the same character */
    int64_t at = 0;
    uint32_t code_point;
    memset(ascii, 0, sizeof ascii);
    while (at < size) {
        uint64_t word;
        while (size - at >= 8 && (memcpy(&word, text + at, 8), (word & NOT_ASCII) == 0)) {
            for (int place = 0; place < 8; place++)
                ascii[place & 3][text[at + place]]++;
            at += 8;
        }
        if (at == size)
            break;
        int bytes = character_at(text + at, size - at, &code_point);
        if (bytes == 0 || (int64_t)code_point >= length)
            break;
        counts[code_point]++;
        at += bytes;
    }
    for (int place = 0; place < 128 && place < length; place++)
        counts[place] += ascii[0][place] + ascii[1][place] + ascii[2][place] + ascii[3][place];
    return at;
}

/* Writes the ids of texts that stand one after another, each of so many bytes, and `end_of_text` after each.

   `known` has `length` ids by code point, and its last one stands for all code points beyond; a character that has the id
   `first_byte` there gets one id for each of its bytes. `ids` must have room for as many as the texts have bytes, and one
   more for each text; `counts`, of the ids of each text, for `texts` numbers. Returns how many ids were written, or -1 if the
   texts are not UTF-8. */
#define ENCODE(name, id_type)                                                                                            \
    EXPORTED int64_t name(const uint8_t *text, const int64_t *sizes, int64_t texts, const id_type *known,                \
                          int64_t length, id_type first_byte, id_type end_of_text, id_type *ids, int64_t *counts)        \
    {                                                                                                                    \
        id_type ascii[128];                                                                                              \
        for (int64_t byte = 0; byte < 128; byte++) {                                                                     \
            id_type id = known[byte < length ? byte : length - 1];                                                       \
            ascii[byte] = id == first_byte ? (id_type)(first_byte + byte) : id;                                          \
        }                                                                                                                \
        id_type *next = ids;                                                                                             \
        for (int64_t number = 0; number < texts; text += sizes[number++]) {                                              \
            const id_type *first = next;                                                                                 \
            int64_t at = 0, size = sizes[number];                                                                        \
            while (at < size) {                                                                                          \
                uint64_t word;                                                                                           \
                while (size - at >= 8 && (memcpy(&word, text + at, 8), (word & NOT_ASCII) == 0)) {                       \
                    for (int place = 0; place < 8; place++)                                                              \
                        next[place] = ascii[text[at + place]];                                                           \
                    at += 8;                                                                                             \
                    next += 8;                                                                                           \
                }                                                                                                        \
                if (at == size)                                                                                          \
                    break;                                                                                               \
                uint32_t code_point;                                                                                     \
                int bytes = character_at(text + at, size - at, &code_point);                                             \
                if (bytes == 0)                                                                                          \
                    return -1;                                                                                           \
                id_type id = known[code_point < length ? code_point : length - 1];                                       \
                if (id != first_byte)                                                                                    \
                    *next++ = id;                                                                                        \
                else                                                                                                     \
                    for (int place = 0; place < bytes; place++)                                                          \
                        *next++ = (id_type)(first_byte + text[at + place]);                                              \
                at += bytes;                                                                                             \
            }                                                                                                            \
            *next++ = end_of_text;                                                                                       \
            counts[number] = next - first;                                                                               \
        }                                                                                                                \
        return next - ids;                                                                                               \
    }

ENCODE(brickroad_encode_uint16, uint16_t)
ENCODE(brickroad_encode_uint32, uint32_t)
