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
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)0)
#endif

/* Bumped whenever a signature below changes, so that a stale build is refused instead of called wrongly. */
API int32_t star_kernel_version(void) { return 1; }

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

/* Stable scatter of values (and times, which may be NULL) into the rows given by keys. `cursor` holds row starts and is consumed. */
API void star_scatter(int64_t n, const int32_t *keys, const int32_t *values, const int64_t *times, int64_t *cursor,
                      int32_t *out_values, int64_t *out_times) {
    for (int64_t e = 0; e < n; e++) {
        int64_t at = cursor[keys[e]]++;
        out_values[at] = values[e];
        if (times) out_times[at] = times[e];
    }
}

/* Transposes a CSR pattern; rows of the result list their indices in ascending row order. `cursor` as in star_scatter. */
API void star_transpose(int64_t n_rows, const int64_t *indptr, const int32_t *indices, const int64_t *times,
                        int64_t *cursor, int32_t *out_indices, int64_t *out_times) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t e = indptr[r]; e < indptr[r + 1]; e++) {
            int64_t at = cursor[indices[e]]++;
            out_indices[at] = (int32_t)r;
            if (times) out_times[at] = times[e];
        }
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

/* Closes the gaps between rows: row r moves from starts[r] to the end of row r-1. Returns the total length. */
API int64_t star_compact(int64_t n_rows, const int64_t *starts, const int32_t *lengths, int32_t *indices, float *weights,
                         int32_t *support) {
    int64_t to = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t from = starts[r];
        size_t count = (size_t)lengths[r];
        if (from != to) {
            memmove(indices + to, indices + from, count * sizeof *indices);
            memmove(weights + to, weights + from, count * sizeof *weights);
            memmove(support + to, support + from, count * sizeof *support);
        }
        to += (int64_t)count;
    }
    return to;
}

/* ---------------------------------------------------------------- selection */

typedef struct { float weight; int32_t id; int32_t support; } Entry;

/* Order of the result: weight descending, then id ascending. */
static inline int worse(Entry a, Entry b) { return a.weight < b.weight || (a.weight == b.weight && a.id > b.id); }

static void sift_down(Entry *heap, int32_t size, Entry entry) {
    int32_t at = 0;
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], entry)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = entry;
}

/* Offers one entry to a heap of the k best (worst at the root); returns the new size. */
static inline int32_t offer(Entry *heap, int32_t size, int32_t k, Entry entry) {
    if (size == k) {
        if (worse(heap[0], entry)) sift_down(heap, k, entry);
        return size;
    }
    int32_t at = size;
    while (at && worse(entry, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
    return size + 1;
}

/* Empties the heap into the output arrays, best first. */
static void drain(Entry *heap, int32_t size, int32_t *indices, float *weights, int32_t *support) {
    while (size) {
        Entry last = heap[--size];
        indices[size] = heap[0].id;
        weights[size] = heap[0].weight;
        support[size] = heap[0].support;
        if (size) sift_down(heap, size, last);
    }
}

/* ---------------------------------------------------------------- walks */

/*
 * Unweighted walk: weight(row, j) = count(row, j) * target_scale[j] * row_scale[row], rounded to float32; support = count.
 * The row itself is left out. counts: n_targets zeros, left as zeros; touched: n_targets + 1. filter: target_scale as float32.
 * Returns -1 when memory is short.
 */
API int32_t star_count_rows(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr, const int32_t *mid_indices,
                            const int64_t *target_indptr, const int32_t *target_indices, const double *row_scale,
                            const double *target_scale, const float *filter, int32_t k, uint32_t *counts,
                            int32_t *touched, const int64_t *starts, int32_t *out_indices, float *out_weights,
                            int32_t *out_support, int32_t *out_lengths) {
    Entry *heap = malloc((size_t)(k > 0 ? k : 1) * sizeof *heap);
    if (!heap) return -1;
    for (int64_t r = 0; r < n_rows; r++) {
        int32_t row = rows[r];
        int64_t seen = 0, last = mid_indptr[row + 1];
        for (int64_t a = mid_indptr[row]; a < last; a++) {
            /* Mids are scattered over memory: their row pointers and indices are asked for some steps ahead. */
            if (a + 8 < last) PREFETCH(&target_indptr[mid_indices[a + 8]]);
            if (a + 4 < last) PREFETCH(&target_indices[target_indptr[mid_indices[a + 4]]]);
            int32_t mid = mid_indices[a];
            for (int64_t b = target_indptr[mid]; b < target_indptr[mid + 1]; b++) {
                int32_t j = target_indices[b];
                touched[seen] = j; /* without a branch: whether a target is new cannot be predicted */
                seen += counts[j]++ == 0;
            }
        }
        double scale = row_scale[row];
        counts[row] = 0;
        int32_t size = 0;
        int64_t t = 0;
        for (; t < seen && size < k; t++) {
            int32_t j = touched[t];
            uint32_t count = counts[j];
            counts[j] = 0;
            if (!count) continue;
            Entry entry = {(float)((double)count * target_scale[j] * scale), j, (int32_t)count};
            size = offer(heap, size, k, entry);
        }
        /* The float32 filter only lets through what may still enter; the exact comparison follows in offer(). */
        float bar = size ? (float)((double)heap[0].weight / scale * 0.99999) : 0.0f;
        for (; t < seen; t++) {
            int32_t j = touched[t];
            uint32_t count = counts[j];
            counts[j] = 0;
            if (!count || (float)count * filter[j] < bar) continue;
            Entry entry = {(float)((double)count * target_scale[j] * scale), j, (int32_t)count};
            size = offer(heap, size, k, entry);
            bar = (float)((double)heap[0].weight / scale * 0.99999);
        }
        out_lengths[r] = size;
        drain(heap, size, out_indices + starts[r], out_weights + starts[r], out_support + starts[r]);
    }
    free(heap);
    return 0;
}

/*
 * Weighted walk: weight = sum over mids of mid_values[edge] * mid_factor[mid] * target_values[edge], times both scales;
 * support = number of mids. The three value arrays may be NULL (= 1). Targets listed in row own_rows[r] of the own CSR are left
 * out; when own_indptr is NULL the target own_rows[r] itself is. sums/counts: n_targets zeros, left as zeros.
 */
API int32_t star_weigh_rows(int64_t n_rows, const int32_t *rows, const int32_t *own_rows, const int64_t *mid_indptr,
                            const int32_t *mid_indices, const double *mid_values, const double *mid_factor,
                            const int64_t *target_indptr, const int32_t *target_indices, const double *target_values,
                            const int64_t *own_indptr, const int32_t *own_indices, const double *row_scale,
                            const double *target_scale, int32_t k, double *sums, uint32_t *counts, int32_t *touched,
                            const int64_t *starts, int32_t *out_indices, float *out_weights, int32_t *out_support,
                            int32_t *out_lengths) {
    Entry *heap = malloc((size_t)(k > 0 ? k : 1) * sizeof *heap);
    if (!heap) return -1;
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
        int32_t size = 0;
        for (int64_t t = 0; t < seen; t++) {
            int32_t j = touched[t];
            Entry entry = {(float)(sums[j] * target_scale[j] * row_scale[row]), j, (int32_t)counts[j]};
            sums[j] = 0.0;
            counts[j] = 0;
            if (entry.support && k > 0) size = offer(heap, size, k, entry);
        }
        out_lengths[r] = size;
        drain(heap, size, out_indices + starts[r], out_weights + starts[r], out_support + starts[r]);
    }
    free(heap);
    return 0;
}
