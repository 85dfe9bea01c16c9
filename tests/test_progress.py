"""The live line: what it leaves behind."""

import io

import pytest

from star_rl.progress import ProgressLine, progress_line


def test_without_a_terminal_a_line_is_written_once_at_the_end():
    out = io.StringIO()
    line = ProgressLine("1/1 one ", out)
    line(1, 2, "half")
    line.end("ran")
    assert out.getvalue() == "1/1 one ran\n"


def test_the_last_line_says_how_the_block_ended(capsys):
    with progress_line("work") as line:
        line(1, 2, "half")
        line.say("a word")
    with pytest.raises(ValueError), progress_line("work"):
        raise ValueError
    assert capsys.readouterr().err == "a word\nwork  done\nwork  stopped\n"
