/*
 * The native part of star_rl.neighbours: CSR building and the two-hop walk with a top-k selection.
 *
 * Plain C without the CPython API: it is loaded through ctypes, which releases the GIL for every call, so
 * rows run in parallel in ordinary Python threads. star_rl/neighbours/fallback.py holds the same functions in NumPy and
 * returns the same bits; tests compare the two.
 *
 * Notation: a walk goes row -> mid -> target (item -> user -> item, or user -> item -> user). Both hops are CSR
 * matrices with int64 row pointers and int32 indices.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define PREFETCH(p) __builtin_prefetch(p)
#define PREFETCH_WRITE(p) __builtin_prefetch((p), 1)
#else
#define ALWAYS_INLINE inline
#define PREFETCH(p) ((void)0)
#define PREFETCH_WRITE(p) ((void)0)
#endif

/* Bumped whenever a signature below changes, so that a stale build is refused instead of called wrongly. */
API int32_t star_kernel_version(void) { return 6; }

/* ---------------------------------------------------------------- building */

/* Row pointers (length n_keys + 1) of `keys`; returns 1 if keys ascend, 0 if not, -1 if one is out of range. */
API int32_t star_pointers(int64_t n, const int32_t *keys, int64_t n_keys, int64_t *indptr) {
    memset(indptr, 0, (size_t)(n_keys + 1) * sizeof(int64_t));
    int32_t ascending = 1;
    for (int64_t e = 0; e < n; e++) {
        int32_t key = keys[e];
        if (key < 0 || key >= n_keys) return -1;
        if (e && key < keys[e - 1]) ascending = 0;
        indptr[key + 1]++;
    }
    for (int64_t r = 0; r < n_keys; r++) indptr[r + 1] += indptr[r];
    return ascending;
}

/* Stable scatter of values (and times, which may be NULL) by keys. `cursor` holds row starts and is consumed. */
API void star_scatter(int64_t n, const int32_t *keys, const int32_t *values, const int64_t *times, int64_t *cursor,
                      int32_t *out_values, int64_t *out_times) {
    for (int64_t e = 0; e < n; e++) {
        if (e + 24 < n) PREFETCH_WRITE(&cursor[keys[e + 24]]);
        if (e + 12 < n) PREFETCH_WRITE(&out_values[cursor[keys[e + 12]]]);
        int64_t at = cursor[keys[e]]++;
        out_values[at] = values[e];
        if (times) out_times[at] = times[e];
    }
}

/* Transposes a CSR pattern; the result's rows list their indices in ascending order. `cursor` as in star_scatter. */
API void star_transpose(int64_t n_rows, const int64_t *indptr, const int32_t *indices, const int64_t *times,
                        int64_t *cursor, int32_t *out_indices, int64_t *out_times) {
    int64_t n = indptr[n_rows];
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t e = indptr[r]; e < indptr[r + 1]; e++) {
            /* Both the cursors and their places are scattered over memory: asked for ahead, they arrive in parallel. */
            if (e + 24 < n) PREFETCH_WRITE(&cursor[indices[e + 24]]);
            if (e + 12 < n) PREFETCH_WRITE(&out_indices[cursor[indices[e + 12]]]);
            int64_t at = cursor[indices[e]]++;
            out_indices[at] = (int32_t)r;
            if (times) out_times[at] = times[e];
        }
}

/* Whether the indices of every row ascend strictly: nothing to sort, nothing to merge. */
API int32_t star_ascends(int64_t n_rows, const int64_t *indptr, const int32_t *indices) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t e = indptr[r] + 1; e < indptr[r + 1]; e++)
            if (indices[e] <= indices[e - 1]) return 0;
    return 1;
}

/* Merges equal neighbours of rows in place, keeping the latest time; returns how many edges are left. */
API int64_t star_dedupe(int64_t n_rows, int64_t *indptr, int32_t *indices, int64_t *times) {
    int64_t kept = 0, start = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t end = indptr[r + 1], first = kept;
        for (int64_t e = start; e < end; e++) {
            if (kept > first && indices[kept - 1] == indices[e]) {
                if (times && times[e] > times[kept - 1]) times[kept - 1] = times[e];
                continue;
            }
            indices[kept] = indices[e];
            if (times) times[kept] = times[e];
            kept++;
        }
        start = end;
        indptr[r + 1] = kept;
    }
    return kept;
}

/* Number of two-hop steps of each row: the sum of its mids' degrees. */
API void star_work(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr, const int32_t *mid_indices,
                   const int64_t *target_indptr, int64_t *work) {
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t total = 0;
        for (int64_t a = mid_indptr[rows[r]]; a < mid_indptr[rows[r] + 1]; a++) {
            int32_t mid = mid_indices[a];
            total += target_indptr[mid + 1] - target_indptr[mid];
        }
        work[r] = total;
    }
}

/* Closes the gaps between rows of entries of `size` bytes: row r moves from starts[r] to the end of row r-1. */
API void star_compact(int64_t n_rows, const int64_t *starts, const int32_t *lengths, int64_t size, char *entries) {
    int64_t to = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t from = starts[r];
        if (from != to) memmove(entries + to * size, entries + from * size, (size_t)(lengths[r] * size));
        to += lengths[r];
    }
}

/* ---------------------------------------------------------------- selection */

/*
 * A candidate is one 64-bit key: the bits of its weight (a float32 >= 0, whose bits order as its value does) above
 * the complement of its id. Larger is better: weight descending, then id ascending. Keys are distinct, so the best k
 * are one set and one order. Most weights of a row tie (one shared mid), which makes comparisons unpredictable:
 * everything below avoids branches on them.
 */
static inline uint64_t key_of(float weight, int32_t id) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return ((uint64_t)bits << 32) | (uint32_t)~(uint32_t)id;
}

static inline int32_t id_of(uint64_t key) { return (int32_t)~(uint32_t)key; }

static inline float weight_of(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

static inline uint64_t middle(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    uint64_t upper = low > c ? low : c;
    return upper < high ? upper : high;
}

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Brings the best k of n keys to the front, unordered. Expected time O(n); after bad pivots it falls back to sorting. */
static void select_best(uint64_t *keys, int64_t n, int64_t k) {
    int64_t low = 0, high = n;
    for (int rounds = 0; high - low > 1 && low < k && k < high; rounds++) {
        if (rounds == 64) {
            qsort(keys + low, (size_t)(high - low), sizeof *keys, descending);
            return;
        }
        uint64_t pivot = middle(keys[low], keys[low + (high - low) / 2], keys[high - 1]);
        int64_t split = low; /* everything before it is >= pivot */
        for (int64_t e = low; e < high; e++) {
            uint64_t key = keys[e];
            keys[e] = keys[split];
            keys[split] = key;
            split += key >= pivot;
        }
        if (split == high) { /* the pivot is the smallest: put it last, it alone is settled */
            int64_t at = low;
            while (keys[at] != pivot) at++;
            keys[at] = keys[high - 1];
            keys[high - 1] = pivot;
            high--;
        } else if (split <= k) {
            low = split;
        } else {
            high = split;
        }
    }
}

static inline void order(uint64_t *a, uint64_t *b) {
    uint64_t x = *a, y = *b;
    *a = x > y ? x : y;
    *b = x > y ? y : x;
}

/* Sorts n keys, best first: networks of four, then merges between keys and spare. Returns where the result is. */
static uint64_t *sort_best(uint64_t *keys, uint64_t *spare, int64_t n) {
    int64_t e = 0;
    for (; e + 4 <= n; e += 4) {
        uint64_t *q = keys + e;
        order(q, q + 1), order(q + 2, q + 3), order(q, q + 2), order(q + 1, q + 3), order(q + 1, q + 2);
    }
    for (int64_t i = e + 1; i < n; i++)
        for (int64_t j = i; j > e && keys[j - 1] < keys[j]; j--) order(keys + j - 1, keys + j);
    for (int64_t width = 4; width < n; width *= 2) {
        for (int64_t start = 0; start < n; start += 2 * width) {
            int64_t a = start, a_end = start + width < n ? start + width : n;
            int64_t b = a_end, b_end = start + 2 * width < n ? start + 2 * width : n, to = start;
            while (a < a_end && b < b_end) {
                uint64_t x = keys[a], y = keys[b];
                int first = x > y;
                spare[to++] = first ? x : y;
                a += first;
                b += !first;
            }
            while (a < a_end) spare[to++] = keys[a++];
            while (b < b_end) spare[to++] = keys[b++];
        }
        uint64_t *swap = keys;
        keys = spare;
        spare = swap;
    }
    return keys;
}

/* Supports are written as uint16 where that holds every one of them, else as int32. */
static inline void put_support(void *out, int32_t narrow, int64_t at, uint32_t support) {
    if (narrow) ((uint16_t *)out)[at] = (uint16_t)support;
    else ((int32_t *)out)[at] = (int32_t)support;
}

/* Room beyond k before the buffer of candidates is thinned out. */
#define SLACK(k) ((int64_t)(k) + 256)

static uint64_t smallest(const uint64_t *keys, int32_t k) {
    uint64_t low = keys[0];
    for (int32_t e = 1; e < k; e++) low = keys[e] < low ? keys[e] : low;
    return low;
}

/* The best min(n, k) of n keys, best first; works in both buffers and returns the one with the result. */
static const uint64_t *in_order(uint64_t *keys, uint64_t *spare, int64_t n, int32_t k) {
    if (n > k) select_best(keys, n, k);
    return sort_best(keys, spare, n < k ? n : k);
}

/* ---------------------------------------------------------------- walks */

/*
 * A target's counter (low half) beside the kind of its scale (high half), so that counting brings in what weighing
 * needs. Where both fit 16 bits a cell has 4 bytes instead of 8: whether the cells fit the cache decides the speed
 * of large graphs.
 */
typedef struct { uint32_t count, kind; } Cell;

static inline int count_one(void *cells, int32_t narrow, int32_t j) {
    if (narrow) return (((uint32_t *)cells)[j]++ & 0xffffu) == 0;
    return (uint32_t)((uint64_t *)cells)[j]++ == 0;
}

static inline Cell cell_at(const void *cells, int32_t narrow, int32_t j) {
    uint32_t small = narrow ? ((const uint32_t *)cells)[j] : 0;
    uint64_t wide = narrow ? 0 : ((const uint64_t *)cells)[j];
    Cell cell = {narrow ? small & 0xffffu : (uint32_t)wide, narrow ? small >> 16 : (uint32_t)(wide >> 32)};
    return cell;
}

static inline void clear(void *cells, int32_t narrow, int32_t j) {
    if (narrow) ((uint32_t *)cells)[j] &= ~(uint32_t)0xffffu;
    else ((uint64_t *)cells)[j] &= ~(uint64_t)0xffffffffu;
}

/* The body of star_count_rows; inlined twice, once for each width. */
static ALWAYS_INLINE int32_t count_rows(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr,
                                        const int32_t *mid_indices, const int64_t *target_indptr,
                                        const int32_t *target_indices, const double *row_scale, const double *scales,
                                        int32_t k, void *cells, int32_t *touched, const int64_t *starts,
                                        int32_t *out_indices, float *out_weights, void *out_support, int32_t narrow,
                                        int32_t *out_lengths) {
    int64_t room = k + SLACK(k);
    uint64_t *keys = malloc(2 * (size_t)(room + 1) * sizeof *keys);
    if (!keys) return -1;
    int64_t end = 0;
    for (int64_t r = 0; r < n_rows; r++)
        if (mid_indptr[rows[r] + 1] > end) end = mid_indptr[rows[r] + 1];
    for (int64_t r = 0; r < n_rows; r++) {
        int32_t row = rows[r];
        int64_t seen = 0;
        for (int64_t a = mid_indptr[row]; a < mid_indptr[row + 1]; a++) {
            /* Mids are scattered over memory: asked for some steps ahead, beyond the end of the row too, since the next
             * row mostly follows. */
            if (a + 16 < end) {
                PREFETCH(&target_indptr[mid_indices[a + 16]]);
                const int32_t *soon = target_indices + target_indptr[mid_indices[a + 8]];
                PREFETCH(soon);
                PREFETCH(soon + 16);
            }
            int32_t mid = mid_indices[a];
            for (int64_t b = target_indptr[mid]; b < target_indptr[mid + 1]; b++) {
                int32_t j = target_indices[b];
                touched[seen] = j;
                seen += count_one(cells, narrow, j);
            }
        }
        double scale = row_scale[row];
        int64_t kept = 0;
        uint64_t bar = 0;
        for (int64_t t = 0; t < seen; t++) {
            int32_t j = touched[t];
            Cell cell = cell_at(cells, narrow, j);
            uint64_t key = key_of((float)((double)cell.count * scales[cell.kind] * scale), j);
            keys[kept] = key;
            kept += (key > bar) & (j != row);
            if (kept == room) {
                select_best(keys, kept, k);
                kept = k;
                bar = smallest(keys, k);
            }
        }
        int64_t to = starts[r];
        int32_t size = kept < k ? (int32_t)kept : k;
        const uint64_t *best = in_order(keys, keys + room + 1, kept, k);
        for (int32_t e = 0; e < size; e++) {
            int32_t j = id_of(best[e]);
            out_indices[to + e] = j;
            out_weights[to + e] = weight_of(best[e]);
            put_support(out_support, narrow, to + e, cell_at(cells, narrow, j).count);
        }
        out_lengths[r] = size;
        for (int64_t t = 0; t < seen; t++) clear(cells, narrow, touched[t]);
    }
    free(keys);
    return 0;
}

/*
 * Unweighted walk: weight(row, j) = count(row, j) * scales[kind of j] * row_scale[row], rounded to float32; support
 * = count. Scales depend on degrees, of which there are few kinds: a table of them stays in cache, and weights are
 * exact float64 products. The row itself is left out. cells: n_targets, uint32 (narrow: kinds and counts fit 16
 * bits) or uint64, the kind in the high half and 0 in the low, left so; touched: n_targets + 1. Returns -1 when
 * memory is short.
 */
API int32_t star_count_rows(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr, const int32_t *mid_indices,
                            const int64_t *target_indptr, const int32_t *target_indices, const double *row_scale,
                            const double *scales, int32_t k, void *cells, int32_t *touched, const int64_t *starts,
                            int32_t *out_indices, float *out_weights, void *out_support, int32_t narrow,
                            int32_t *out_lengths) {
    if (narrow)
        return count_rows(n_rows, rows, mid_indptr, mid_indices, target_indptr, target_indices, row_scale, scales, k,
                          cells, touched, starts, out_indices, out_weights, out_support, 1, out_lengths);
    return count_rows(n_rows, rows, mid_indptr, mid_indices, target_indptr, target_indices, row_scale, scales, k, cells,
                      touched, starts, out_indices, out_weights, out_support, 0, out_lengths);
}

/*
 * Weighted walk: weight = sum over mids of mid_values[edge] * mid_factor[mid] * target_values[edge], times both
 * scales; support = number of mids. The three value arrays may be NULL (= 1). Targets listed in row own_rows[r] of
 * the own CSR are left out; when own_indptr is NULL the target own_rows[r] itself is. sums/counts: n_targets zeros,
 * left as zeros.
 */
API int32_t star_weigh_rows(int64_t n_rows, const int32_t *rows, const int32_t *own_rows, const int64_t *mid_indptr,
                            const int32_t *mid_indices, const double *mid_values, const double *mid_factor,
                            const int64_t *target_indptr, const int32_t *target_indices, const double *target_values,
                            const int64_t *own_indptr, const int32_t *own_indices, const double *row_scale,
                            const double *target_scale, int32_t k, double *sums, uint32_t *counts, int32_t *touched,
                            const int64_t *starts, int32_t *out_indices, float *out_weights, void *out_support,
                            int32_t narrow, int32_t *out_lengths) {
    int64_t room = k + SLACK(k);
    uint64_t *keys = malloc(2 * (size_t)(room + 1) * sizeof *keys);
    if (!keys) return -1;
    for (int64_t r = 0; r < n_rows; r++) {
        int32_t row = rows[r], own = own_rows[r];
        int64_t seen = 0;
        for (int64_t a = mid_indptr[row]; a < mid_indptr[row + 1]; a++) {
            int32_t mid = mid_indices[a];
            double value = (mid_values ? mid_values[a] : 1.0) * (mid_factor ? mid_factor[mid] : 1.0);
            for (int64_t b = target_indptr[mid]; b < target_indptr[mid + 1]; b++) {
                int32_t j = target_indices[b];
                sums[j] += target_values ? value * target_values[b] : value;
                touched[seen] = j;
                seen += counts[j]++ == 0;
            }
        }
        if (own_indptr)
            for (int64_t e = own_indptr[own]; e < own_indptr[own + 1]; e++) counts[own_indices[e]] = 0;
        else
            counts[own] = 0;
        int64_t kept = 0;
        uint64_t bar = 0;
        for (int64_t t = 0; t < seen; t++) {
            int32_t j = touched[t];
            uint64_t key = key_of((float)(sums[j] * target_scale[j] * row_scale[row]), j);
            sums[j] = 0.0;
            keys[kept] = key;
            kept += (key > bar) & (counts[j] != 0);
            if (kept == room) {
                select_best(keys, kept, k);
                kept = k;
                bar = smallest(keys, k);
            }
        }
        int64_t to = starts[r];
        int32_t size = kept < k ? (int32_t)kept : k;
        const uint64_t *best = in_order(keys, keys + room + 1, kept, k);
        for (int32_t e = 0; e < size; e++) {
            int32_t j = id_of(best[e]);
            out_indices[to + e] = j;
            out_weights[to + e] = weight_of(best[e]);
            put_support(out_support, narrow, to + e, counts[j]);
        }
        out_lengths[r] = size;
        for (int64_t t = 0; t < seen; t++) counts[touched[t]] = 0;
    }
    free(keys);
    return 0;
}
