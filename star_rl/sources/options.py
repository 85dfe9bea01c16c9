"""Options that every source takes."""

from __future__ import annotations

from pathlib import Path

from star_rl.options import Share, Size, options
from star_rl.progress import Progress
from star_rl.sources.sink import Sink


@options
class Common:
    """Options that every source takes."""

    #: Largest share of bad rows of a table that is dropped and counted; more fails the run.
    max_bad_share: Share = 0.01
    #: Mebibytes of buffered interactions before they are spilled to disk. Affects speed only.
    memory_mb: Size = 64

    def sink(self, out_dir: Path, source: str, progress: Progress | None, time: str = "seconds") -> Sink:
        """Return a sink with these options."""
        memory = self.memory_mb << 20
        return Sink(out_dir, source, time=time, max_bad_share=self.max_bad_share, memory=memory, progress=progress)
