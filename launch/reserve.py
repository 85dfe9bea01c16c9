"""Hold the GPUs of a process that Ray did not start, so that Ray gives them to nobody else meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from star_rl.errors import StarError


@contextlib.contextmanager
def gpus(count: int, address: str = "auto", seconds: float = 60.0) -> Iterator[None]:
    """Hold ``count`` GPUs of this node in the running cluster; 0 holds nothing.

    Raises:
        StarError: they do not become free in time.
    """
    if not count:
        yield
        return
    import ray
    from ray.util import placement_group, remove_placement_group

    joined = not ray.is_initialized()
    if joined:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        here = f"node:{ray.util.get_node_ip_address()}"
        group = placement_group([{"GPU": 1}] * (count - 1) + [{"GPU": 1, here: 0.001}], "STRICT_PACK")
        try:
            if not group.wait(seconds):
                raise StarError(
                    f"SFT runs on {count} GPUs of this node, and other jobs hold some of them",
                    "wait for these jobs or stop them (star-rl status), then star-rl resume",
                )
            yield
        finally:
            remove_placement_group(group)
    finally:
        if joined:
            ray.shutdown()
