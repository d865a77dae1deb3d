/* What small models do, each in one pass over its rows.
 *
 * PyTorch needs several operators for most of these, and calling one costs more than computing it where rows
 * are few and short; its matrix products rearrange the weights anew for each token.
 * Tensors are contiguous where no strides are told; float is 32 bits. A row's result does not depend on the
 * other rows. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(_OPENMP) && !defined(__clang__) /* GCC's is PyTorch's own: one set of threads for both */
#include <omp.h>
#define SHARED 1
#else
#define SHARED 0
static int omp_in_parallel(void) { return 1; }
#endif

/* OpenMP threads of a parallel region, and how many of them get a part of the work. A region always has as many
 * threads as PyTorch's own: with fewer, the OpenMP library ends the others and has to start them anew. Each thread
 * that calls has numbers of its own, since its buffers are made for them. */
static _Thread_local int64_t team = 1, threads = 1;

int can_share(void) { return SHARED; }

void share(int64_t among, int64_t parts) { team = among, threads = parts; }

int64_t shared(void) { return threads; }

enum { FEW = 1 << 14, FEW_ROWS = 16 }; /* numbers, and rows of many, that are worth a thread */

/* Into how many parts to cut `n` things, one part a thread, of at least `least` things. */
static int64_t parts_of(int64_t n, int64_t least) {
    int64_t most = omp_in_parallel() ? 1 : threads, parts = n / least < most ? n / least : most;
    return parts < 1 ? 1 : parts;
}

/* e^x, to 2 units in the last place; 0 below -87, where float32 has only subnormal numbers; NaN of NaN. */
static inline float exponential(float x) {
    float clipped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(clipped * 1.44269504f);
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts: no digits are lost */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23; /* 2^n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

/* out = x * gain / root of the mean square of x, of `width` numbers; out may be x. */
static void root_mean_square_norm(const float *x, const float *gain, float *out, int64_t width, float epsilon) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < width; j++) squares += x[j] * x[j];
    float scale = 1.0f / sqrtf(squares / width + epsilon);
#pragma omp simd
    for (int64_t j = 0; j < width; j++) out[j] = x[j] * scale * gain[j];
}

/* x += bias; out = layer_norm(x) * gain + offset, or without an offset the norm above: rows of `width`. */
static void add_and_norm(float *x, const float *bias, const float *gain, const float *offset,
                         float *out, int64_t rows, int64_t width, float epsilon) {
    for (int64_t i = 0; i < rows; i++, x += width, out += width) {
        float sum = 0, squares = 0;
        if (bias)
#pragma omp simd
            for (int64_t j = 0; j < width; j++) x[j] += bias[j];
        if (!offset) {
            root_mean_square_norm(x, gain, out, width, epsilon);
            continue;
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; j++) sum += x[j];
        float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += (x[j] - mean) * (x[j] - mean);
        float scale = 1.0f / sqrtf(squares / width + epsilon);
#pragma omp simd
        for (int64_t j = 0; j < width; j++) out[j] = (x[j] - mean) * scale * gain[j] + offset[j];
    }
}

/* σ(2u), of which GELU's tanh form makes x · σ(2u): its 0.5 · (1 + tanh u), u = √(2/π) (x + 0.044715 x³). */
static inline float gate(float x) { return 1.0f / (1.0f + exponential(x * (-1.59576912f - 0.07135482f * x * x))); }

/* out = gelu(x), of `count` numbers; out may be x. */
void gelu(const float *x, float *out, int64_t count) {
    const int64_t parts = parts_of(count, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = count * part / parts, end = count * (part + 1) / parts;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) out[i] = x[i] * gate(x[i]);
    }
}

/* out = gradient · gelu'(x), of `count` numbers; out may be gradient. Beyond ±20 the slope is 0 or 1. */
void gelu_backward(const float *x, const float *gradient, float *out, int64_t count) {
    const int64_t parts = parts_of(count, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = count * part / parts, end = count * (part + 1) / parts;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            float h = x[i] < -20.0f ? -20.0f : x[i] > 20.0f ? 20.0f : x[i], s = gate(h);
            out[i] = gradient[i] * (s + h * s * (1.0f - s) * (1.59576912f + 0.21406445f * h * h));
        }
    }
}

/* The norm of root mean squares, of rows of `width`. */
void root_norm(const float *x, const float *gain, float *out, int64_t rows, int64_t width, float epsilon) {
    const int64_t parts = parts_of(rows * width, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++)
            root_mean_square_norm(x + i * width, gain, out + i * width, width, epsilon);
}

enum { NORM_BLOCK = 64 }; /* rows whose gradients of the gain are summed by themselves, whatever the threads */

int64_t norm_block(void) { return NORM_BLOCK; }

/* The gradient of x from that of its norm, and what it has in another way, if there is such; that of the gain is
 * added to `sums`. `to` may be either gradient. */
static void root_mean_square_norm_backward(const float *x, const float *gain, const float *gradient,
                                           const float *beside, float *to, float *sums, int64_t width,
                                           float epsilon) {
    float squares = 0, common = 0;
#pragma omp simd reduction(+ : squares, common)
    for (int64_t j = 0; j < width; j++) squares += x[j] * x[j], common += x[j] * gain[j] * gradient[j];
    float scale = 1.0f / sqrtf(squares / width + epsilon), pull = common / width * scale * scale * scale;
    if (beside)
#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            sums[j] += x[j] * scale * gradient[j];
            to[j] = beside[j] + (scale * gain[j] * gradient[j] - pull * x[j]);
        }
    else
#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            sums[j] += x[j] * scale * gradient[j];
            to[j] = scale * gain[j] * gradient[j] - pull * x[j];
        }
}

/* Its gradients: of x, added to those that x has in another way (`beside`), if there are such, and of the gain as
 * sums over each NORM_BLOCK rows, (rows / NORM_BLOCK, width). */
void root_norm_backward(const float *x, const float *gain, const float *gradient, const float *beside, float *of_x,
                        float *of_gain, int64_t rows, int64_t width, float epsilon) {
    const int64_t blocks = (rows + NORM_BLOCK - 1) / NORM_BLOCK, parts = parts_of(rows * width, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++) {
            int64_t end = (block + 1) * NORM_BLOCK < rows ? (block + 1) * NORM_BLOCK : rows;
            memset(of_gain + block * width, 0, width * sizeof *of_gain);
            for (int64_t i = block * NORM_BLOCK; i < end; i++)
                root_mean_square_norm_backward(x + i * width, gain, gradient + i * width,
                                               beside ? beside + i * width : 0, of_x + i * width,
                                               of_gain + block * width, width, epsilon);
        }
}

enum { GELU, GATED_SILU, GATED_GELU };

/* out = f(gates) · values, f being SiLU or GELU; out may be gates. */
static void close_gates(const float *gates, const float *values, float *out, int64_t count, int64_t activation) {
    if (activation == GATED_SILU)
#pragma omp simd
        for (int64_t j = 0; j < count; j++) out[j] = gates[j] / (1.0f + exponential(-gates[j])) * values[j];
    else
#pragma omp simd
        for (int64_t j = 0; j < count; j++) out[j] = gates[j] * gate(gates[j]) * values[j];
}

/* The same in rows: u (rows, 2 inner), gates before values, and out (rows, inner). */
void gated(const float *u, float *out, int64_t rows, int64_t inner, int64_t activation) {
    const int64_t parts = parts_of(rows * inner, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++)
            close_gates(u + 2 * i * inner, u + (2 * i + 1) * inner, out + i * inner, inner, activation);
}

/* Its gradient, which lies as u does. */
void gated_backward(const float *u, const float *gradient, float *of_u, int64_t rows, int64_t inner,
                    int64_t activation) {
    const int64_t parts = parts_of(rows * inner, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++) {
            const float *gates = u + 2 * i * inner, *values = gates + inner, *slopes = gradient + i * inner;
            float *of_gates = of_u + 2 * i * inner, *of_values = of_gates + inner;
            if (activation == GATED_SILU)
#pragma omp simd
                for (int64_t j = 0; j < inner; j++) {
                    float s = 1.0f / (1.0f + exponential(-gates[j]));
                    of_gates[j] = slopes[j] * values[j] * (s + gates[j] * s * (1.0f - s));
                    of_values[j] = slopes[j] * gates[j] * s;
                }
            else
#pragma omp simd
                for (int64_t j = 0; j < inner; j++) {
                    float h = gates[j] < -20.0f ? -20.0f : gates[j] > 20.0f ? 20.0f : gates[j], s = gate(h);
                    float slope = s + h * s * (1.0f - s) * (1.59576912f + 0.21406445f * h * h);
                    of_gates[j] = slopes[j] * values[j] * slope;
                    of_values[j] = slopes[j] * gates[j] * gate(gates[j]);
                }
        }
}

/* Weights are kept in rows padded to a multiple of STRIP: loops over strips have no slow rest. */
enum { STRIP = 16 };

static int64_t padded(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* w = e^(scale · (w - max w)), of `n` numbers, then zeros up to a whole strip; returns the sum, and the maximum. */
static inline float soften(float *w, int64_t n, float scale, float *maximum) {
    float best[STRIP], sums[STRIP] = {0}, sum = 0, highest = -INFINITY;
    int64_t end = padded(n, STRIP);
    for (int64_t j = n; j < end; j++) w[j] = -INFINITY;
    for (int l = 0; l < STRIP; l++) best[l] = w[l];
    for (int64_t j = STRIP; j < end; j += STRIP)
#pragma omp simd
        for (int l = 0; l < STRIP; l++) best[l] = w[j + l] > best[l] ? w[j + l] : best[l];
    for (int l = 0; l < STRIP; l++) highest = best[l] > highest ? best[l] : highest;
    for (int64_t j = 0; j < end; j += STRIP)
#pragma omp simd
        for (int l = 0; l < STRIP; l++) sums[l] += w[j + l] = exponential((w[j + l] - highest) * scale);
#pragma omp simd reduction(+ : sum)
    for (int l = 0; l < STRIP; l++) sum += sums[l];
    *maximum = highest;
    return sum;
}

/* One head of `attend`; inlined once for each common size, so that sums stay in registers. */
static inline __attribute__((always_inline)) void attend_head(
    const float *q, const float *keys, const float *values, const float *next, float *out, float *weights,
    int64_t width, int64_t size, float scale) {
    for (int64_t j = 0; j < width; j++) {
        float product = 0;
        for (int64_t d = 0; d < size; d += 16) __builtin_prefetch(values + j * size + d);
#pragma omp simd reduction(+ : product)
        for (int64_t d = 0; d < size; d++) product += q[d] * keys[j * size + d];
        weights[j] = product;
    }
    float highest, share = 1.0f / soften(weights, width, scale, &highest);
    for (int64_t first = 0; first < size; first += 64) {
        float parts[64] = {0};
        int64_t part = size - first < 64 ? size - first : 64;
        for (int64_t j = 0; j < width; j++) {
            const float *v = values + j * size + first;
            for (int64_t d = 0; d < part; d += 16) __builtin_prefetch(next + j * size + first + d);
#pragma omp simd
            for (int64_t d = 0; d < part; d++) parts[d] += weights[j] * v[d];
        }
        for (int64_t d = 0; d < part; d++) out[first + d] = parts[d] * share;
    }
}

/* Where tokens go among keys and values (…, groups, room, size): a row, and a column in it. Several heads of
 * queries may share those of a group. */
typedef struct {
    const int64_t *rows, *columns;
    int64_t heads, groups, size, room;
} places;

/* Attend from the token that is number `which` of some to those up to it in its row.
 *
 * q and out are (heads, size); `weights` has room for a row of `room`, padded. */
static void attend(const places *p, int64_t which, const float *q, const float *keys, const float *values,
                   float *out, float *weights, float scale) {
    int64_t size = p->size, head = p->room * size, n = p->columns[which] + 1, sharing = p->heads / p->groups;
    keys += p->rows[which] * p->groups * head, values += p->rows[which] * p->groups * head;
    for (int64_t h = 0; h < p->heads; h++, q += size, out += size) {
        const float *k = keys + h / sharing * head, *v = values + h / sharing * head;
        const float *next = keys + (h + 1) / sharing * head;
        if (size == 64)
            attend_head(q, k, v, next, out, weights, n, 64, scale);
        else if (size == 32)
            attend_head(q, k, v, next, out, weights, n, 32, scale);
        else if (size == 24)
            attend_head(q, k, v, next, out, weights, n, 24, scale);
        else if (size == 16)
            attend_head(q, k, v, next, out, weights, n, 16, scale);
        else
            attend_head(q, k, v, next, out, weights, n, size, scale);
    }
}

/* Write the keys and values of `n` tokens, whose qkv are (n, heads + 2 groups, size), where they belong. */
static void remember(const places *p, const float *qkv, float *keys, float *values, int64_t n) {
    int64_t size = p->size;
    for (int64_t i = 0; i < n; i++) {
        qkv += p->heads * size;
        for (int64_t h = 0; h < p->groups; h++, qkv += size) {
            int64_t to = ((p->rows[i] * p->groups + h) * p->room + p->columns[i]) * size;
            memcpy(keys + to, qkv, size * sizeof *keys);
            memcpy(values + to, qkv + p->groups * size, size * sizeof *values);
        }
        qkv += p->groups * size;
    }
}

/* Turn a head by the angles of its position, the first half of its numbers against the second (RoPE); by
 * direction -1 backwards. `to` may be x. */
static void turn(const float *x, float *to, const float *cosines, const float *sines, int64_t size, float direction) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t d = 0; d < half; d++) {
        float a = x[d], b = x[half + d], sine = direction * sines[d];
        to[d] = a * cosines[d] - b * sine;
        to[half + d] = b * cosines[d] + a * sine;
    }
}

/* Give each head of `n` tokens its norm, if there is a gain, and turn it by the angles (positions, size / 2) of the
 * token's position (RoPE), if there are such. Tokens are `of_x` floats apart; `kept` (n, heads, size), if it is
 * given, gets the heads as they were. */
void place(float *x, int64_t of_x, const float *gain, const float *cosines, const float *sines,
           const int64_t *positions, float *kept, int64_t n, int64_t heads, int64_t size, float epsilon) {
    const int64_t parts = parts_of(n * heads * size, FEW), half = size / 2;
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = n * part / parts; i < n * (part + 1) / parts; i++) {
            int64_t at = positions[i] * half;
            if (kept) memcpy(kept + i * heads * size, x + i * of_x, heads * size * sizeof *kept);
            for (float *head = x + i * of_x; head < x + i * of_x + heads * size; head += size) {
                if (gain) root_mean_square_norm(head, gain, head, size, epsilon);
                if (cosines) turn(head, head, cosines + at, sines + at, size, 1);
            }
        }
}

/* Its gradient, in place of that of what `place` made of x; that of the gain, if there is one, as sums over the heads
 * of each NORM_BLOCK tokens, (n / NORM_BLOCK, size). Without a gain nothing needs to be kept. */
void place_backward(float *gradient, int64_t of_x, const float *kept, const float *gain, const float *cosines,
                    const float *sines, const int64_t *positions, float *of_gain, int64_t n, int64_t heads,
                    int64_t size, float epsilon) {
    const int64_t blocks = (n + NORM_BLOCK - 1) / NORM_BLOCK, parts = parts_of(n * heads * size, FEW);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++) {
            int64_t end = (block + 1) * NORM_BLOCK < n ? (block + 1) * NORM_BLOCK : n;
            float *sums = gain ? memset(of_gain + block * size, 0, size * sizeof *sums) : 0;
            for (int64_t i = block * NORM_BLOCK; i < end; i++)
                for (int64_t h = 0; h < heads; h++) {
                    float *g = gradient + i * of_x + h * size;
                    int64_t at = positions[i] * (size / 2);
                    if (cosines) turn(g, g, cosines + at, sines + at, size, -1);
                    if (gain)
                        root_mean_square_norm_backward(kept + (i * heads + h) * size, gain, g, 0, g, sums, size,
                                                       epsilon);
                }
        }
}

/* Matrix products with weights that lie in panels: WIDE columns of a matrix, one row of them after another,
 * and zeros where it ends within the last panel. A tile of ROWS by WIDE sums stays in registers; tiles of BLOCK
 * rows and DEEP columns of x stay in the cache. Each sum is taken in the order of the inputs, whatever the tile:
 * a row's result does not depend on the other rows. */
#ifdef __AVX512F__
enum { HALF = 16, ROWS = 8 };
#elif defined(__AVX__)
enum { HALF = 8, ROWS = 6 };
#else
enum { HALF = 4, ROWS = 6 };
#endif
enum { WIDE = 2 * HALF, BLOCK = 128, DEEP = 1024, SOME = 256, AHEAD = 128 };
enum { LINE = 16 }; /* floats of a line of the cache */
enum { BLOCK_SPACE = (BLOCK + ROWS - 1) / ROWS * ROWS };
typedef float half __attribute__((vector_size(4 * HALF), aligned(4)));

int64_t panel_width(void) { return WIDE; }

/* Turn HALF columns of HALF numbers each, `right` floats apart, into rows of WIDE. */
static inline void turn_block(const float *matrix, int64_t right, float *panel) {
#if defined(__GNUC__) && !defined(__clang__)
    typedef int32_t which __attribute__((vector_size(4 * HALF)));
    half now[HALF], then[HALF];
    which low, high; /* one number of each of two vectors in turn, from their beginnings and from their middles */
    for (int i = 0; i < HALF; i++) low[i] = i / 2 + i % 2 * HALF, high[i] = low[i] + HALF / 2;
    for (int i = 0; i < HALF; i++) {
        __builtin_prefetch(matrix + i * right + AHEAD);
        now[i] = *(const half *)(matrix + i * right);
    }
    for (int pass = 1; pass < HALF; pass *= 2) {
        for (int i = 0; i < HALF / 2; i++) {
            then[2 * i] = __builtin_shuffle(now[i], now[i + HALF / 2], low);
            then[2 * i + 1] = __builtin_shuffle(now[i], now[i + HALF / 2], high);
        }
        memcpy(now, then, sizeof now);
    }
    for (int i = 0; i < HALF; i++) *(half *)(panel + i * WIDE) = now[i];
#else
    for (int c = 0; c < HALF; c++)
        for (int k = 0; k < HALF; k++) panel[k * WIDE + c] = matrix[c * right + k];
#endif
}

/* A matrix (inputs, outputs), whose elements are `down` floats apart in a column and `right` in a row. */
void pack(const float *matrix, int64_t down, int64_t right, float *panels, int64_t inputs, int64_t outputs) {
    int64_t count = (outputs + WIDE - 1) / WIDE;
    const int64_t parts = parts_of(count, FEW_ROWS / 4);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = count * part / parts, end = count * (part + 1) / parts, whole = outputs / WIDE;
        if (right == 1) { /* a few rows at a time, all along: what is read lies in a row */
            for (int64_t k = 0; k < inputs; k += 4)
                for (int64_t j = begin * WIDE; j < end * WIDE && j < whole * WIDE; j += WIDE)
                    for (int64_t l = k; l < k + 4 && l < inputs; l++)
                        memcpy(panels + j * inputs + l * WIDE, matrix + l * down + j, WIDE * sizeof *panels);
            if (begin < whole) begin = whole < end ? whole : end;
        }
        for (int64_t j = begin * WIDE; j < end * WIDE; j += WIDE) {
            int64_t columns = outputs - j < WIDE ? outputs - j : WIDE, k = 0;
            float *panel = panels + j * inputs;
            if (columns < WIDE) memset(panel, 0, inputs * WIDE * sizeof *panel);
            if (right == 1)
                for (; k < inputs; k++) memcpy(panel + k * WIDE, matrix + k * down + j, columns * sizeof *panel);
            else if (down == 1 && columns == WIDE)
                for (; k + HALF <= inputs; k += HALF)
                    for (int64_t c = 0; c < WIDE; c += HALF)
                        turn_block(matrix + k + (j + c) * right, right, panel + k * WIDE + c);
            for (; k < inputs; k++)
                for (int64_t c = 0; c < columns; c++) panel[k * WIDE + c] = matrix[k * down + (j + c) * right];
        }
    }
}

/* out (rows, columns) = x (rows, inputs) · panel (inputs, WIDE) + `from` (rows, columns), if there is such.
 *
 * Meanwhile numbers that will be wanted come from memory: `soon`, and `apart` further on for each input. */
static inline __attribute__((always_inline)) void tile(
    const float *x, int64_t down, int64_t right, const float *panel, float *out, int64_t of_out, const float *from,
    int64_t of_from, int64_t inputs, int rows, int64_t columns, const float *soon, int64_t apart) {
    half low[ROWS] = {0}, high[ROWS] = {0};
    float edge[WIDE] = {0};
    for (int i = 0; i < rows; i++) /* stores would wait for memory */
        for (int c = 0; c < WIDE; c += 16) __builtin_prefetch(out + i * of_out + c, 1);
    for (int64_t k = 0; k < inputs; k++, panel += WIDE, soon += apart) {
        if (apart < LINE)
            __builtin_prefetch(soon, 0, 3);
        else /* too much for the nearest cache */
            __builtin_prefetch(soon, 0, 2);
        if (rows == ROWS && apart > LINE) __builtin_prefetch(soon + LINE, 0, 2); /* fewer rows would wait for it */
        for (int i = 0; i < rows; i++) {
            low[i] += x[i * down + k * right] * *(const half *)panel;
            high[i] += x[i * down + k * right] * *(const half *)(panel + HALF);
        }
    }
    for (int i = 0; from && i < rows; i++, from += of_from) { /* at the end: short sums round less */
        const float *first = columns < WIDE ? memcpy(edge, from, columns * sizeof *edge) : from;
        low[i] += *(const half *)first;
        high[i] += *(const half *)(first + HALF);
    }
    for (int i = 0; i < rows; i++) {
        float *to = columns < WIDE ? edge : out + i * of_out;
        *(half *)to = low[i];
        *(half *)(to + HALF) = high[i];
        if (columns < WIDE) memcpy(out + i * of_out, edge, columns * sizeof *edge);
    }
}

/* How many floats of the next panel a tile of so many rows, of all there are, fetches for each input. Of what is
 * less than a line nothing may be left out: it would be waited for. */
static inline int64_t pace(int64_t rows, int64_t of) {
    int64_t floats = WIDE * rows / of;
    return floats < LINE && floats * of < WIDE * rows ? floats + 1 : floats;
}

/* Copy x (rows, inputs), whose rows are not contiguous, to (rows / ROWS, inputs, ROWS): far strides miss the cache. */
static void straighten(const float *x, int64_t down, int64_t right, float *out, int64_t rows, int64_t inputs) {
    for (int64_t k = 0; k < inputs; k++) {
        for (int64_t i = 0; down == 1 && i < rows; i += 16) __builtin_prefetch(x + i + (k + 8) * right);
        for (int64_t i = 0; i < rows; i += ROWS) {
            float *to = out + i * inputs + k * ROWS;
            const float *from = x + i * down + k * right;
            if (down == 1 && rows - i >= ROWS)
                memcpy(to, from, ROWS * sizeof *to);
            else
                for (int64_t j = 0; j < ROWS && i + j < rows; j++) to[j] = from[j * down];
        }
    }
}

/* out (rows, outputs) = x (rows, inputs) · panels + `from`, if there is such.
 *
 * Elements of x are `down` floats apart in a column and `right` in a row; rows of `from` are `of_from` apart,
 * which is 0 for a bias, and `from` may be out. */
static void multiply_rows(const float *x, int64_t down, int64_t right, const float *panels, float *out,
                          const float *from, int64_t of_from, int64_t rows, int64_t inputs, int64_t outputs) {
    for (int64_t i = 0; inputs == 0 && i < rows; i++) /* a sum of nothing */
        for (int64_t j = 0; j < outputs; j++) out[i * outputs + j] = from ? from[i * of_from + j] : 0;
    for (int64_t k = 0; k < inputs; k += DEEP, from = out, of_from = outputs)
        for (int64_t first = 0; first < rows; first += BLOCK) {
            static _Thread_local float straight[BLOCK_SPACE * DEEP];
            int64_t end = first + BLOCK < rows ? first + BLOCK : rows, deep = inputs - k < DEEP ? inputs - k : DEEP;
            if (right != 1) straighten(x + first * down + k * right, down, right, straight, end - first, deep);
            for (int64_t j = 0; j < outputs; j += WIDE) {
                int64_t columns = outputs - j < WIDE ? outputs - j : WIDE, i = first;
                const float *panel = panels + j * inputs + k * WIDE, *next = panel + WIDE * inputs;
#define TILE(x, down, right, n)                                                                        \
    tile(x, down, right, panel, out + i * outputs + j, outputs, from ? from + i * of_from + j : 0,     \
         of_from, deep, n, columns, next + WIDE * deep * (i - first) / (end - first),                  \
         pace(n, end - first)) /* each tile fetches its share of the next panel */
#define TILES(n)                                                                                       \
    for (; n > 0 && i + n <= end; i += n)                                                              \
        if (right == 1)                                                                                \
            TILE(x + i * down + k, down, 1, n);                                                        \
        else                                                                                           \
            TILE(straight + (i - first) * deep, 1, ROWS, n);
                TILES(ROWS)
                TILES(ROWS - 1) /* the rows that are left are one tile: each tile reads all of the panel */
                TILES(ROWS - 2)
                TILES(ROWS - 3)
                TILES(ROWS - 4)
                TILES(ROWS - 5)
                TILES(ROWS - 6)
                TILES(ROWS - 7)
#undef TILES
#undef TILE
            }
        }
}

/* The same, on several threads. */
void multiply(const float *x, int64_t down, int64_t right, const float *panels, float *out, const float *from,
              int64_t of_from, int64_t rows, int64_t inputs, int64_t outputs) {
    const int64_t parts = parts_of(rows, FEW_ROWS);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
        multiply_rows(x + begin * down, down, right, panels, out + begin * outputs,
                      from ? from + begin * of_from : 0, of_from, end - begin, inputs, outputs);
    }
}

#include "kernels_int8.h"

/* One layer: its parameters, matrices in panels, and the keys and values of what was read.
 *
 * Matrices are as `pack` packs them, or all of a trunk's as `pack_int8` does.
 * A norm without an offset is that of root mean squares. Biases, the norms of queries and of keys, and RoPE's
 * angles (positions, size / 2) may be missing. */
typedef struct {
    const float *gain_1, *offset_1, *qkv_bias, *of_queries, *of_keys, *cosines, *sines;
    const float *projection_bias, *gain_2, *offset_2, *up_bias, *down_bias;
    const void *qkv, *projection, *up, *down;
    float *keys, *values; /* (rows, groups, room, size) */
    float scale, epsilon_1, epsilon_2;
} layer;

/* A trunk: its layers and what stands around them. `up` has the gate's outputs before its own, if there is one. */
typedef struct {
    const layer *layers;
    const float *embedding, *positions, *gain, *offset;
    int64_t count, width, heads, groups, size, inner, activation, room, vocabulary, context, int8;
    float epsilon, embedding_scale;
} trunk;

static int64_t more(int64_t a, int64_t b) { return a > b ? a : b; }

/* out = x · panels + `from`, by the kind of panels that the trunk has; `spare` is for whole numbers. */
static void product(const trunk *t, const float *x, int64_t down, const void *panels, float *out, const float *from,
                    int64_t of_from, float *spare, int64_t rows, int64_t inputs, int64_t outputs) {
    if (t->int8)
        multiply_int8_rows(x, down, panels, out, from, of_from, (int8_t *)spare, rows, inputs, outputs);
    else
        multiply(x, down, 1, panels, out, from, of_from, rows, inputs, outputs);
}

/* Read up to SOME tokens through a trunk, those of a row in their order.
 *
 * The state of token i goes to out[asked[i]], rows of `width`; if that is negative, nowhere. `scratch` has room
 * for `scratch_size` floats. */
static void read_tokens(const trunk *t, places p, const int64_t *tokens, const int64_t *asked, float *out,
                        float *scratch, int64_t some) {
    int64_t width = t->width, inner = t->inner, queries = some, which[SOME];
    int64_t of_heads = t->heads * t->size, of_qkv = of_heads + 2 * t->groups * t->size;
    int64_t of_u = t->activation == GELU ? inner : 2 * inner;
    const layer *end = t->layers + t->count;
    float *x = scratch, *h = x + some * width, *qkv = h + some * more(width, of_heads), *u = qkv + some * of_qkv;
    float *weights = u + some * of_u, *spare = weights + padded(t->room, STRIP);
    const float *bias = 0;
    for (int64_t i = 0; i < some; i++) {
        const float *token = t->embedding + tokens[i] * width, *position = t->positions + p.columns[i] * width;
        which[i] = i;
        if (t->positions)
#pragma omp simd
            for (int64_t j = 0; j < width; j++) x[i * width + j] = token[j] + position[j];
        else
#pragma omp simd
            for (int64_t j = 0; j < width; j++) x[i * width + j] = token[j] * t->embedding_scale;
    }
    for (const layer *l = t->layers; l < end; l++) {
        add_and_norm(x, bias, l->gain_1, l->offset_1, h, some, width, l->epsilon_1);
        product(t, h, width, l->qkv, qkv, l->qkv_bias, 0, spare, some, width, of_qkv);
        if (l->cosines || l->of_queries) {
            const float *cosines = l->cosines, *sines = l->sines;
            place(qkv, of_qkv, l->of_queries, cosines, sines, p.columns, 0, some, t->heads, t->size, l->epsilon_1);
            place(qkv + of_heads, of_qkv, l->of_keys, cosines, sines, p.columns, 0, some, t->groups, t->size,
                  l->epsilon_1);
        }
        remember(&p, qkv, l->keys, l->values, some);
        if (l == end - 1) { /* only what is asked for goes on */
            queries = 0;
            for (int64_t i = 0; i < some; i++)
                if (asked[i] >= 0) {
                    if (queries < i) memcpy(x + queries * width, x + i * width, width * sizeof *x);
                    which[queries++] = i;
                }
        }
        for (int64_t i = 0; i < queries; i++)
            attend(&p, which[i], qkv + which[i] * of_qkv, l->keys, l->values, h + i * of_heads, weights, l->scale);
        product(t, h, of_heads, l->projection, x, x, width, spare, queries, of_heads, width);
        add_and_norm(x, l->projection_bias, l->gain_2, l->offset_2, h, queries, width, l->epsilon_2);
        product(t, h, width, l->up, u, l->up_bias, 0, spare, queries, width, of_u);
        if (t->activation == GELU)
            gelu(u, u, queries * inner);
        else
            for (float *row = u; row < u + queries * of_u; row += of_u)
                close_gates(row, row + inner, row, inner, t->activation);
        product(t, u, of_u, l->down, x, x, width, spare, queries, inner, width);
        bias = l->down_bias;
    }
    for (int64_t i = 0; i < queries; i++)
        add_and_norm(x + i * width, bias, t->gain, t->offset, out + asked[which[i]] * width, 1, width, t->epsilon);
}

/* Texts that go on: text i has new tokens at[i], at[i] + 1, … of `tokens`, for the columns from firsts[i] to before
 * ends[i] of row rows[i] of the memory. Without `ends`, each has one, which is number i. */
typedef struct {
    const int64_t *tokens, *at, *rows, *firsts, *ends;
} texts_read;

static int64_t end_of(const texts_read *r, int64_t i) { return r->ends ? r->ends[i] : r->firsts[i] + 1; }

static int64_t token_of(const texts_read *r, int64_t i, int64_t column) {
    return r->tokens[(r->ends ? r->at[i] : i) + column - r->firsts[i]];
}

/* Read what is new of the texts from number `i` to before `stop`; the state of text i's last token goes to out[i],
 * zeros if nothing is new of it. */
static void read_texts(const trunk *t, const texts_read *r, int64_t i, int64_t stop, float *out, float *scratch) {
    int64_t tokens[SOME], rows[SOME], columns[SOME], asked[SOME], n = 0;
    const places p = {rows, columns, t->heads, t->groups, t->size, t->room};
    for (; i < stop; i++) {
        if (end_of(r, i) <= r->firsts[i]) memset(out + i * t->width, 0, t->width * sizeof *out);
        for (int64_t column = r->firsts[i]; column < end_of(r, i); column++) {
            tokens[n] = token_of(r, i, column), rows[n] = r->rows[i], columns[n] = column;
            asked[n++] = column + 1 < end_of(r, i) ? -1 : i;
            if (n == SOME) read_tokens(t, p, tokens, asked, out, scratch, n), n = 0;
        }
    }
    if (n) read_tokens(t, p, tokens, asked, out, scratch, n);
}

/* Floats that `step` needs for each thread, to read such texts. */
int64_t scratch_size(const trunk *t, const int64_t *firsts, const int64_t *ends, int64_t texts) {
    int64_t of_heads = t->heads * t->size, of_qkv = of_heads + 2 * t->groups * t->size, n = ends ? 0 : texts;
    for (int64_t i = 0; ends && i < texts && n < SOME; i++) n += more(ends[i] - firsts[i], 0);
    int64_t of_token = t->width + more(t->width, of_heads) + of_qkv + (t->activation == GELU ? 1 : 2) * t->inner;
    int64_t spare = t->int8 ? int8_scratch(n, more(more(t->width, of_heads), t->inner)) / sizeof(float) : 0;
    return (n < SOME ? n : SOME) * of_token + padded(t->room, STRIP) + spare;
}

/* Read on in `texts` texts, as `texts_read` and `read_texts` have it.
 *
 * `scratch` has `of_scratch` floats for each thread. Returns 1, having done nothing, where a token is none of
 * the vocabulary, or a column none of the context. */
int step(const trunk *t, const int64_t *tokens, const int64_t *at, const int64_t *rows, const int64_t *firsts,
         const int64_t *ends, float *out, float *scratch, int64_t of_scratch, int64_t texts) {
    const texts_read r = {tokens, at, rows, firsts, ends};
    for (int64_t i = 0; i < texts; i++) {
        if (firsts[i] < 0 || end_of(&r, i) > t->context) return 1;
        for (int64_t column = firsts[i]; column < end_of(&r, i); column++)
            if (token_of(&r, i, column) < 0 || token_of(&r, i, column) >= t->vocabulary) return 1;
    }
    const int64_t parts = parts_of(texts, FEW_ROWS);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        read_texts(t, &r, texts * part / parts, texts * (part + 1) / parts, out, scratch + part * of_scratch);
    return 0;
}

/* Attention in batches of texts. Eight queries at a time meet some keys, or some numbers of a value. */
enum { QUERIES = 8, LANES = HALF };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* Where the queries, keys and values of texts are; of a token, queries are `heads · size` floats in a row, and keys
 * and values are `groups · size`: several heads of queries may share those of a group.
 *
 * Texts that begin alike are a tree, whose segments are trees[i] to trees[i + 1] - 1: first what they share, then what
 * each of them goes on with; a text of its own is a tree of one segment. Segment s has counts[s] queries, from query
 * begins[s] on, the first of which looks at keys 0 to firsts[s] and each further one at one key more. Those are the
 * first segment's keys, then its own ones, which are tokens from places[s] on. */
typedef struct {
    const int64_t *begins, *counts, *firsts, *places, *trees;
    int64_t count, tokens, heads, groups, size; /* trees; most keys of a text */
    int64_t of_query, of_key; /* floats from a token to the next */
    float scale;
} texts;

/* The tokens `begin` to `end` - 1, of which x is the first, as rows of (m, wide), and as columns of (size, m) if
 * `turned` is given; beyond them, up to a whole `unit`, there is 0. */
static void gather(const float *x, int64_t stride, int64_t begin, int64_t end, int64_t unit, int64_t m, int64_t size,
                   float *plain, float *turned) {
    int64_t wide = padded(size, LANES), whole = padded(end, unit);
    memset(plain + begin * wide, 0, (whole - begin) * wide * sizeof *plain);
    for (int64_t j = begin; j < end; j++) memcpy(plain + j * wide, x + (j - begin) * stride, size * sizeof *plain);
    if (turned)
        for (int64_t d = 0; d < size; d++)
            for (int64_t j = begin; j < whole; j++) turned[d * m + j] = plain[j * wide + d];
}

/* Most keys of a text of tree `i`, in whole strips, and how many of them its texts share. */
static int64_t keys_of_tree(const texts *t, int64_t i, int64_t *shared) {
    int64_t most = 0, first = t->trees[i];
    for (int64_t s = first; s < t->trees[i + 1]; s++) most = more(most, t->firsts[s] + t->counts[s]);
    *shared = t->firsts[first] + t->counts[first];
    return padded(most, STRIP);
}

/* out (QUERIES, m) = x (QUERIES, wide) · turned (size, m), of the first `n` columns or a few more. */
static void products(const float *x, const float *turned, float *out, int64_t n, int64_t m, int64_t size,
                     int64_t wide) {
    for (int64_t j = 0; j < n; j += LANES) {
        lanes sums[QUERIES] = {0};
        for (int64_t d = 0; d < size; d++) {
            lanes column = *(const lanes *)(turned + d * m + j);
            for (int i = 0; i < QUERIES; i++) sums[i] += x[i * wide + d] * column;
        }
        for (int i = 0; i < QUERIES; i++) *(lanes *)(out + i * m + j) = sums[i];
    }
}

/* out (QUERIES, wide) = weights (QUERIES, m) · x (n, wide). */
static void mix(const float *weights, const float *x, float *out, int64_t n, int64_t m, int64_t wide) {
    for (int64_t d = 0; d < wide; d += LANES) {
        lanes sums[QUERIES] = {0};
        for (int64_t j = 0; j < n; j++) {
            lanes part = *(const lanes *)(x + j * wide + d);
            for (int i = 0; i < QUERIES; i++) sums[i] += weights[i * m + j] * part;
        }
        for (int i = 0; i < QUERIES; i++) *(lanes *)(out + i * wide + d) = sums[i];
    }
}

/* out (n, wide) += weightsᵀ (n, QUERIES) · x (QUERIES, wide). */
static void spread(const float *weights, const float *x, float *out, int64_t n, int64_t m, int64_t wide) {
    for (int64_t d = 0; d < wide; d += LANES) {
        lanes parts[QUERIES];
        for (int i = 0; i < QUERIES; i++) parts[i] = *(const lanes *)(x + i * wide + d);
        for (int64_t j = 0; j < n; j++) {
            lanes sum = *(lanes *)(out + j * wide + d);
            for (int i = 0; i < QUERIES; i++) sum += weights[i * m + j] * parts[i];
            *(lanes *)(out + j * wide + d) = sum;
        }
    }
}

/* Copy `count` rows of `size` floats out of a buffer whose rows are `wide`. */
static void scatter(const float *x, int64_t wide, float *out, int64_t stride, int64_t count, int64_t size) {
    for (int64_t i = 0; i < count; i++) memcpy(out + i * stride, x + i * wide, size * sizeof *out);
}

/* out (queries, heads · size), and the logarithms (queries, heads) of the weights' sums.
 *
 * `scratch` has room for 3 · m · wide + QUERIES · (m + 2 · wide), m and wide being `tokens` and `size` padded. */
void attention(const texts *t, const float *q, const float *k, const float *v, float *out, float *log_sums,
               float *scratch, int64_t of_scratch) {
    int64_t wide = padded(t->size, LANES), most = padded(t->tokens, STRIP), width = t->heads * t->size;
    const int64_t units = t->count * t->groups, parts = parts_of(units, FEW_ROWS / 4), sharing = t->heads / t->groups;
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        float *plain = scratch + part * of_scratch, *turned = plain + most * wide, *values = turned + most * wide;
        float *weights = values + most * wide, *some = weights + QUERIES * most, *mixed = some + QUERIES * wide;
        for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; unit++) {
            int64_t tree = unit / t->groups, group = unit % t->groups, shared;
            int64_t m = keys_of_tree(t, tree, &shared);
            for (int64_t s = t->trees[tree]; s < t->trees[tree + 1]; s++) {
                int64_t begin = s == t->trees[tree] ? 0 : shared, keys = t->firsts[s] + t->counts[s];
                int64_t key = t->places[s] * t->of_key + group * t->size;
                gather(k + key, t->of_key, begin, keys, STRIP, m, t->size, plain, turned);
                gather(v + key, t->of_key, begin, keys, STRIP, m, t->size, values, 0);
                for (int64_t h = group * sharing; h < (group + 1) * sharing; h++)
                    for (int64_t i = 0; i < t->counts[s]; i += QUERIES) {
                        int64_t query = t->begins[s] + i, seen = t->firsts[s] + i + 1;
                        int64_t count = t->counts[s] - i < QUERIES ? t->counts[s] - i : QUERIES;
                        const float *asked = q + query * t->of_query + h * t->size;
                        gather(asked, t->of_query, 0, count, QUERIES, 0, t->size, some, 0);
                        products(some, turned, weights, seen + count - 1, m, t->size, wide);
                        for (int64_t c = 0; c < count; c++) {
                            float *w = weights + c * m, highest, sum = soften(w, seen + c, t->scale, &highest);
                            float share = 1.0f / sum;
                            for (int64_t j = 0; j < seen + c; j += STRIP)
#pragma omp simd
                                for (int l = 0; l < STRIP; l++) w[j + l] *= share;
                            for (int64_t j = padded(seen + c, STRIP); j < seen + count - 1; j++) w[j] = 0;
                            log_sums[(query + c) * t->heads + h] = highest * t->scale + logf(sum);
                        }
                        mix(weights, values, mixed, seen + count - 1, m, wide);
                        scatter(mixed, wide, out + query * width + h * t->size, width, count, t->size);
                    }
            }
        }
    }
}

/* The gradients of queries, keys and values, which lie as these do, from that of `attention`'s output.
 *
 * `scratch` has room for 6 · m · wide + QUERIES · (2 · m + 3 · wide). */
void attention_backward(const texts *t, const float *q, const float *k, const float *v, const float *log_sums,
                        const float *gradient, float *of_q, float *of_k, float *of_v, float *scratch,
                        int64_t of_scratch) {
    int64_t wide = padded(t->size, LANES), most = padded(t->tokens, STRIP), width = t->heads * t->size;
    const int64_t units = t->count * t->groups, parts = parts_of(units, FEW_ROWS / 4), sharing = t->heads / t->groups;
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        float *plain = scratch + part * of_scratch, *turned = plain + most * wide, *values = turned + most * wide;
        float *turned_values = values + most * wide, *keys_sum = turned_values + most * wide;
        float *values_sum = keys_sum + most * wide, *weights = values_sum + most * wide;
        float *slopes = weights + QUERIES * most, *some = slopes + QUERIES * most;
        float *given = some + QUERIES * wide, *mixed = given + QUERIES * wide;
        for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; unit++) {
            int64_t tree = unit / t->groups, group = unit % t->groups, first = t->trees[tree], shared;
            int64_t m = keys_of_tree(t, tree, &shared);
            for (int64_t s = first; s < t->trees[tree + 1]; s++) {
                int64_t begin = s == first ? 0 : shared, keys = t->firsts[s] + t->counts[s];
                int64_t key = t->places[s] * t->of_key + group * t->size;
                gather(k + key, t->of_key, begin, keys, STRIP, m, t->size, plain, turned);
                gather(v + key, t->of_key, begin, keys, STRIP, m, t->size, values, turned_values);
                memset(keys_sum + begin * wide, 0, (keys - begin) * wide * sizeof *keys_sum);
                memset(values_sum + begin * wide, 0, (keys - begin) * wide * sizeof *values_sum);
                for (int64_t h = group * sharing; h < (group + 1) * sharing; h++)
                    for (int64_t i = 0; i < t->counts[s]; i += QUERIES) {
                        int64_t query = t->begins[s] + i, seen = t->firsts[s] + i + 1, of_head = h * t->size;
                        int64_t count = t->counts[s] - i < QUERIES ? t->counts[s] - i : QUERIES, all = seen + count - 1;
                        gather(q + query * t->of_query + of_head, t->of_query, 0, count, QUERIES, 0, t->size, some, 0);
                        gather(gradient + query * width + of_head, width, 0, count, QUERIES, 0, t->size, given, 0);
                        products(some, turned, weights, all, m, t->size, wide);
                        products(given, turned_values, slopes, all, m, t->size, wide);
                        for (int64_t c = 0; c < QUERIES; c++) {
                            float *w = weights + c * m, *s = slopes + c * m, means[STRIP] = {0}, mean = 0;
                            int64_t n = c < count ? seen + c : 0;
                            float log_sum = n ? log_sums[(query + c) * t->heads + h] : 0;
                            for (int64_t j = n; j < padded(n, STRIP); j++) w[j] = -INFINITY, s[j] = 0;
                            for (int64_t j = 0; j < n; j += STRIP)
#pragma omp simd
                                for (int l = 0; l < STRIP; l++) {
                                    w[j + l] = exponential(w[j + l] * t->scale - log_sum);
                                    means[l] += w[j + l] * s[j + l];
                                }
                            for (int l = 0; l < STRIP; l++) mean += means[l];
                            for (int64_t j = 0; j < n; j += STRIP)
#pragma omp simd
                                for (int l = 0; l < STRIP; l++) s[j + l] = w[j + l] * (s[j + l] - mean) * t->scale;
                            for (int64_t j = padded(n, STRIP); j < all; j++) w[j] = s[j] = 0;
                        }
                        mix(slopes, plain, mixed, all, m, wide);
                        scatter(mixed, wide, of_q + query * t->of_query + of_head, t->of_query, count, t->size);
                        spread(slopes, some, keys_sum, all, m, wide);
                        spread(weights, given, values_sum, all, m, wide);
                    }
                if (s > first) { /* what is shared is complete after the last segment */
                    scatter(keys_sum + begin * wide, wide, of_k + key, t->of_key, keys - begin, t->size);
                    scatter(values_sum + begin * wide, wide, of_v + key, t->of_key, keys - begin, t->size);
                }
            }
            int64_t key = t->places[first] * t->of_key + group * t->size;
            scatter(keys_sum, wide, of_k + key, t->of_key, shared, t->size);
            scatter(values_sum, wide, of_v + key, t->of_key, shared, t->size);
        }
    }
}

/* out = softmax(logits), rows of `width`; log_sums are the logarithms of what e^logits sums to. */
void softmax(const float *logits, float *out, float *log_sums, int64_t rows, int64_t width) {
#pragma omp parallel for num_threads(parts_of(rows, FEW_ROWS))
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * width;
        float *p = out + i * width, highest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : highest)
        for (int64_t j = 0; j < width; j++) highest = x[j] > highest ? x[j] : highest;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; j++) sum += p[j] = exponential(x[j] - highest);
        const float share = 1.0f / sum;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) p[j] *= share;
        log_sums[i] = highest + logf(sum);
    }
}

/* Draw from softmax(logits), `width` of them, by inverting the cumulative distribution at `uniform`, and tell
 * the probability of what was drawn; `weights` has room for a row and `sums` for one sum of each 64. */
static void draw_row(const float *logits, double uniform, int64_t *token, float *prob, float *weights, float *sums,
                     int64_t width) {
    float highest = -INFINITY;
    double total = 0, passed = 0;
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < width; j++) highest = logits[j] > highest ? logits[j] : highest;
    for (int64_t j = 0; j < width; j += 64) {
        int64_t end = j + 64 < width ? j + 64 : width;
        float sum = 0;
        if (end - j == 64)
#pragma omp simd reduction(+ : sum)
            for (int64_t k = 0; k < 64; k++) sum += weights[j + k] = exponential(logits[j + k] - highest);
        else
            for (int64_t k = j; k < end; k++) sum += weights[k] = exponential(logits[k] - highest);
        sums[j / 64] = sum;
        total += sum;
    }
    double target = uniform * total;
    int64_t block = 0, blocks = (width + 63) / 64, likely = 0;
    while (block < blocks - 1 && passed + sums[block] <= target) passed += sums[block++];
    /* Where rounding leads past the last id that has a probability, that id is taken. */
    for (int64_t j = 0; j < width && j < 64 * (block + 1); j++) {
        if (j >= 64 * block) passed += weights[j];
        if (weights[j] > 0) likely = j;
        if (j >= 64 * block && passed > target && weights[j] > 0) break;
    }
    *token = likely;
    *prob = (float)(weights[likely] / total);
}

/* Draw for each row; `scratch` has room for a row and a sum of each 64 for each thread. */
void draw(const float *logits, const double *uniform, int64_t *tokens, float *probs, float *scratch, int64_t rows,
          int64_t width) {
    const int64_t parts = parts_of(rows, FEW_ROWS);
#pragma omp parallel for num_threads(team) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
        float *weights = scratch + part * (width + width / 64 + 1);
        for (int64_t i = begin; i < end; i++)
            draw_row(logits + i * width, uniform[i], tokens + i, probs + i, weights, weights + width, width);
    }
}
