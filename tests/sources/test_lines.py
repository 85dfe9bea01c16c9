import gzip

import pytest

from star_rl.errors import StarError
from star_rl.sources.lines import blocks, encoding_of, first_line

TEXT = "id;title\n1;Été à la plage\n2;Fräulein Smillas Gespür für Schnee\n3;Niño – “mañana”\n4;plain\n"


def read(path, **more):
    return b"".join(block for _, block in blocks(path, **more)).decode()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_are_detected(tmp_path, packed, encoding, end):
    raw = TEXT.replace("\n", end).encode(encoding)
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert read(path, size=8).replace("\r\n", "\n") == TEXT
    assert first_line(path) == "id;title"
    assert [line for line, _ in blocks(path, 1)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "raw, name",
    [
        ("1::Les Misérables::Drame\n".encode("latin-1"), "cp1252"),
        (b"caf\xe9 \x81x\n", "latin-1"),
        ("“Smart” – it’s\n".encode("cp1252"), "cp1252"),
        ("Пример 本 😀\n".encode(), "utf-8"),
        (b"plain\n", "utf-8"),
        (b"", "utf-8"),
        (b"a \xff\n", "utf-8"),
        ("Été\n".encode() * 9 + b"caf\xe9\n", "utf-8"),
    ],
)
def test_the_codec_of_a_file(tmp_path, raw, name):
    (tmp_path / "f").write_bytes(raw)
    assert encoding_of(tmp_path / "f") == (name, False)


def test_a_damaged_line_of_a_utf_8_file_keeps_its_bytes(tmp_path):
    raw = "Été\r".encode() * 9 + b"caf\xe9\rx"
    (tmp_path / "f").write_bytes(raw)
    assert b"".join(block for _, block in blocks(tmp_path / "f")) == raw.replace(b"\r", b"\n")


def test_an_encoding_may_be_named(tmp_path):
    (tmp_path / "f").write_bytes("Пример\n".encode("cp1251"))
    assert read(tmp_path / "f", encoding="cp1251") == "Пример\n"


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(StarError, match="no file"):
        list(blocks(tmp_path / "none"))
