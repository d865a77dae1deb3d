/* What a decoding step of a small model does between its matrix products, each in one pass over its rows.
 *
 * PyTorch needs several operators for each of these, and calling one costs more than computing it where rows
 * are few and short. Matrix products are not here: PyTorch's are as fast as they can be.
 * All tensors are contiguous; float is 32 bits. A row's result does not depend on the other rows. */

#include <math.h>
#include <stdint.h>
#include <string.h>

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

/* x += bias; out = layer_norm(x) * gain + offset: rows of `width`. */
void add_and_norm(float *x, const float *bias, const float *gain, const float *offset, float *out,
                  int64_t rows, int64_t width, float epsilon) {
    for (int64_t i = 0; i < rows; i++, x += width, out += width) {
        float sum = 0, squares = 0;
        if (bias)
#pragma omp simd
            for (int64_t j = 0; j < width; j++) x[j] += bias[j];
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

/* x = gelu(x + bias), as tanh approximates it: x · sigmoid(2u) is 0.5 · x · (1 + tanh u). */
void add_and_gelu(float *x, const float *bias, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++, x += width) {
#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            float h = x[j] + bias[j];
            x[j] = h / (1.0f + exponential(h * (-1.59576912f - 0.07135482f * h * h)));
        }
    }
}

/* One head of `attend`; inlined once for each common size, so that sums stay in registers. */
static inline __attribute__((always_inline)) void attend_head(
    const float *q, const float *keys, const float *values, const float *next, float *out, float *weights,
    int64_t width, int64_t size, float scale) {
    float highest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < width; j++) {
        float product = 0;
        for (int64_t d = 0; d < size; d += 16) __builtin_prefetch(values + j * size + d);
#pragma omp simd reduction(+ : product)
        for (int64_t d = 0; d < size; d++) product += q[d] * keys[j * size + d];
        weights[j] = product * scale;
    }
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < width; j++) highest = weights[j] > highest ? weights[j] : highest;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; j++) sum += weights[j] = exponential(weights[j] - highest);
    for (int64_t first = 0; first < size; first += 64) {
        float parts[64] = {0};
        int64_t part = size - first < 64 ? size - first : 64;
        for (int64_t j = 0; j < width; j++) {
            const float *v = values + j * size + first;
            for (int64_t d = 0; d < part; d += 16) __builtin_prefetch(next + j * size + first + d);
#pragma omp simd
            for (int64_t d = 0; d < part; d++) parts[d] += weights[j] * v[d];
        }
        for (int64_t d = 0; d < part; d++) out[first + d] = parts[d] / sum;
    }
}

/* Write the keys and values of one token a row, at[i], and attend to those up to it.
 *
 * qkv is (rows, 3, heads, size), keys and values are (rows, heads, room, size), out is (rows, heads, size);
 * `weights` has room for a row of `room`. */
void attend(const float *qkv, float *keys, float *values, const int64_t *at, float *out, float *weights,
            int64_t rows, int64_t heads, int64_t size, int64_t room, float scale) {
    int64_t width = heads * size;
    for (int64_t i = 0; i < rows; i++, qkv += 3 * width) {
        for (int64_t h = 0; h < heads; h++, keys += room * size, values += room * size, out += size) {
            const float *q = qkv + h * size;
            memcpy(keys + at[i] * size, q + width, size * sizeof *q);
            memcpy(values + at[i] * size, q + 2 * width, size * sizeof *q);
            if (size == 64)
                attend_head(q, keys, values, keys + room * size, out, weights, at[i] + 1, 64, scale);
            else if (size == 32)
                attend_head(q, keys, values, keys + room * size, out, weights, at[i] + 1, 32, scale);
            else if (size == 24)
                attend_head(q, keys, values, keys + room * size, out, weights, at[i] + 1, 24, scale);
            else if (size == 16)
                attend_head(q, keys, values, keys + room * size, out, weights, at[i] + 1, 16, scale);
            else
                attend_head(q, keys, values, keys + room * size, out, weights, at[i] + 1, size, scale);
        }
    }
}

/* Draw from softmax(logits), rows of `width`, by inverting the cumulative distribution at `uniform`, and
 * tell the probabilities of what was drawn; `weights` has room for a row and `sums` for one sum of 64. */
void draw(const float *logits, const double *uniform, int64_t *tokens, float *probs, float *weights,
          float *sums, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++, logits += width) {
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
        double target = uniform[i] * total;
        int64_t block = 0, blocks = (width + 63) / 64, likely = 0;
        while (block < blocks - 1 && passed + sums[block] <= target) passed += sums[block++];
        /* Where rounding leads past the last id that has a probability, that id is taken. */
        for (int64_t j = 0; j < width && j < 64 * (block + 1); j++) {
            if (j >= 64 * block) passed += weights[j];
            if (weights[j] > 0) likely = j;
            if (j >= 64 * block && passed > target && weights[j] > 0) break;
        }
        tokens[i] = likely;
        probs[i] = (float)(weights[likely] / total);
    }
}
