/*
 * The native part of star_rl.neighbours: CSR building and the two-hop walk with a top-k selection.
 *
 * Plain C without the CPython API: it is loaded through ctypes, which releases the GIL for every call, so
 * rows run in parallel in ordinary Python threads. Tests hold it against SciPy and against plain Python.
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

/* One binary, compiled for the plain, the AVX2 and the AVX-512 machine; the loader takes the best that runs here. The
 * bits of the results are the same: no contraction, no reordering of sums. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EVERY_WIDTH __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FOR_EVERY_WIDTH
#endif

/* Bumped whenever a signature below changes, so that a stale build is refused instead of called wrongly. */
API int32_t star_kernel_version(void) { return 7; }

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

/*
 * Transposes rows `first` to `stop` of a CSR pattern; the result's rows list their indices in ascending order. `cursor`
 * holds row starts of the result and is consumed; or, going backwards, row ends: so two threads fill one result from
 * both ends, each with rows of its own.
 */
API void star_transpose(int64_t first, int64_t stop, int32_t backwards, const int64_t *indptr, const int32_t *indices,
                        const int64_t *times, int64_t *cursor, int32_t *out_indices, int64_t *out_times) {
    /* Both the cursors and their places are scattered over memory: asked for ahead, they arrive in parallel. */
    if (backwards) {
        int64_t low = indptr[first];
        for (int64_t r = stop - 1; r >= first; r--)
            for (int64_t e = indptr[r + 1] - 1; e >= indptr[r]; e--) {
                if (e - 24 >= low) PREFETCH_WRITE(&cursor[indices[e - 24]]);
                if (e - 12 >= low) PREFETCH_WRITE(&out_indices[cursor[indices[e - 12]] - 1]);
                int64_t at = --cursor[indices[e]];
                out_indices[at] = (int32_t)r;
                if (times) out_times[at] = times[e];
            }
        return;
    }
    int64_t end = indptr[stop];
    for (int64_t r = first; r < stop; r++)
        for (int64_t e = indptr[r]; e < indptr[r + 1]; e++) {
            if (e + 24 < end) PREFETCH_WRITE(&cursor[indices[e + 24]]);
            if (e + 12 < end) PREFETCH_WRITE(&out_indices[cursor[indices[e + 12]]]);
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

/* Where the last edge of any of these rows ends: what lies before it may be looked at ahead of its turn. */
static int64_t last_edge(int64_t n_rows, const int32_t *rows, const int64_t *indptr) {
    int64_t end = 0;
    for (int64_t r = 0; r < n_rows; r++)
        if (indptr[rows[r] + 1] > end) end = indptr[rows[r] + 1];
    return end;
}

/* Number of two-hop steps of each row: the sum of its mids' degrees. */
API void star_work(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr, const int32_t *mid_indices,
                   const int64_t *target_indptr, int64_t *work) {
    int64_t end = last_edge(n_rows, rows, mid_indptr);
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t total = 0;
        for (int64_t a = mid_indptr[rows[r]]; a < mid_indptr[rows[r] + 1]; a++) {
            if (a + 24 < end) PREFETCH(&target_indptr[mid_indices[a + 24]]);
            int32_t mid = mid_indices[a];
            total += target_indptr[mid + 1] - target_indptr[mid];
        }
        work[r] = total;
    }
}

/* Targets with the kind of their scale in the low `bits`: what weighing needs comes along with what counting reads. */
API void star_pack(int64_t n, const int32_t *targets, const uint32_t *kinds, int32_t bits, uint32_t *packed) {
    for (int64_t e = 0; e < n; e++) {
        if (e + 24 < n) PREFETCH(&kinds[targets[e + 24]]);
        packed[e] = (uint32_t)targets[e] << bits | kinds[targets[e]];
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
 * the complement of its id. Larger is better: weight descending, then id ascending. Keys are distinct and >= 0, so
 * the best k are one set and one order. Most weights of a row tie (one shared mid), which makes comparisons
 * unpredictable: everything below avoids branches on them, and counts with them many at a time.
 */
static inline int64_t key_of(float weight, int32_t id) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (int64_t)((uint64_t)bits << 32 | (uint32_t)~(uint32_t)id);
}

static inline int32_t id_of(int64_t key) { return (int32_t)~(uint32_t)key; }

static inline float weight_of(int64_t key) {
    uint32_t bits = (uint32_t)((uint64_t)key >> 32);
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

/* Keys with their supports. */
typedef struct { int64_t *keys; uint32_t *supports; } Candidates;

/* So many candidates are weighed at once; they are thinned out when fewer places are left in a list of ROOM. */
#define BLOCK 1024
#define LANES 8
#define SAMPLES 16
/* So many are sorted by counting, for each, those that are better; longer lists are merged from such runs. */
#define RUN 80
#define ROOM(k) (2 * (int64_t)(k) + 2 * BLOCK + 1)

/* out[number of better ones] = one, for n distinct keys; out has a place more. */
static ALWAYS_INLINE void rank_run(const int64_t *keys, const uint32_t *supports, int64_t n, Candidates out) {
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t tile[LANES], rank[LANES] = {0};
        for (int64_t l = 0; l < LANES; l++) tile[l] = i + l < n ? keys[i + l] : -1;
        for (int64_t j = 0; j < n; j++)
            for (int64_t l = 0; l < LANES; l++) rank[l] += keys[j] > tile[l];
        for (int64_t l = 0; l < LANES; l++) out.keys[rank[l]] = tile[l]; /* what pads the last tile goes to out[n] */
        if (supports)
            for (int64_t l = 0; l < LANES && i + l < n; l++) out.supports[rank[l]] = supports[i + l];
    }
}

static ALWAYS_INLINE int64_t count_from(const int64_t *keys, int64_t n, int64_t bar) {
    int64_t count = 0;
    for (int64_t e = 0; e < n; e++) count += keys[e] >= bar;
    return count;
}

/* Keeps the keys above the bar, in their order; returns how many. */
static ALWAYS_INLINE int64_t keep_above(Candidates from, int64_t n, int64_t bar, Candidates to) {
    int64_t kept = 0;
    for (int64_t e = 0; e < n; e++) {
        int64_t key = from.keys[e];
        to.keys[kept] = key;
        to.supports[kept] = from.supports[e];
        kept += key > bar;
    }
    return kept;
}

/*
 * Leaves out keys that are not among the best k < n and returns how many are left: at least k, and at most k + n / 4
 * unless there were fewer. The bar is the best of some samples that k keys reach, or is halved down to where samples
 * mislead. Sets *bar to what a further key must exceed.
 */
static ALWAYS_INLINE int64_t thin(Candidates all, int64_t n, int64_t k, int64_t *bar) {
    int64_t sample[SAMPLES], sorted[SAMPLES + 1];
    Candidates order = {sorted, NULL};
    for (int64_t s = 0; s < SAMPLES; s++) sample[s] = all.keys[s * n / SAMPLES];
    rank_run(sample, NULL, SAMPLES, order);
    int64_t low = 0, high = INT64_MAX, from_low = n; /* k keys reach low, fewer reach high */
    for (int first = 0, last = SAMPLES; first < last;) {
        int middle = (first + last) / 2;
        int64_t count = count_from(all.keys, n, sorted[middle]);
        if (count >= k) low = sorted[middle], from_low = count, last = middle;
        else high = sorted[middle], first = middle + 1;
    }
    while (from_low > k + n / 4 && high - low > 1) {
        int64_t middle = low + (high - low) / 2, count = count_from(all.keys, n, middle);
        if (count >= k) low = middle, from_low = count;
        else high = middle;
    }
    *bar = low - 1;
    return keep_above(all, n, *bar, all);
}

/* Merges sorted runs of RUN keys between all and spare; returns where the result is. */
static Candidates merge_runs(Candidates all, Candidates spare, int64_t n) {
    for (int64_t width = RUN; width < n; width *= 2) {
        for (int64_t start = 0; start < n; start += 2 * width) {
            int64_t a = start, a_end = start + width < n ? start + width : n;
            int64_t b = a_end, b_end = start + 2 * width < n ? start + 2 * width : n;
            for (int64_t to = start; to < b_end; to++) {
                int first = b == b_end || (a < a_end && all.keys[a] > all.keys[b]);
                int64_t from = first ? a : b;
                spare.keys[to] = all.keys[from];
                spare.supports[to] = all.supports[from];
                a += first;
                b += !first;
            }
        }
        Candidates swap = all;
        all = spare;
        spare = swap;
    }
    return all;
}

/* The best min(n, k) of n candidates, best first; works in both lists and returns the one with the result. */
static ALWAYS_INLINE Candidates in_order(Candidates all, Candidates spare, int64_t n, int64_t k) {
    int64_t bar;
    while (n > k + k / 4 + LANES) {
        int64_t left = thin(all, n, k, &bar);
        if (left == n) break;
        n = left;
    }
    for (int64_t start = 0; start < n; start += RUN) {
        Candidates run = {spare.keys + start, spare.supports + start};
        rank_run(all.keys + start, all.supports + start, n - start < RUN ? n - start : RUN, run);
    }
    return n > RUN ? merge_runs(spare, all, n) : spare;
}

/* Two lists with room for k and what comes before they are thinned out; keys is NULL when memory is short. */
static void allocate(int32_t k, Candidates *all, Candidates *spare) {
    int64_t room = ROOM(k);
    all->keys = malloc((size_t)room * 2 * (sizeof(int64_t) + sizeof(uint32_t)));
    if (!all->keys) return;
    spare->keys = all->keys + room;
    all->supports = (uint32_t *)(spare->keys + room);
    spare->supports = all->supports + room;
}

/* Writes the best, up to `size` of them, to the place of a row. Supports are uint16 where that holds every one. */
static ALWAYS_INLINE void put(Candidates best, int64_t size, int64_t to, int32_t *out_indices, float *out_weights,
                              void *out_support, int32_t narrow) {
    for (int64_t e = 0; e < size; e++) {
        out_indices[to + e] = id_of(best.keys[e]);
        out_weights[to + e] = weight_of(best.keys[e]);
        if (narrow) ((uint16_t *)out_support)[to + e] = (uint16_t)best.supports[e];
        else ((int32_t *)out_support)[to + e] = (int32_t)best.supports[e];
    }
}

/* ---------------------------------------------------------------- walks */

/* The body of star_count_rows; inlined for each width of the counters and each place of the kinds. */
static ALWAYS_INLINE int32_t count_rows(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr,
                                        const int32_t *mid_indices, const int64_t *target_indptr,
                                        const uint32_t *targets, int32_t bits, const uint32_t *kinds,
                                        const double *row_scale, const double *scales, int32_t k, void *counters,
                                        uint32_t *touched, const int64_t *starts, int32_t *out_indices,
                                        float *out_weights, void *out_support, int32_t narrow, int32_t *out_lengths) {
    uint16_t *small = counters;
    uint32_t *large = counters;
    uint32_t mask = ((uint32_t)1 << bits) - 1;
    Candidates all, spare;
    allocate(k, &all, &spare);
    if (!all.keys) return -1;
    int64_t end = last_edge(n_rows, rows, mid_indptr);
    for (int64_t r = 0; r < n_rows; r++) {
        int32_t row = rows[r];
        int64_t seen = 0;
        for (int64_t a = mid_indptr[row]; a < mid_indptr[row + 1]; a++) {
            /* Mids are scattered over memory: asked for some steps ahead, beyond the end of the row too, since the next
             * row mostly follows. */
            if (a + 32 < end) {
                PREFETCH(&target_indptr[mid_indices[a + 32]]);
                const uint32_t *soon = targets + target_indptr[mid_indices[a + 16]];
                PREFETCH(soon);
                PREFETCH(soon + 16);
            }
            int32_t mid = mid_indices[a];
            for (int64_t b = target_indptr[mid]; b < target_indptr[mid + 1]; b++) {
                uint32_t target = targets[b], j = target >> bits;
                touched[seen] = target;
                seen += narrow ? small[j]++ == 0 : large[j]++ == 0;
            }
        }
        double scale = row_scale[row];
        int64_t kept = 0, bar = 0;
        for (int64_t low = 0; low < seen; low += BLOCK) {
            int64_t n = seen - low < BLOCK ? seen - low : BLOCK;
            Candidates more = {all.keys + kept, all.supports + kept}, behind = more;
            for (int64_t t = 0; t < n; t++) {
                uint32_t j = touched[low + t] >> bits;
                more.supports[t] = narrow ? small[j] : large[j];
                if (narrow) small[j] = 0;
                else large[j] = 0;
            }
            for (int64_t t = 0; t < n; t++) {
                uint32_t target = touched[low + t], j = target >> bits, kind = kinds ? kinds[j] : target & mask;
                float weight = (float)((double)(int32_t)more.supports[t] * scales[kind] * scale);
                int64_t key = key_of(weight, (int32_t)j);
                more.keys[t] = j == (uint32_t)row ? 0 : key;
            }
            kept += bar ? keep_above(more, n, bar, behind) : n;
            if (kept > 2 * (int64_t)k + BLOCK) kept = thin(all, kept, k, &bar);
        }
        int64_t others = seen - (seen > 0); /* each mid of the row leads back to the row itself */
        int64_t size = others < k ? others : k;
        put(in_order(all, spare, kept, size), size, starts[r], out_indices, out_weights, out_support, narrow);
        out_lengths[r] = (int32_t)size;
    }
    free(all.keys);
    return 0;
}

/*
 * Unweighted walk: weight(row, j) = count(row, j) * scales[kind of j] * row_scale[row], rounded to float32; support
 * = count. Scales depend on degrees, of which there are few kinds: a table of them stays in cache, and weights are
 * exact float64 products. The row itself is left out. targets: ids, or, where kinds is NULL, what star_pack made of
 * them with as many bits. counters: n_targets zeros, uint16 (narrow: supports fit it) or uint32, left as zeros;
 * touched: n_targets + 1. Returns -1 when memory is short.
 */
FOR_EVERY_WIDTH
API int32_t star_count_rows(int64_t n_rows, const int32_t *rows, const int64_t *mid_indptr, const int32_t *mid_indices,
                            const int64_t *target_indptr, const uint32_t *targets, int32_t bits, const uint32_t *kinds,
                            const double *row_scale, const double *scales, int32_t k, void *counters, uint32_t *touched,
                            const int64_t *starts, int32_t *out_indices, float *out_weights, void *out_support,
                            int32_t narrow, int32_t *out_lengths) {
#define COUNT_ROWS(bits, kinds, narrow)                                                                             \
    count_rows(n_rows, rows, mid_indptr, mid_indices, target_indptr, targets, bits, kinds, row_scale, scales, k,    \
               counters, touched, starts, out_indices, out_weights, out_support, narrow, out_lengths)
    if (kinds) return narrow ? COUNT_ROWS(0, kinds, 1) : COUNT_ROWS(0, kinds, 0);
    return narrow ? COUNT_ROWS(bits, NULL, 1) : COUNT_ROWS(bits, NULL, 0);
#undef COUNT_ROWS
}

/*
 * Weighted walk: weight = sum over mids of mid_values[edge] * mid_factor[mid] * target_values[edge], times both
 * scales; support = number of mids. The three value arrays may be NULL (= 1). Targets listed in row own_rows[r] of
 * the own CSR are left out; when own_indptr is NULL the target own_rows[r] itself is. sums/counts: n_targets zeros,
 * left as zeros.
 */
FOR_EVERY_WIDTH
API int32_t star_weigh_rows(int64_t n_rows, const int32_t *rows, const int32_t *own_rows, const int64_t *mid_indptr,
                            const int32_t *mid_indices, const double *mid_values, const double *mid_factor,
                            const int64_t *target_indptr, const int32_t *target_indices, const double *target_values,
                            const int64_t *own_indptr, const int32_t *own_indices, const double *row_scale,
                            const double *target_scale, int32_t k, double *sums, uint32_t *counts, int32_t *touched,
                            const int64_t *starts, int32_t *out_indices, float *out_weights, void *out_support,
                            int32_t narrow, int32_t *out_lengths) {
    Candidates all, spare;
    allocate(k, &all, &spare);
    if (!all.keys) return -1;
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
        int64_t kept = 0, bar = 0;
        for (int64_t t = 0; t < seen; t++) {
            int32_t j = touched[t];
            int64_t key = key_of((float)(sums[j] * target_scale[j] * row_scale[row]), j);
            sums[j] = 0.0;
            all.keys[kept] = key;
            all.supports[kept] = counts[j];
            kept += (key > bar) & (counts[j] != 0);
            counts[j] = 0;
            if (kept == 2 * (int64_t)k + BLOCK) kept = thin(all, kept, k, &bar);
        }
        int64_t size = kept < k ? kept : k;
        put(in_order(all, spare, kept, size), size, starts[r], out_indices, out_weights, out_support, narrow);
        out_lengths[r] = (int32_t)size;
    }
    free(all.keys);
    return 0;
}
