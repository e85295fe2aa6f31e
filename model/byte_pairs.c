/* Byte-level byte-pair encoding with GPT-2's words: text to ids, at a few hundred megabytes a second.

   `bpe.py` has the same in Python, which is what to read first, and what runs where this was not compiled. Both give the
   same ids; a test compares them. A text goes through it in pieces that stay in the cache, by these steps:

   1. Where do words begin? Each 64 bytes become numbers of 64 bits, one for each kind of character, and GPT-2's rule becomes
      some shifts and ANDs of them (`find_words`).
   2. Was this word met before? Words of up to 15 bytes are two numbers, which are looked up in a table of a fixed size
      (`encode_piece`). The memory for all words of a piece is asked for at once.
   3. If not, its bytes are merged, pair by pair, the pair first whose merge was learnt first (`merge`). Between two bytes that
      stand beside each other in no token nothing can merge, so a word is cut there before.

   Only step 3 allocates, for what has more than 63 bytes that may merge. Nothing is read or written outside the given arrays,
   whatever the bytes are. Loaded by `compiled.py`, by which alone signatures and structures are known: a change of one of
   them is a new INTERFACE there and in `characters.c`. */

#include <stdlib.h>

#include "loops.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* ---------------------------------------------------------------------------------------------------------------- tables */

enum { OTHER, LETTER, NUMBER, BLANK }; /* kinds of characters */

#define CODE_POINTS 0x110000
#define SYMBOLS 65536      /* bytes, and 256 + n for what the n-th merge makes; the last one is none: */
#define NO_SYMBOL 0xFFFF
#define PAIR_BITS 17       /* of the number of places for pairs: twice as many as there are symbols */
#define WORD_BYTES 15      /* of a word in the table of words: its bytes and then zeros, and its length in the last byte */
#define WORD_IDS 7
#define WAYS 2             /* places where a word may be: those of one line of the cache */
#define PIECE 512          /* bytes of text, and thus words at most, that are looked up together */
#define SHORT 63           /* bytes that are merged without asking for memory */

struct word {
    uint64_t low, high;
    uint16_t ids[WORD_IDS], count;
};

struct byte_pairs {
    const uint8_t *kinds;    /* [CODE_POINTS] */
    const uint16_t *ids;     /* [SYMBOLS] */
    uint16_t *two_bytes;     /* [256 * 256] what two bytes merge to, or NO_SYMBOL */
    uint64_t *neighbours;    /* [256 * 256 / 64] a bit for each two bytes: do they stand beside each other in any token? */
    uint32_t *pairs;         /* [1 << PAIR_BITS] a pair's tag and what it merges to, 16 bits each */
    struct word *words;      /* [WAYS << word_bits], zeros at first */
    int64_t word_bits;
    int64_t end_of_text;     /* its id */
};

/* A pair is in one of two places (cuckoo hashing: Pagh and Rodler 2001). Both hashes can be undone, so the bits that do not say
   where it is, and one for which of the hashes it was, say which pair it is. That takes half the memory that pairs would, and
   the cache has room for it. */
struct places {
    uint32_t first, first_tag, second, second_tag;
};

#define FIRST_FACTOR 0x9E3779B1u
#define SECOND_FACTOR 0x85EBCA6Bu
#define FIRST_INVERSE 0x0E8B2F51u /* times FIRST_FACTOR 1, in 32 bits */
#define SECOND_INVERSE 0xA5CB9243u
#define REST (32 - PAIR_BITS)
#define NOTHING UINT32_MAX

static inline struct places places_of(uint32_t pair)
{
    uint32_t first = pair * FIRST_FACTOR, second = (first ^ first >> 16) * SECOND_FACTOR;
    uint32_t rest = ((uint32_t)1 << REST) - 1;
    return (struct places){first >> REST, (first & rest) << 1, second >> REST, (second & rest) << 1 | 1};
}

/* One number for two symbols. What left ones are added to keeps pairs apart whose symbols are neighbours. */
static inline uint32_t pair_of(uint32_t left, uint32_t right)
{
    return left << 16 | ((left * 0x9E37u + right) & 0xFFFF);
}

/* The pair that has a place and a tag. */
static uint32_t pair_at(uint32_t place, uint32_t tag)
{
    uint32_t first = place << REST | tag >> 1;
    if (tag & 1) {
        first *= SECOND_INVERSE;
        first ^= first >> 16;
    }
    return first * FIRST_INVERSE;
}

/* What two symbols merge to, or NO_SYMBOL. */
static inline uint32_t merge_of(const struct byte_pairs *tables, uint32_t left, uint32_t right)
{
    struct places places = places_of(pair_of(left, right));
    uint32_t first = tables->pairs[places.first], second = tables->pairs[places.second];
    uint32_t found = second >> 16 == places.second_tag ? second : NO_SYMBOL;
    found = first >> 16 == places.first_tag ? first : found;
    return found & 0xFFFF;
}

/* Makes the tables of what merges: of `count` merges the left symbol, the right one and what they make. Of two merges the one
   that makes the smaller symbol was learnt first. `ends` has the last byte of each left symbol and the first byte of each right
   one. Returns 0, or -1 if there is no room. */
EXPORTED int brickroad_byte_pairs_prepare(struct byte_pairs *tables, const uint16_t (*merges)[3],
                                          const uint8_t (*ends)[2], int64_t count)
{
    memset(tables->two_bytes, 0xFF, 256 * 256 * sizeof *tables->two_bytes);
    memset(tables->neighbours, 0, 256 * 256 / 8);
    memset(tables->pairs, 0xFF, sizeof *tables->pairs << PAIR_BITS);
    for (int64_t number = 0; number < count; number++) {
        uint32_t left = merges[number][0], right = merges[number][1], made = merges[number][2];
        if (left < 256 && right < 256)
            tables->two_bytes[left << 8 | right] = (uint16_t)made;
        tables->neighbours[ends[number][0] << 2 | ends[number][1] >> 6] |= (uint64_t)1 << (ends[number][1] & 63);
        struct places places = places_of(pair_of(left, right));
        uint32_t place = places.first, entry = places.first_tag << 16 | made;
        for (int moved = 0; entry != NOTHING; moved++) {
            if (moved == 1000)
                return -1;
            uint32_t other = tables->pairs[place];
            tables->pairs[place] = entry;
            entry = other;
            if (other == NOTHING)
                continue;
            uint32_t tag = other >> 16; /* it goes to its other place */
            places = places_of(pair_at(place, tag));
            place = tag & 1 ? places.first : places.second;
            entry = (tag & 1 ? places.first_tag : places.second_tag) << 16 | (other & 0xFFFF);
        }
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------------- 1: where words begin */

/* Of 64 bytes, a bit for each that is of a kind. Of those that are not ASCII only that is told. */
struct kinds {
    uint64_t letters, numbers, spaces, blanks, apostrophes, not_ascii;
};

#ifdef __SSE2__
static inline struct kinds kinds_of(const struct byte_pairs *tables, const uint8_t *text)
{
    struct kinds kinds = {0, 0, 0, 0, 0, 0};
    (void)tables;
    for (int place = 0; place < 64; place += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(text + place));
        __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
#define BITS(bytes) ((uint64_t)(uint32_t)_mm_movemask_epi8(bytes) << place)
#define EQUALS(bytes, one) _mm_cmpeq_epi8(bytes, _mm_set1_epi8(one))
#define FROM(bytes, first) _mm_sub_epi8(bytes, _mm_set1_epi8(first))
#define AT_MOST(bytes, most) _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(most)), bytes)
        kinds.letters |= BITS(AT_MOST(FROM(lower, 'a'), 25));
        kinds.numbers |= BITS(AT_MOST(FROM(bytes, '0'), 9));
        kinds.spaces |= BITS(EQUALS(bytes, ' '));
        kinds.blanks |= BITS(_mm_or_si128(EQUALS(bytes, ' '), AT_MOST(FROM(bytes, '\t'), 4)));
        kinds.apostrophes |= BITS(EQUALS(bytes, '\''));
        kinds.not_ascii |= BITS(bytes);
    }
    return kinds;
}
#else
static inline struct kinds kinds_of(const struct byte_pairs *tables, const uint8_t *text)
{
    struct kinds kinds = {0, 0, 0, 0, 0, 0};
    for (int place = 0; place < 64; place++) {
        uint8_t byte = text[place], kind = byte < 0x80 ? tables->kinds[byte] : OTHER;
        kinds.letters |= (uint64_t)(kind == LETTER) << place;
        kinds.numbers |= (uint64_t)(kind == NUMBER) << place;
        kinds.spaces |= (uint64_t)(byte == ' ') << place;
        kinds.blanks |= (uint64_t)(kind == BLANK) << place;
        kinds.apostrophes |= (uint64_t)(byte == '\'') << place;
        kinds.not_ascii |= (uint64_t)(byte >= 0x80) << place;
    }
    return kinds;
}
#endif

static inline int lowest_bit(uint64_t bits)
{
    return __builtin_ctzll(bits);
}

static inline uint64_t bit(int place)
{
    return (uint64_t)1 << place;
}

static inline int count_bits(uint64_t bits)
{
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    return (int)(((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
}

/* The kind of the character at `text`, and how many bytes it takes: 0 if they are no character. */
static inline int kind_at(const struct byte_pairs *tables, const uint8_t *text, int64_t left, int *length)
{
    uint32_t code_point = 0;
    *length = character_at(text, left, &code_point);
    if (code_point >= CODE_POINTS)
        *length = 0;
    return *length ? tables->kinds[code_point] : OTHER;
}

/* How many bytes at an apostrophe are one of GPT-2's endings: 's 't 'm 'd 'll 've 're. */
static inline int ending_at(const uint8_t *text, int64_t left)
{
    uint8_t second = left > 1 ? text[1] : 0, third = left > 2 ? text[2] : 0;
    if (second == 's' || second == 't' || second == 'm' || second == 'd')
        return 2;
    return (second == 'l' && third == 'l') || ((second == 'v' || second == 'r') && third == 'e') ? 3 : 0;
}

/* Sets a bit of `starts` for each byte of a text with which a word begins: `size` bits, and zeros to a multiple of 64.
   Returns 0 if the text is not UTF-8.

   The rule is the pattern 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ (openai/gpt-2,
   src/encoder.py). Told by neighbours: a word begins where a run of letters, of numbers or of others begins, or at the space
   (U+0020) before it; blanks are one word, but the last one before anything else is one of its own, or begins what follows. */
static int find_words(const struct byte_pairs *tables, const uint8_t *text, int64_t size, uint64_t *starts)
{
    /* Each of the byte before these 64: 1 or 0. `own_blank`: a blank of one byte. */
    uint64_t letter = 0, number = 0, other = 0, space = 0, blank = 0, own_blank = 0;
    uint64_t reaching = 0; /* bytes of a character that began before these 64, of this kind: */
    int reaching_kind = OTHER;
    uint64_t begin = 0, inside = 0; /* what an ending before these 64 says of them: a word begins here; none begins here */
    for (int64_t base = 0; base < size; base += 64) {
        uint8_t last[64];
        const uint8_t *block = text + base;
        uint64_t within = ~(uint64_t)0;
        if (size - base < 64) {
            memset(last, ' ', 64); /* after the text: blanks at its end are followed by nothing else */
            memcpy(last, block, size - base);
            block = last;
            within = bit(size - base) - 1;
        }
        struct kinds kinds = kinds_of(tables, block);
        uint64_t wide_blank = 0; /* bytes of a blank of many bytes, but its first one */
        if (kinds.not_ascii | reaching) {
            uint64_t known = reaching;
            kinds.letters |= reaching_kind == LETTER ? reaching : 0;
            kinds.numbers |= reaching_kind == NUMBER ? reaching : 0;
            kinds.blanks |= reaching_kind == BLANK ? reaching : 0;
            wide_blank |= reaching_kind == BLANK ? reaching : 0;
            reaching = 0;
            for (uint64_t left; (left = kinds.not_ascii & ~known) != 0;) {
                int place = lowest_bit(left), length, next_length;
                int64_t at = base + place;
                int kind = kind_at(tables, text + at, size - at, &length);
                if (length == 0)
                    return 0;
                uint64_t bytes = (bit(length) - 1) << place;
                if (place + length > 64) {
                    reaching = bit(place + length - 64) - 1;
                    reaching_kind = kind;
                }
                known |= bytes;
                kinds.letters |= kind == LETTER ? bytes : 0;
                kinds.numbers |= kind == NUMBER ? bytes : 0;
                if (kind == BLANK) {
                    kinds.blanks |= bytes;
                    wide_blank |= bytes & ~bit(place);
                    at += length;
                    if (at < size && kind_at(tables, text + at, size - at, &next_length) != BLANK)
                        begin |= bit(place);
                }
            }
            if (known != kinds.not_ascii)
                return 0;
        }
        uint64_t others = ~(kinds.letters | kinds.numbers | kinds.blanks);
        uint64_t first = (kinds.letters & ~(kinds.letters << 1 | letter)) |
                         (kinds.numbers & ~(kinds.numbers << 1 | number)) | (others & ~(others << 1 | other));
        uint64_t first_blank = kinds.blanks & ~(kinds.blanks << 1 | blank);
        /* Of the last byte of the 64 it is known only now whether it is the last blank. A wide one was looked at above. */
        uint64_t own_blanks = kinds.blanks & ~wide_blank;
        uint64_t last_blank = own_blanks & ~(kinds.blanks >> 1) & ~bit(63);
        if (base)
            starts[base / 64 - 1] |= (own_blank & ~kinds.blanks) << 63;
        uint64_t found = (first & ~(kinds.spaces << 1 | space)) | first_blank | last_blank;
        found = (found & ~inside) | begin;
        begin = inside = 0;
        for (uint64_t left = kinds.apostrophes & found; left; left &= left - 1) {
            int place = lowest_bit(left), length = ending_at(text + base + place, size - base - place);
            if (length == 0)
                continue;
            if (place + 1 < 64)
                found &= ~bit(place + 1);
            else
                inside = 1;
            if (place + length < 64)
                found |= bit(place + length);
            else
                begin = bit(place + length - 64);
        }
        starts[base / 64] = found & within;
        letter = kinds.letters >> 63, number = kinds.numbers >> 63, other = others >> 63;
        space = kinds.spaces >> 63, blank = kinds.blanks >> 63, own_blank = own_blanks >> 63;
    }
    return reaching == 0;
}

/* ------------------------------------------------------------------------------------------------------- 3: merging bytes */

/* Merges up to SHORT bytes. Returns how many ids were written. */
static int merge_short(const struct byte_pairs *tables, const uint8_t *bytes, int size, uint16_t *ids)
{
    uint16_t symbols[SHORT + 1];
    uint32_t candidates[SHORT + 1]; /* what a symbol and the next one merge to, and its place: the smallest merges first */
    uint64_t standing = bit(size) - 1; /* the places of symbols that no other one before them has taken in */
    for (int place = 0; place < size; place++)
        symbols[place] = bytes[place];
    for (int place = 0; place + 1 < size; place++)
        candidates[place] = (uint32_t)tables->two_bytes[bytes[place] << 8 | bytes[place + 1]] << 16 | place;
    candidates[size - 1] = NOTHING;
    symbols[SHORT] = NO_SYMBOL; /* stands for the one before the first and the one after the last */
    for (;;) {
        uint32_t best = NOTHING;
        for (uint64_t left = standing; left; left &= left - 1) {
            uint32_t one = candidates[lowest_bit(left)];
            best = one < best ? one : best;
        }
        uint32_t made = best >> 16, place = best & 0xFFFF;
        if (made == NO_SYMBOL)
            break;
        uint64_t later = standing & ~(bit(place + 1) - 1), earlier = standing & (bit(place) - 1);
        standing ^= later & -later;
        later &= later - 1;
        int next = lowest_bit(later | bit(SHORT)), previous = earlier ? 63 - __builtin_clzll(earlier) : SHORT;
        symbols[place] = (uint16_t)made;
        candidates[place] = merge_of(tables, made, symbols[next]) << 16 | place;
        candidates[previous] = merge_of(tables, symbols[previous], made) << 16 | previous;
    }
    int count = 0;
    for (; standing; standing &= standing - 1)
        ids[count++] = tables->ids[symbols[lowest_bit(standing)]];
    return count;
}

/* A binary heap, the smallest first: what a symbol and the next one merge to, and its place, in 32 bits each. */
static void heap_push(uint64_t *heap, int64_t size, uint64_t one)
{
    int64_t place = size;
    for (; place > 0 && heap[(place - 1) / 2] > one; place = (place - 1) / 2)
        heap[place] = heap[(place - 1) / 2];
    heap[place] = one;
}

static uint64_t heap_pop(uint64_t *heap, int64_t size)
{
    uint64_t first = heap[0], one = heap[--size];
    int64_t place = 0;
    for (int64_t child; (child = 2 * place + 1) < size; place = child) {
        child += child + 1 < size && heap[child + 1] < heap[child];
        if (heap[child] >= one)
            break;
        heap[place] = heap[child];
    }
    heap[place] = one;
    return first;
}

/* Merges any number of bytes up to 4 GB. Returns how many ids were written, or -1 if there is not enough memory.
   Each merge takes a symbol away and adds two candidates, so that there are never more than three for each byte. */
static int64_t merge_long(const struct byte_pairs *tables, const uint8_t *bytes, int64_t size, uint16_t *ids)
{
    const uint32_t none = UINT32_MAX;
    uint64_t *heap = size < none ? malloc(size * (3 * sizeof *heap + 2 * sizeof(uint32_t) + sizeof(uint16_t))) : NULL;
    if (!heap)
        return -1;
    uint32_t *previous = (uint32_t *)(heap + 3 * size), *next = previous + size;
    uint16_t *symbols = (uint16_t *)(next + size);
    int64_t candidates = 0, count = 0;
#define OFFER(place)                                                                                                     \
    do {                                                                                                                 \
        uint32_t made = merge_of(tables, symbols[place], symbols[next[place]]);                                          \
        if (made != NO_SYMBOL)                                                                                           \
            heap_push(heap, candidates++, (uint64_t)made << 32 | (place));                                               \
    } while (0)
    for (int64_t place = 0; place < size; place++) {
        symbols[place] = bytes[place];
        previous[place] = place ? place - 1 : none;
        next[place] = place + 1 < size ? place + 1 : none;
    }
    for (int64_t place = 0; place + 1 < size; place++)
        OFFER(place);
    while (candidates) {
        uint64_t best = heap_pop(heap, candidates--);
        uint32_t place = (uint32_t)best, right = next[place];
        if (symbols[place] == NO_SYMBOL || right == none)
            continue; /* was taken in meanwhile */
        uint32_t made = merge_of(tables, symbols[place], symbols[right]);
        if (made != best >> 32)
            continue; /* is another pair meanwhile */
        symbols[place] = (uint16_t)made;
        symbols[right] = NO_SYMBOL;
        next[place] = next[right];
        if (next[place] != none) {
            previous[next[place]] = place;
            OFFER(place);
        }
        if (previous[place] != none)
            OFFER(previous[place]);
    }
    for (uint32_t place = 0; place != none; place = next[place])
        ids[count++] = tables->ids[symbols[place]];
    free(heap);
    return count;
}

/* The ids of bytes that may merge. Returns how many were written, or -1 if there is not enough memory. */
static inline int64_t merge_bytes(const struct byte_pairs *tables, const uint8_t *bytes, int64_t size, uint16_t *ids)
{
    if (size > SHORT)
        return merge_long(tables, bytes, size, ids);
    if (size > 2)
        return merge_short(tables, bytes, (int)size, ids);
    uint32_t both = size == 2 ? tables->two_bytes[bytes[0] << 8 | bytes[1]] : NO_SYMBOL;
    if (both != NO_SYMBOL) {
        ids[0] = tables->ids[both];
        return 1;
    }
    for (int place = 0; place < size; place++)
        ids[place] = tables->ids[bytes[place]];
    return size;
}

/* The ids of a word that is not in the table. Returns how many were written, or -1 if there is not enough memory. */
static int64_t merge(const struct byte_pairs *tables, const uint8_t *word, int64_t size, uint16_t *ids)
{
    int64_t count = 0, from = 0;
    for (int64_t to = 1; to <= size; to++) {
        if (to < size && tables->neighbours[word[to - 1] << 2 | word[to] >> 6] >> (word[to] & 63) & 1)
            continue;
        int64_t more = merge_bytes(tables, word + from, to - from, ids + count);
        if (more < 0)
            return -1;
        count += more;
        from = to;
    }
    return count;
}

/* ---------------------------------------------------------------------------------------------------- 2: looking words up */

/* A word on its way: its bytes as in `struct word`, and where it may be. */
struct lookup {
    uint64_t low, high;
    struct word *place;
};

/* What is a word's in the first and the second 8 bytes of text, by its size. */
static const uint64_t masks[WORD_BYTES + 1][2] = {
#define SOME(bytes) (((uint64_t)1 << 8 * (bytes)) - 1)
#define ALL (~(uint64_t)0)
    {SOME(0), 0},   {SOME(1), 0},   {SOME(2), 0},   {SOME(3), 0},   {SOME(4), 0},   {SOME(5), 0},
    {SOME(6), 0},   {SOME(7), 0},   {ALL, 0},       {ALL, SOME(1)}, {ALL, SOME(2)}, {ALL, SOME(3)},
    {ALL, SOME(4)}, {ALL, SOME(5)}, {ALL, SOME(6)}, {ALL, SOME(7)},
};

/* The table has no word like this, with a length of 255: what is longer than WORD_BYTES. */
static const uint64_t too_long = ~(uint64_t)0;

/* Writes the ids of the words of a text that begin at the places `starts`, of which the last one is the end of the last word.
   No byte from `limit` on is read. Returns where the ids end, or NULL if there is not enough memory. */
static uint16_t *encode_piece(const struct byte_pairs *tables, const uint8_t *text, const uint8_t *limit,
                              const int64_t *starts, int words, uint16_t *ids)
{
    struct lookup lookups[PIECE + 1];
    struct word *const table = tables->words;
    const int shift = 64 - (int)tables->word_bits;
    for (int number = 0; number < words; number++) {
        const uint8_t *bytes = text + starts[number];
        int64_t size = starts[number + 1] - starts[number];
        uint64_t low = 0, high = too_long;
        if (size <= WORD_BYTES) {
            uint64_t two[2] = {0, 0};
            if (limit - bytes >= 16)
                memcpy(two, bytes, 16);
            else
                memcpy(two, bytes, size);
            low = two[0] & masks[size][0];
            high = (two[1] & masks[size][1]) | (uint64_t)size << 56;
        }
        uint64_t hash = low * 0x9E3779B97F4A7C15u + high * 0xD6E8FEB86659FD93u;
        hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u;
        struct word *place = table + (hash >> shift) * WAYS;
        __builtin_prefetch(place);
        lookups[number] = (struct lookup){low, high, place};
    }
    for (int number = 0; number < words; number++) {
        const struct lookup *one = lookups + number;
        struct word *first = one->place, *second = first + 1;
        if (first->low == one->low && first->high == one->high) {
            memcpy(ids, first->ids, sizeof first->ids);
            ids += first->count;
        } else if (second->low == one->low && second->high == one->high) {
            struct word found = *second; /* met again: from now on only a word that is, too, takes its place */
            *second = *first;
            *first = found;
            memcpy(ids, found.ids, sizeof found.ids);
            ids += found.count;
        } else {
            int64_t size = starts[number + 1] - starts[number];
            int64_t count = merge(tables, text + starts[number], size, ids);
            if (count < 0)
                return NULL;
            if (size <= WORD_BYTES && count <= WORD_IDS) {
                second->low = one->low, second->high = one->high;
                memcpy(second->ids, ids, sizeof second->ids);
                second->count = (uint16_t)count;
            }
            ids += count;
        }
    }
    return ids;
}

/* Writes the ids of texts that stand one after another, each of so many bytes, and end-of-text after each.

   `starts` is scratch: a number for each 64 bytes of the longest text, begun ones too. `ids` must have room for as many as the
   texts have bytes, one more for each text, and 7 more; `counts`, of the ids of each text, for `texts` numbers. Returns how
   many ids were written, -1 if the texts are not UTF-8, or -2 if there is not enough memory for a word. The table of words
   changes: two threads must not be here at once with one table. */
EXPORTED int64_t brickroad_byte_pairs_encode(struct byte_pairs *tables, const uint8_t *text, const int64_t *sizes,
                                             int64_t texts, uint64_t *starts, uint16_t *ids, int64_t *counts)
{
    const uint8_t *limit = text;
    uint16_t *next = ids;
    int64_t words[PIECE + 1 + 8]; /* where they begin; eight are written at a time */
    for (int64_t number = 0; number < texts; number++)
        limit += sizes[number];
    for (int64_t number = 0; number < texts; text += sizes[number++]) {
        const uint16_t *first = next;
        int64_t size = sizes[number], blocks = (size + 63) / 64;
        if (!find_words(tables, text, size, starts))
            return -1;
        int count = 0; /* of words whose end is not known yet: none, then one */
        for (int64_t block = 0; block < blocks;) {
            for (int64_t end = block + PIECE / 64; block < end && block < blocks; block++) {
                uint64_t bits = starts[block];
                int64_t *into = words + count;
                count += count_bits(bits);
                while (bits)
                    for (int one = 0; one < 8; one++, bits &= bits - 1)
                        *into++ = block * 64 + lowest_bit(bits | bit(63));
            }
            if (block == blocks)
                words[count++] = size;
            next = encode_piece(tables, text, limit, words, count - 1, next);
            if (!next)
                return -2;
            words[0] = words[count - 1];
            count = 1;
        }
        *next++ = (uint16_t)tables->end_of_text;
        counts[number] = next - first;
    }
    return next - ids;
}
