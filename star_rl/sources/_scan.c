/*
 * The native part of star_rl.sources: a few fields of JSON lines straight into Arrow's buffers.
 *
 * Plain C without the CPython API: ctypes loads it and releases the GIL, so ordinary Python threads scan blocks of a file
 * side by side. A line is either read here to its last byte by RFC 8259, or reported as odd and left whole to Python:
 * invalid JSON, lone surrogates, numbers that need rounding, keys that come twice or hold escapes, deep nesting. So
 * nothing is decided here that Python would decide otherwise.
 */
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

/* Bumped whenever a signature or a structure below changes, so that a stale build is refused. */
API int32_t star_scan_version(void) { return 5; }

#define DEEPEST 64

/* One wanted field: strings, and numbers as doubles (a value) or integers as their digits (else). Bitmaps are zeroed
 * here; offsets hold rows + 1 entries. */
typedef struct {
    const uint8_t *name;
    int64_t name_length;
    int64_t is_value;
    int32_t *offsets;
    uint8_t *data;
    uint8_t *valid;         /* bitmap of the strings */
    double *numbers;        /* of a value only */
    uint8_t *numbers_valid; /* bitmap */
    int64_t used;           /* bytes of data; out */
    int64_t texts;          /* valid strings; out */
    int64_t values;         /* valid numbers; out */
} Field;

typedef struct {
    Field *fields;
    int32_t row;
    int8_t head[64];
    int8_t next[64];
} Scan;

static inline int bucket(const uint8_t *name, int64_t length) {
    return length ? (int)((length * 7 + name[0] * 3 + name[length - 1]) & 63) : 0;
}

static inline const uint8_t *blank(const uint8_t *p) {
    while (*p == ' ' || *p == '\t' || *p == '\r') p++;
    return p;
}

/* First byte from p on that is a quote, a backslash, a control character or no ASCII. */
static inline const uint8_t *plain(const uint8_t *p) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(' ');
    for (;; p += 16) {
        __m128i w = _mm_loadu_si128((const __m128i *)p);
        /* signed: bytes of 128 and more are below the space, too */
        __m128i hit = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(w, quote), _mm_cmpeq_epi8(w, slash)),
                                   _mm_cmplt_epi8(w, space));
        int mask = _mm_movemask_epi8(hit);
        if (mask) return p + __builtin_ctz((unsigned)mask);
    }
#else
    while (*p != '"' && *p != '\\' && *p >= 0x20 && *p < 0x80) p++;
    return p;
#endif
}

/* Length of the well-formed UTF-8 sequence of two to four bytes at p, or 0. */
static inline int sequence(const uint8_t *p) {
    uint8_t a = p[0];
    if (a < 0xC2 || a > 0xF4 || (p[1] & 0xC0) != 0x80) return 0;
    if (a < 0xE0) return 2;
    if ((p[2] & 0xC0) != 0x80) return 0;
    if (a < 0xF0) {
        if ((a == 0xE0 && p[1] < 0xA0) || (a == 0xED && p[1] > 0x9F)) return 0;
        return 3;
    }
    if ((p[3] & 0xC0) != 0x80 || (a == 0xF0 && p[1] < 0x90) || (a == 0xF4 && p[1] > 0x8F)) return 0;
    return 4;
}

static inline int hex4(const uint8_t *p) {
    int value = 0;
    for (int k = 0; k < 4; k++) {
        int c = p[k], d;
        if (c >= '0' && c <= '9') d = c - '0';
        else if (c >= 'a' && c <= 'f') d = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F') d = c - 'A' + 10;
        else return -1;
        value = value << 4 | d;
    }
    return value;
}

/* The string whose opening quote lies before p: the byte after its closing quote, or NULL where it is odd.
 * out: NULL, or where its bytes go; *end then becomes the end of them. */
static const uint8_t *string(const uint8_t *p, uint8_t *out, uint8_t **end) {
    for (;;) {
        const uint8_t *q = plain(p);
        if (out) {
            memcpy(out, p, (size_t)(q - p));
            out += q - p;
        }
        p = q;
        if (*p == '"') {
            if (out) *end = out;
            return p + 1;
        }
        if (*p >= 0x80) {
            int length = sequence(p);
            if (!length) return NULL;
            if (out)
                for (int k = 0; k < length; k++) *out++ = p[k];
            p += length;
            continue;
        }
        if (*p != '\\') return NULL; /* a control character, or the end */
        uint8_t c;
        switch (p[1]) {
        case '"': c = '"'; break;
        case '\\': c = '\\'; break;
        case '/': c = '/'; break;
        case 'b': c = '\b'; break;
        case 'f': c = '\f'; break;
        case 'n': c = '\n'; break;
        case 'r': c = '\r'; break;
        case 't': c = '\t'; break;
        case 'u': {
            int code = hex4(p + 2);
            if (code < 0) return NULL;
            p += 6;
            if (code >= 0xD800 && code < 0xE000) {
                int low = code < 0xDC00 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2) : -1;
                if (low < 0xDC00 || low > 0xDFFF) return NULL; /* a lone surrogate */
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                p += 6;
            }
            if (!out) continue;
            if (code < 0x80) {
                *out++ = (uint8_t)code;
            } else if (code < 0x800) {
                *out++ = (uint8_t)(0xC0 | code >> 6);
                *out++ = (uint8_t)(0x80 | (code & 63));
            } else if (code < 0x10000) {
                *out++ = (uint8_t)(0xE0 | code >> 12);
                *out++ = (uint8_t)(0x80 | (code >> 6 & 63));
                *out++ = (uint8_t)(0x80 | (code & 63));
            } else {
                *out++ = (uint8_t)(0xF0 | code >> 18);
                *out++ = (uint8_t)(0x80 | (code >> 12 & 63));
                *out++ = (uint8_t)(0x80 | (code >> 6 & 63));
                *out++ = (uint8_t)(0x80 | (code & 63));
            }
            continue;
        }
        default: return NULL;
        }
        if (out) *out++ = c;
        p += 2;
    }
}

/* The number at p: the byte after it, or NULL. Parts are told for those who want its value. */
typedef struct {
    const uint8_t *digits; /* of the integer part */
    int64_t whole, fraction;
    int negative, exponent;
} Number;

static const uint8_t *number(const uint8_t *p, Number *n) {
    const uint8_t *first = p;
    n->negative = *p == '-';
    p += n->negative;
    n->digits = p;
    if (*p == '0') p++;
    else if (*p >= '1' && *p <= '9')
        while (*p >= '0' && *p <= '9') p++;
    else return NULL;
    n->whole = p - n->digits;
    n->fraction = 0;
    n->exponent = 0;
    if (*p == '.') {
        const uint8_t *start = ++p;
        while (*p >= '0' && *p <= '9') p++;
        n->fraction = p - start;
        if (!n->fraction) return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        n->exponent = 1;
        p++;
        if (*p == '+' || *p == '-') p++;
        if (*p < '0' || *p > '9') return NULL;
        while (*p >= '0' && *p <= '9') p++;
    }
    return p - first > 300 ? NULL : p; /* Python has a limit of digits and tells */
}

/* Any value at p: the byte after it, or NULL where it is odd. */
static const uint8_t *skip(const uint8_t *p, int depth) {
    Number n;
    switch (*p) {
    case '"': return string(p + 1, NULL, NULL);
    case 't': return p[1] == 'r' && p[2] == 'u' && p[3] == 'e' ? p + 4 : NULL;
    case 'f': return p[1] == 'a' && p[2] == 'l' && p[3] == 's' && p[4] == 'e' ? p + 5 : NULL;
    case 'n': return p[1] == 'u' && p[2] == 'l' && p[3] == 'l' ? p + 4 : NULL;
    case '{':
    case '[': {
        const int object = *p == '{', close = object ? '}' : ']';
        if (depth >= DEEPEST) return NULL;
        p = blank(p + 1);
        if (*p == close) return p + 1;
        for (;;) {
            if (object) {
                if (*p != '"' || !(p = string(p + 1, NULL, NULL))) return NULL;
                p = blank(p);
                if (*p != ':') return NULL;
                p = blank(p + 1);
            }
            if (!(p = skip(p, depth + 1))) return NULL;
            p = blank(p);
            if (*p == close) return p + 1;
            if (*p != ',') return NULL;
            p = blank(p + 1);
        }
    }
    default: return number(p, &n);
    }
}

static const double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18};

/* A wanted value at p into its field: the byte after it, or NULL where it is odd. */
static const uint8_t *take(const uint8_t *p, Field *f, int32_t row) {
    if (*p == '"') {
        uint8_t *start = f->data + f->used, *end = start;
        p = string(p + 1, start, &end);
        if (p) {
            f->used += end - start;
            f->texts++;
            f->valid[row >> 3] |= (uint8_t)(1 << (row & 7));
        }
        return p;
    }
    if (*p != '-' && (*p < '0' || *p > '9')) return skip(p, 1); /* no string, no number: as if absent */
    Number n;
    p = number(p, &n);
    if (!p || n.exponent || n.whole + n.fraction > 18) return NULL;
    uint64_t mantissa = 0;
    for (int64_t k = 0; k < n.whole; k++) mantissa = mantissa * 10 + (uint64_t)(n.digits[k] - '0');
    if (!f->is_value) {
        if (n.fraction) return NULL;
        uint8_t *out = f->data + f->used;
        if (n.negative && mantissa) *out++ = '-';
        memcpy(out, n.digits, (size_t)n.whole);
        f->used = out + n.whole - f->data;
        f->texts++;
        f->valid[row >> 3] |= (uint8_t)(1 << (row & 7));
        return p;
    }
    for (int64_t k = 0; k < n.fraction; k++) mantissa = mantissa * 10 + (uint64_t)(n.digits[n.whole + 1 + k] - '0');
    if (mantissa > (1ull << 53)) return NULL;
    /* Both operands are exact, so the quotient is the nearest double, as Python's. */
    double value = (double)mantissa / POWERS[n.fraction];
    f->numbers[row] = n.negative && mantissa ? -value : value;
    f->values++;
    f->numbers_valid[row >> 3] |= (uint8_t)(1 << (row & 7));
    return p;
}

/* The object at p to the end of its line, or NULL where it is odd. */
static const uint8_t *object(const uint8_t *p, Scan *s) {
    uint64_t seen = 0;
    p = blank(p);
    if (*p != '{') return NULL;
    p = blank(p + 1);
    if (*p == '}') return blank(p + 1);
    for (;;) {
        if (*p != '"') return NULL;
        const uint8_t *name = ++p;
        p = plain(p);
        if (*p != '"') return NULL; /* escapes and other alphabets: Python compares them */
        const int64_t length = p - name;
        p = blank(p + 1);
        if (*p != ':') return NULL;
        p = blank(p + 1);
        int k = s->head[bucket(name, length)];
        while (k >= 0 && (s->fields[k].name_length != length || memcmp(s->fields[k].name, name, (size_t)length)))
            k = s->next[k];
        if (k < 0) {
            p = skip(p, 1);
        } else {
            if (seen >> k & 1) return NULL;
            seen |= 1ull << k;
            p = take(p, s->fields + k, s->row);
        }
        if (!p) return NULL;
        p = blank(p);
        if (*p == '}') return blank(p + 1);
        if (*p != ',') return NULL;
        p = blank(p + 1);
    }
}

/*
 * Scan `size` bytes of lines, followed by 64 zeros. For each row read: the number of its line from 0 in `lines`; for each
 * odd line that is not empty: number, first byte and end in `odd` (three entries a line). Returns the rows; counts[0] =
 * lines, counts[1] = odd lines. At most 63 fields.
 */
API int32_t star_scan_lines(const uint8_t *block, int64_t size, Field *fields, int32_t n_fields, int32_t *lines,
                            int64_t *odd, int64_t *counts) {
    Scan s = {fields, 0, {0}, {0}};
    memset(s.head, -1, sizeof s.head);
    for (int k = 0; k < n_fields; k++) {
        const int b = bucket(fields[k].name, fields[k].name_length);
        s.next[k] = s.head[b];
        s.head[b] = (int8_t)k;
        fields[k].used = fields[k].texts = fields[k].values = 0;
    }
    const uint8_t *p = block, *stop = block + size;
    int64_t line = 0, n_odd = 0, used[64], texts[64], values[64];
    while (p < stop) {
        const uint8_t *start = p;
        const int32_t row = s.row;
        if (!(row & 7))
            for (int k = 0; k < n_fields; k++) {
                fields[k].valid[row >> 3] = 0;
                if (fields[k].is_value) fields[k].numbers_valid[row >> 3] = 0;
            }
        for (int k = 0; k < n_fields; k++) {
            used[k] = fields[k].used;
            texts[k] = fields[k].texts;
            values[k] = fields[k].values;
            fields[k].offsets[row] = (int32_t)used[k];
            if (fields[k].is_value) fields[k].numbers[row] = 0.0;
        }
        const uint8_t *q = object(p, &s);
        if (q && (q == stop || *q == '\n')) {
            lines[s.row++] = (int32_t)line;
            p = q + 1;
        } else {
            const uint8_t mask = (uint8_t) ~(1 << (row & 7));
            for (int k = 0; k < n_fields; k++) {
                fields[k].used = used[k];
                fields[k].texts = texts[k];
                fields[k].values = values[k];
                fields[k].valid[row >> 3] &= mask;
                if (fields[k].is_value) fields[k].numbers_valid[row >> 3] &= mask;
            }
            const uint8_t *end = memchr(start, '\n', (size_t)(stop - start));
            if (!end) end = stop;
            if (end > start) {
                odd[3 * n_odd] = line;
                odd[3 * n_odd + 1] = start - block;
                odd[3 * n_odd + 2] = end - block;
                n_odd++;
            }
            p = end + 1;
        }
        line++;
    }
    for (int k = 0; k < n_fields; k++) fields[k].offsets[s.row] = (int32_t)fields[k].used;
    counts[0] = line;
    counts[1] = n_odd;
    return s.row;
}
