import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def endpoint():
    """The module tests/chat/endpoint.py."""
    spec = importlib.util.spec_from_file_location("star_rl_test_endpoint", Path(__file__).with_name("endpoint.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
