import gzip
import json
import random

import pyarrow as pa
import pytest

from star_rl.errors import StarError
from star_rl.sources.jsonlines import Reader, read_blocks
from star_rl.sources.lines import blocks
from star_rl.sources.scan import Fields, Scanner, scanner_available

FIELDS = Fields(("user_id", "text"), ("timestamp", "stars"))
native = pytest.mark.skipif(not scanner_available(), reason="star_rl.sources._scan was not built")


def rows_of(path, reader, size=1 << 20):
    """Every row with its line number, and every bad line, of a file read in blocks of ``size``."""
    rows, bad, count = [], [], 0
    for line, raw in blocks(path, size):
        block = reader(raw)
        count += block.count
        columns = {name: block.text(name).to_pylist() for name in reader.fields.texts}
        for name in reader.fields.values:
            column = block.columns[name]
            empty = [None] * len(block.lines)
            columns[name] = list(
                zip(
                    empty if column.text is None else column.text.to_pylist(),
                    empty if column.number is None else map(repr, column.number.to_pylist()),
                    strict=True,
                )
            )
            columns[name] = [(text, None if number == "None" else number) for text, number in columns[name]]
        for k, number in enumerate(block.lines.tolist()):
            rows.append((line + number, *(column[k] for column in columns.values())))
        bad += [(line + number, reason) for number, reason in block.bad]
    return rows, bad, count


def ways():
    """The scanner with Python behind it (where it was built), and Python alone."""
    if scanner_available():
        yield Reader(FIELDS, native=True)
    yield Reader(FIELDS, native=False)


STRINGS = [
    '"plain"',
    '""', '"a\\"b"', '"back\\\\slash"', '"tab\\tnew\\nline\\r\\b\\f\\/"', '"\\u00e9\\u20AC"', '"\\ud83d\\ude00"',
    '"\\ud83d"',
    '"\\ude00\\ud83d"', '"\\ud83dx"', '"\\u12"', '"\\x41"', '"Ünïcödé €😀"', '"nul\\u0000byte"', '"</tool_call>"',
    '"raw\ttab"', '"open', '"' + "long " * 60 + '"', '"' + "é" * 40 + '"', '"sixteen bytes..."', '"\u2028"', "'single'",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "5", "-5", "5.0", "4.5", "-4.25", "0.1", "3.7", "1600000000000", "1600000000000000", "9007199254740992",
    "9007199254740993", "123456789012345678", "1234567890123456789", "18446744073709551616", "1e3", "1E-5", "1.5e+2",
    "1e400", "0.30000000000000004", "123456.789012345678", "01", "+1", ".5", "5.", "1e", "-", "NaN", "Infinity",
    "-Infinity", "9" * 400, "1_000", "0x10",
]  # fmt: skip
OTHERS = [
    "null",
    "true", "false", "nul", "[]", "{}", '[1, "a", {"b": [null]}]', '{"user_id": "inner"}', "[1,]", "[" * 70 + "]" * 70,
    "[" * 1500 + "]" * 1500, '{"a":1,}', '{"a" 1}', "",
]  # fmt: skip
KEYS = ['"user_id"', '"text"', '"timestamp"', '"stars"', '"other"', '"\\u0075ser_id"', '"é"', '""', "user_id"]


def nasty_line(rng):
    pairs = []
    for _ in range(rng.randint(0, 6)):
        key = rng.choice(KEYS[:5]) if rng.random() < 0.93 else rng.choice(KEYS)
        value = rng.choice(rng.choice([STRINGS, NUMBERS, OTHERS]))
        blank = rng.choice(["", " ", "\t", " \r "])
        pairs.append(f"{blank}{key}{blank}:{blank}{value}{blank}")
    line = "{" + ",".join(pairs) + "}"
    kind = rng.random()
    if kind < 0.02:
        line = line[: rng.randint(0, len(line))]
    elif kind < 0.04:
        line += rng.choice(["x", ",", "{}", " ", "\r", "\x00", "\x0b", "]"])
    elif kind < 0.06:
        line = rng.choice(["", " ", "\t\r", "\x0c", "[1]", "7", '"a"', "null", "NaN", "{", "}", "\ufeff{}"])
    raw = line.encode("utf-8", "surrogatepass")
    if rng.random() < 0.04 and raw:
        at = rng.randrange(len(raw))
        raw = (
            raw[:at]
            + rng.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\x80"])
            + raw[at:]
        )
    return raw.replace(b"\n", b" ")


@pytest.mark.parametrize("seed", range(6))
def test_all_readers_make_the_same_of_nasty_lines(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "lines.json"
    body = b"\n".join(nasty_line(rng) for _ in range(3000))
    path.write_bytes((b"\xef\xbb\xbf" if seed % 2 else b"") + body + (b"\n" if seed % 3 else b""))
    first, *others = [rows_of(path, reader, size) for reader in ways() for size in (4096, 1 << 24)]
    assert len(first[0]) > 500 and len(first[1]) > 500
    assert {reason for _, reason in first[1]} == {"not JSON", "not a JSON object", "invalid UTF-8"}
    for other in others:
        assert other == first


@pytest.mark.parametrize("seed", range(3))
def test_all_readers_make_the_same_of_proper_lines_of_all_kinds(tmp_path, seed):
    rng = random.Random(seed)
    letters = 'abc"\\/\n\t é€😀\u2028\x7f' + "x" * 20

    def row():
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 90)))
        stamp = rng.choice([-0.0, rng.randint(-(10**6), 2**53), rng.random() * 1e10, str(rng.randint(0, 10**10)), None])
        out = {"user_id": rng.choice([text[:9], rng.randint(-(10**17), 10**17)]), "text": text, "timestamp": stamp}
        out |= {"stars": round(rng.random() * 5, rng.randint(0, 6)), "more": [{"a": [text]}, None, True, 1.5e-9]}
        return json.dumps(out, ensure_ascii=rng.random() < 0.5)

    path = tmp_path / "lines.json"
    path.write_text("".join(row() + "\n" for _ in range(2000)), encoding="utf-8")
    found = [rows_of(path, reader, size) for reader in ways() for size in (1000, 1 << 24)]
    assert len(found[0][0]) == 2000 and not found[0][1]
    assert all(other == found[0] for other in found)


@native
def test_proper_lines_never_reach_python(monkeypatch, tmp_path):
    def fail(*_):
        raise AssertionError("a proper line was read by Python")

    monkeypatch.setattr(Reader, "_slow", fail)
    rows = [{"user_id": "é\n", "text": 'a\\"😀', "timestamp": 16e11 + k, "stars": k / 8} for k in range(100)]
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, bad, _ = rows_of(tmp_path / "lines.json", Reader(FIELDS, native=True))
    assert not bad and found[99] == (100, "é\n", 'a\\"😀', (None, "1600000000099.0"), (None, "12.375"))


@native
def test_the_scanner_stays_within_its_block():
    rng = random.Random(7)
    scanner = Scanner(FIELDS)
    whole = b'{"user_id": "a\\u00e9\\ud83d\\ude00", "text": "\xc3\xa9 \xf0\x9f\x98\x80", "timestamp": -12.5e3'
    whole += b', "stars": [true, {"a": null}]}'
    for cut in range(len(whole) + 1):
        for tail in (b"", b"\xf0", b"\\", b"\\u00"):
            block = whole[:cut] + tail
            _, lines, _, odd = scanner.scan(block)
            assert len(lines) + len(odd) == (1 if block else 0)
            assert all(0 <= start < stop <= len(block) for _, start, stop in odd.tolist())
    for _ in range(300):
        block = bytes(rng.choices(b'{}[]":,\\utrue0123e.-\n \xc3\xa9\x00', k=rng.randint(0, 300)))
        assert scanner.scan(block)[0] == len(block.split(b"\n")) - (not block.split(b"\n")[-1])


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1 << 20])
@pytest.mark.parametrize(
    "body", [b"", b"\n", b"a\nbb\n\nccc", b"a\n" * 50, b"x" * 5000 + b"\ny\n", b"\xef\xbb\xbfa\nb"]
)
def test_blocks_are_whole_lines_and_lose_nothing(tmp_path, body, size):
    (tmp_path / "f").write_bytes(body)
    (tmp_path / "f.gz").write_bytes(gzip.compress(body))
    found = list(blocks(tmp_path / "f", size))
    assert found == list(blocks(tmp_path / "f.gz", size))
    assert b"".join(block for _, block in found) == body.removeprefix(b"\xef\xbb\xbf")
    assert all(block.endswith(b"\n") for _, block in found[:-1])
    assert all(line == 1 + body[: body.find(block)].count(b"\n") for line, block in found if body.count(block) == 1)


def test_blocks_come_in_the_order_of_the_file_and_a_damaged_gzip_file_is_told(tmp_path):
    packed = gzip.compress(b"".join(b'{"user_id": "%d"}\n' % k for k in range(200_000)), 1)
    reader = Reader(Fields(("user_id",)))
    (tmp_path / "f.gz").write_bytes(packed)
    found = []
    for line, block, ids in read_blocks(tmp_path / "f.gz", reader, lambda b: b.text("user_id").to_pylist()):
        assert ids[0] == str(line - 1) and len(ids) == block.count
        found += ids
    assert found == list(map(str, range(200_000)))
    (tmp_path / "f.gz").write_bytes(packed[:-100])
    with pytest.raises(StarError, match="damaged gzip file"):
        list(read_blocks(tmp_path / "f.gz", reader, lambda block: None))


def test_an_error_of_the_work_is_raised_to_the_caller(tmp_path):
    (tmp_path / "f").write_bytes(b"{}\n")
    with pytest.raises(ZeroDivisionError):
        list(read_blocks(tmp_path / "f", Reader(Fields(("a",))), lambda block: 1 / 0))
    with pytest.raises(StarError, match="no file"):
        list(read_blocks(tmp_path / "none", Reader(Fields(("a",))), lambda block: pa.nulls(0)))
