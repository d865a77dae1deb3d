/* Matrix products in whole numbers of 8 bits, for rollouts; a part of kernels.c.
 *
 * A weight is a whole number from -127 to 127 times a scale that its output has; an input is one times a scale
 * that it shares with the GROUP of inputs of its row in which it stands. Both scales are found from the largest
 * number there is ("W8A8", symmetric, dynamic). Some inputs of a language model are a hundred times as large as
 * most; with groups they spoil only their neighbours: SmolLM2's log-probabilities are 0.09 nats off in place of
 * 0.22. Sums within a group are exact. Weights are kept plus 128, since the instruction (VNNI's vpdpbusd) wants
 * one factor without a sign: sum of x w = sum of x (w + 128) - 128 · sum of x.
 * Numbers that are not finite make a scale NaN, and so all that it multiplies. */

#ifdef __AVX512VNNI__
#include <immintrin.h>
#define FAST_INT8 1
#else
#define FAST_INT8 0
#endif

/* Outputs of a panel; rows of a tile; rows whose whole numbers are kept at a time; inputs that share a scale;
 * inputs summed at once. */
enum { INT8_WIDE = 32, INT8_ROWS = 6, INT8_BLOCK = 66, GROUP = 64, FOUR = 4, LARGEST = 127, ABOVE = 128 };

/* The scale of a group, and what to begin its sums with: -128 · the sum of its whole numbers. */
typedef struct {
    float scale;
    int32_t start;
} group;

typedef int32_t whole __attribute__((vector_size(64), aligned(4)));
typedef float real __attribute__((vector_size(64), aligned(4)));

/* True if the processor has an instruction for it; without one, float32 is faster. */
int fast_int8(void) { return FAST_INT8; }

int64_t int8_width(void) { return INT8_WIDE; }

/* Bytes of a packed matrix: the scales of its outputs, then its panels. */
int64_t int8_bytes(int64_t inputs, int64_t outputs) {
    return padded(outputs, INT8_WIDE) * (padded(inputs, FOUR) + (int64_t)sizeof(float));
}

/* Bytes of a row's whole numbers, and from one row to the next: after them come its groups. */
static int64_t int8_numbers(int64_t inputs) { return padded(inputs, GROUP); }

static int64_t int8_apart(int64_t inputs) {
    return padded(int8_numbers(inputs) + int8_numbers(inputs) / GROUP * (int64_t)sizeof(group), GROUP);
}

/* Bytes that `multiply_int8` needs for each thread. */
int64_t int8_scratch(int64_t rows, int64_t inputs) {
    return (rows < INT8_BLOCK ? rows : INT8_BLOCK) * int8_apart(inputs);
}

/* Which bits of a word are its byte number `k` in memory. */
static inline int bits_of(int k) { return 8 * (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? FOUR - 1 - k : k); }

/* By what to multiply numbers of this largest size; and the scale that undoes it. */
static inline float inverse_scale(float most) { return most > 1e-30f ? LARGEST / most : 0; }

/* The largest size of `n` numbers; NaN if one of them is not finite. */
static float largest(const float *x, int64_t n) {
    float most = 0, broken = 0;
#pragma omp simd reduction(max : most) reduction(+ : broken)
    for (int64_t j = 0; j < n; j++) {
        float size = fabsf(x[j]);
        most = size > most ? size : most;
        broken += x[j] * 0;
    }
    return most + broken;
}

/* to = the whole numbers of a group of `n`; returns what it has in common. */
static inline __attribute__((always_inline)) group quantise(const float *x, int8_t *to, int64_t n) {
    float most = largest(x, n), by = inverse_scale(most);
    int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++) {
        int32_t found = (int32_t)rintf(x[k] * by);
        to[k] = (int8_t)found;
        sum += found;
    }
    return (group){most / LARGEST, -ABOVE * sum};
}

/* to = the whole numbers of a row, zeros up to a whole group, then its groups. */
static void quantise_row(const float *x, int64_t inputs, int8_t *to) {
    group *groups = (group *)(to + int8_numbers(inputs));
    int64_t k = 0;
    for (; k + GROUP <= inputs; k += GROUP) *groups++ = quantise(x + k, to + k, GROUP);
    if (k < inputs) {
        memset(to + k, 0, GROUP);
        *groups = quantise(x + k, to + k, inputs - k);
    }
}

/* One panel of a matrix whose columns lie in a row each. */
static void pack_columns(const float *matrix, int64_t right, float *scales, uint8_t *panel, int64_t inputs,
                         int64_t columns) {
    int8_t some[1024];
    for (int64_t c = 0; c < columns; c++, matrix += right) {
        float most = largest(matrix, inputs), by = inverse_scale(most);
        scales[c] = most / LARGEST;
        for (int64_t first = 0; first < inputs; first += sizeof some) {
            int64_t n = inputs - first < (int64_t)sizeof some ? inputs - first : (int64_t)sizeof some;
            memset(some + n / FOUR * FOUR, 0, n % FOUR ? FOUR : 0);
#pragma omp simd
            for (int64_t k = 0; k < n; k++) some[k] = (int8_t)((int32_t)rintf(matrix[first + k] * by) ^ ABOVE);
            for (int64_t k = 0; k < n; k += FOUR)
                memcpy(panel + ((first + k) / FOUR * INT8_WIDE + c) * FOUR, some + k, FOUR);
        }
    }
}

/* One panel of any other matrix. */
static void pack_rows(const float *matrix, int64_t down, int64_t right, float *scales, uint8_t *panel,
                      int64_t inputs, int64_t columns) {
    float most[INT8_WIDE] = {0}, broken[INT8_WIDE] = {0}, by[INT8_WIDE];
    for (int64_t k = 0; k < inputs; k++)
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) {
            float x = matrix[k * down + c * right], size = fabsf(x);
            most[c] = size > most[c] ? size : most[c];
            broken[c] += x * 0;
        }
    for (int64_t c = 0; c < columns; c++) {
        scales[c] = (most[c] + broken[c]) / LARGEST;
        by[c] = inverse_scale(most[c] + broken[c]);
    }
    for (int64_t k = 0; k < inputs; k += FOUR, panel += INT8_WIDE * FOUR) {
        uint32_t words[INT8_WIDE] = {0};
        for (int j = 0; j < FOUR && k + j < inputs; j++)
#pragma omp simd
            for (int64_t c = 0; c < columns; c++) {
                int32_t found = (int32_t)rintf(matrix[(k + j) * down + c * right] * by[c]);
                words[c] |= (uint32_t)(uint8_t)(found ^ ABOVE) << bits_of(j);
            }
        memcpy(panel, words, sizeof words);
    }
}

/* A matrix (inputs, outputs), whose elements are `down` floats apart in a column and `right` in a row. */
void pack_int8(const float *matrix, int64_t down, int64_t right, float *scales, uint8_t *panels, int64_t inputs,
               int64_t outputs) {
    int64_t count = padded(outputs, INT8_WIDE) / INT8_WIDE, size = INT8_WIDE * padded(inputs, FOUR);
    const int64_t parts = parts_of(count, FEW_ROWS / 4);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t j = count * part / parts; j < count * (part + 1) / parts; j++) {
            int64_t first = j * INT8_WIDE, columns = outputs - first < INT8_WIDE ? outputs - first : INT8_WIDE;
            const float *from = matrix + first * right;
            memset(scales + first, 0, INT8_WIDE * sizeof *scales);
            if (columns < INT8_WIDE) memset(panels + j * size, 0, size);
            if (down == 1)
                pack_columns(from, right, scales + first, panels + j * size, inputs, columns);
            else if (right == 1 && columns == INT8_WIDE) /* written apart: known lengths are faster */
                pack_rows(from, down, 1, scales + first, panels + j * size, inputs, INT8_WIDE);
            else
                pack_rows(from, down, right, scales + first, panels + j * size, inputs, columns);
        }
}

/* sums + the products of four inputs with those weights of 16 outputs. */
static inline whole add_four(whole sums, whole weights, int32_t x) {
#if FAST_INT8
    return (whole)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(x));
#else
    for (int k = 0; k < 8 * FOUR; k += 8) sums += (weights >> k & 255) * (int32_t)(int8_t)(x >> k);
    return sums;
#endif
}

/* out (rows, columns) = x (rows, inputs) · panel (inputs, INT8_WIDE), scaled, + `from` (rows, columns), if any. */
static inline __attribute__((always_inline)) void tile_int8(
    const int8_t *x, const uint8_t *panel, const float *of_outputs, float *out, int64_t of_out, const float *from,
    int64_t of_from, int64_t inputs, int rows, int64_t columns) {
    int64_t deep = padded(inputs, FOUR), numbers = int8_numbers(inputs), apart = int8_apart(inputs);
    real low[INT8_ROWS] = {0}, high[INT8_ROWS] = {0};
    for (int64_t k = 0; k < deep; x += GROUP) {
        int64_t end = k + GROUP < deep ? k + GROUP : deep;
        const int8_t *at = x, *of_group = x - k + numbers + k / GROUP * (int64_t)sizeof(group);
        whole first[INT8_ROWS], second[INT8_ROWS];
        for (int i = 0; i < rows; i++) {
            int32_t start = ((const group *)(of_group + i * apart))->start;
            first[i] = second[i] = start - (whole){0};
        }
        for (; k < end; k += FOUR, at += FOUR, panel += INT8_WIDE * FOUR)
            for (int i = 0; i < rows; i++) {
                int32_t four;
                memcpy(&four, at + i * apart, FOUR);
                first[i] = add_four(first[i], *(const whole *)panel, four);
                second[i] = add_four(second[i], *(const whole *)(panel + sizeof(whole)), four);
            }
        for (int i = 0; i < rows; i++) {
            float scale = ((const group *)(of_group + i * apart))->scale;
            low[i] += __builtin_convertvector(first[i], real) * scale;
            high[i] += __builtin_convertvector(second[i], real) * scale;
        }
    }
    for (int i = 0; i < rows; i++, from += of_from, out += of_out) {
        float edge[INT8_WIDE] = {0}, *to = columns < INT8_WIDE ? edge : out;
        const float *start = edge;
        if (from) start = columns < INT8_WIDE ? memcpy(edge, from, columns * sizeof *edge) : from;
        *(real *)to = low[i] * *(const real *)of_outputs + *(const real *)start;
        *(real *)(to + 16) = high[i] * *(const real *)(of_outputs + 16) + *(const real *)(start + 16);
        if (columns < INT8_WIDE) memcpy(out, edge, columns * sizeof *edge);
    }
}

/* out (rows, outputs) = x (rows, inputs) · a packed matrix + `from`, if there is such; see `multiply_rows`. */
static void multiply_int8_rows(const float *x, int64_t down, const uint8_t *packed, float *out, const float *from,
                               int64_t of_from, int8_t *scratch, int64_t rows, int64_t inputs, int64_t outputs) {
    int64_t deep = padded(inputs, FOUR), apart = int8_apart(inputs);
    const float *of_outputs = (const float *)packed;
    const uint8_t *panels = packed + padded(outputs, INT8_WIDE) * sizeof(float);
    for (int64_t first = 0; first < rows; first += INT8_BLOCK) {
        int64_t n = rows - first < INT8_BLOCK ? rows - first : INT8_BLOCK;
        for (int64_t i = 0; i < n; i++) quantise_row(x + (first + i) * down, inputs, scratch + i * apart);
        for (int64_t j = 0; j < outputs; j += INT8_WIDE) {
            int64_t i = 0, columns = outputs - j < INT8_WIDE ? outputs - j : INT8_WIDE;
#define TILES(count)                                                                                             \
    for (; i + count <= n; i += count)                                                                           \
        tile_int8(scratch + i * apart, panels + j * deep, of_outputs + j, out + (first + i) * outputs + j,       \
                  outputs, from ? from + (first + i) * of_from + j : 0, of_from, inputs, count, columns);
            TILES(INT8_ROWS)
            TILES(4)
            TILES(2)
            TILES(1)
#undef TILES
        }
    }
}

/* The same, on several threads, each of which has `int8_scratch` bytes. */
void multiply_int8(const float *x, int64_t down, const uint8_t *packed, float *out, const float *from,
                   int64_t of_from, int8_t *scratch, int64_t of_scratch, int64_t rows, int64_t inputs,
                   int64_t outputs) {
    const int64_t parts = parts_of(rows, FEW_ROWS);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
        multiply_int8_rows(x + begin * down, down, packed, out + begin * outputs, from ? from + begin * of_from : 0,
                           of_from, scratch + part * of_scratch, end - begin, inputs, outputs);
    }
}
